import { cpus } from 'node:os';
import { UserError } from '../../../errors.js';
import type { Package } from '../../../package/read.js';
import { VERSION } from '../../../version.js';
import { TrainingSession } from '../../session/session.js';
import type { Calibration } from '../calibration.js';
import type { Cluster } from '../cluster.js';
import { worldOf } from '../cluster.js';
import type { CostModel } from '../cost.js';
import { describeMachine, localCluster } from '../machine.js';
import { physicalCost, rowsPerToken, UNCALIBRATED, type ProgramWork } from '../physical-cost.js';
import { workOf } from '../work.js';
import { measureCollectives, type CollectiveFit } from './collectives.js';
import { errorOf } from './fit.js';
import { heldOutPlans, measureHeldOut } from './held-out.js';
import {
  aloneFactor,
  coefficientsOf,
  elapsedOver,
  fitMicroBatches,
  normalised,
  slowerCluster,
  stepWorkMs,
} from './model.js';
import { measureSamples } from './samples.js';
import { stageOf } from './stage.js';

export interface CalibrateOptions {
  readonly ranks: number;
  /** What the ranks are part of: memory, further nodes and the network between them. Default: this machine alone. */
  readonly cluster?: Cluster;
  /** About how long it may take. */
  readonly seconds: number;
  /** @param share of the whole: 0 … 1 */
  onProgress?(what: string, share: number): void;
  isStopped?(): boolean;
}

/** Parts of the time there is. */
const SHARES = { collectives: 0.15, samples: 0.5, heldOut: 0.25 };
const MOST_DEGREES = 5;

/**
 * Measures what ranks of this machine do with a package, all of them at the same time: collectives by themselves,
 * micro-batches of several degrees, sizes and mixes of lengths; fits a cost model to them, and tries it on plans that
 * it was not fitted to.
 *
 * Work is timed on the cores, which other processes disturb little; how much longer a step takes on the clock is one
 * more factor, and ranks that share cores are known to (`sharing`).
 *
 * @returns nothing when it was stopped
 * @throws UserError for ranks that do not fit the cluster, or a model that does not fit their memory
 */
export async function calibrate(pkg: Package, options: CalibrateOptions): Promise<Calibration | undefined> {
  const { ranks, seconds, isStopped = () => false, onProgress = () => {} } = options;
  const machine = describeMachine();
  const cluster = options.cluster ?? localCluster(ranks, machine);
  const crowd = Math.max(1, ranks / machine.cores);
  checkRanks(ranks, cluster);
  const work = workOf(pkg, ranks);
  const degrees = degreesOf(ranks, work.heads);
  const guess = physicalCost(work, cluster, UNCALIBRATED, { ranks, degrees });
  checkMemory(guess, degrees, work, cluster);
  const begin = { ms: performance.now(), ...processTimes() };

  onProgress('collectives', 0);
  const collectives = await measureCollectives({
    ranks,
    degrees,
    limitMs: 1000 * seconds * SHARES.collectives,
    onSample: (done, of) => onProgress('collectives', (SHARES.collectives * done) / of),
    isStopped,
  });
  if (isStopped()) return undefined;

  onProgress('starting ranks', SHARES.collectives);
  const absent = pkg.manifest.parameters.some(({ weight }) => weight.kind === 'absent');
  const session = await TrainingSession.open(pkg, { ranks, weights: absent ? 'zero' : 'package' });
  try {
    const stage = stageOf(session, guess.pairs);
    const samples = await measureSamples(stage, guess, {
      degrees,
      limitMs: 1000 * seconds * SHARES.samples,
      crowd,
      onSample: (share) => onProgress('micro-batches', SHARES.collectives + 0.05 + SHARES.samples * share),
      isStopped,
    });
    if (isStopped()) return undefined;

    const local = withLinks(cluster, collectives);
    const priced = (on: Cluster, coefficients = UNCALIBRATED): CostModel =>
      physicalCost(
        { ...work, peakBytes: (degree, tokens) => guess.memoryBytes(degree, tokens) },
        on,
        coefficients,
        {
          ranks,
          degrees,
        },
      );
    const fit = fitMicroBatches(samples.microBatches, priced({ ...local, launchUs: 0 }), (degree) =>
      rowsPerToken(work, degree),
    );
    const rate = normalised({ ...local, launchUs: 0 }, fit);
    const inWork = coefficientsOf({ ...fit, ...rate }, settleFactor(collectives, local));
    const withoutStep = priced(rate.cluster, inWork);
    // Earlier steps also compile what later ones find compiled.
    const warm = samples.steps.slice(Math.floor(samples.steps.length / 2));
    // What is not known to be traffic of the world is a constant.
    const stepMs = Math.max(0, stepWorkMs(warm, withoutStep) - withoutStep.stepMs);
    const workCoefficients = { ...inWork, stepMs };
    const alone = aloneFactor(samples.alone, priced(rate.cluster, workCoefficients));
    const workModel = priced(rate.cluster, { ...workCoefficients, sharing: alone });
    const sharing = Math.min(ranks, crowd * alone);
    const shared = slower(rate.cluster, { ...workCoefficients, sharing }, crowd);
    const elapsed = elapsedOver(warm, priced(shared.cluster, shared.coefficients));
    const { cluster: measured, coefficients } = slower(shared.cluster, shared.coefficients, elapsed);
    const model = priced(measured, coefficients);

    const plans = heldOutPlans(
      guessed(model, guess),
      degrees,
      Math.max(16, samples.mostPerRank / 2),
      stage.maxDocument,
    );
    const heldOut = await measureHeldOut(stage, { model, work: workModel }, plans, {
      limitMs: 1000 * seconds * SHARES.heldOut,
      onPlan: (share) => onProgress('plans to check it', 1 - SHARES.heldOut * (1 - share)),
      isStopped,
    });
    if (isStopped()) return undefined;
    return {
      format: 'ithaca-calibration',
      version: 1,
      ithaca: VERSION,
      package: { name: pkg.manifest.name, hash: pkg.hash },
      ranks,
      machine,
      cluster: { ...measured, name: options.cluster?.name ?? 'local' },
      coefficients,
      measured: {
        seconds: (performance.now() - begin.ms) / 1000,
        othersShare: othersShare(begin, machine.cores),
        elapsed,
        microBatches: fit.error,
        steps: errorOf(heldOut.map((plan) => [plan.predictedMs, plan.measuredMs])),
        work: errorOf(heldOut.map((plan) => [plan.predictedWorkMs, plan.measuredWorkMs])),
        collectives: collectives.map((one) => ({ ...one, samples: [...one.samples] })),
        samples: samples.microBatches.map((sample, i) => ({ ...sample, predictedMs: fit.predictedMs[i]! })),
        heldOut: [...heldOut],
      },
    };
  } finally {
    await session.close();
  }
}

/** Powers of two, all ranks, and a degree that leaves heads uneven; few, so that each is measured several times. */
export function degreesOf(ranks: number, heads: number): readonly number[] {
  const most = Math.min(ranks, heads);
  const powers = Array.from({ length: 31 }, (_, k) => 2 ** k).filter((degree) => degree <= most);
  const uneven = [3, 5, 6, 7].find((degree) => degree < most && heads % degree !== 0);
  const all = [...new Set([...powers, most, ...(uneven === undefined ? [] : [uneven])])].sort(
    (a, b) => a - b,
  );
  // Those in the middle say least.
  while (all.length > MOST_DEGREES) all.splice(Math.floor(all.length / 2), 1);
  return all;
}

function checkRanks(ranks: number, cluster: Cluster): void {
  if (ranks === worldOf(cluster) || ranks === cluster.ranksPerNode) return;
  throw new UserError(
    `${ranks} ranks are neither a node of ${cluster.name} (${cluster.ranksPerNode}) nor all of it (${worldOf(cluster)})`,
    `measure a whole node: --ranks ${cluster.ranksPerNode}`,
  );
}

function checkMemory(
  model: CostModel,
  degrees: readonly number[],
  work: ProgramWork,
  cluster: Cluster,
): void {
  if (model.degrees.length === degrees.length) return;
  const gib = (work.peakBytes(degrees[0]!, 1) / 2 ** 30).toPrecision(3);
  throw new UserError(
    `${work.name} needs ${gib} GiB on a rank for a single token, a rank has ${cluster.memoryGibPerRank.toPrecision(3)}`,
    'use fewer ranks on this machine, or compile with zeroStage 1',
  );
}

/** The rates of all-to-alls, on a core; what a link between nodes does is not measured here. */
function withLinks(cluster: Cluster, collectives: readonly CollectiveFit[]): Cluster {
  const found = collectives.find(({ kind }) => kind === 'all-to-all');
  if (found === undefined) return cluster;
  const node = { gibPerSecond: found.gibPerSecond, latencyUs: found.latencyUs };
  return {
    ...cluster,
    collectiveUs: found.callUs,
    links: { node, network: cluster.nodes === 1 ? node : cluster.links.network },
  };
}

/** Bytes of sums and gathers take this much longer than those of all-to-alls. */
function settleFactor(collectives: readonly CollectiveFit[], { links }: Cluster): number {
  const rates = collectives.flatMap(({ kind, gibPerSecond }) =>
    kind === 'reduce-scatter' || kind === 'all-gather' ? [gibPerSecond] : [],
  );
  if (rates.length === 0) return 1;
  return rates.reduce((sum, rate) => sum + links.node.gibPerSecond / rate, 0) / rates.length;
}

/** All that was measured takes `factor` times as long. */
function slower(
  cluster: Cluster,
  coefficients: Calibration['coefficients'],
  factor: number,
): { cluster: Cluster; coefficients: Calibration['coefficients'] } {
  const { microBatchMs, stepMs, exchangeRowUs } = coefficients;
  return {
    cluster: slowerCluster(cluster, factor),
    coefficients: {
      ...coefficients,
      microBatchMs: microBatchMs * factor,
      stepMs: stepMs * factor,
      exchangeRowUs: exchangeRowUs * factor,
    },
  };
}

/** What a group holds does not depend on how fast it is. */
const guessed = (model: CostModel, guess: CostModel): CostModel => ({
  ...model,
  degrees: model.degrees.map((cost, i) => ({ ...cost, capacity: guess.degrees[i]!.capacity })),
});

interface Times {
  readonly busyMs: number;
  readonly ownMs: number;
}

/** Of all cores of the machine since it started, and of this process. */
function processTimes(): Times {
  const { user, system } = process.cpuUsage();
  const busyMs = cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0);
  return { busyMs, ownMs: (user + system) / 1000 };
}

/** The part of the cores that other processes used meanwhile: 0 … 1. */
function othersShare(begin: Times & { readonly ms: number }, cores: number): number {
  const { busyMs, ownMs } = processTimes();
  const others = busyMs - begin.busyMs - (ownMs - begin.ownMs);
  return Math.min(1, Math.max(0, others / ((performance.now() - begin.ms) * cores)));
}
