import { groupMs, type CostModel, type DegreeCost } from '../cost.js';
import type { Cluster } from '../cluster.js';
import { UNCALIBRATED, type Coefficients } from '../physical-cost.js';
import { predictStepMs } from '../predict.js';
import { dot, errorOf, fitFactors, median, type FitError } from './fit.js';
import type { MicroBatchSample } from './samples.js';
import type { MeasuredStep } from './stage.js';

/** Factors of the terms of a cost model with all factors 1, in the order of {@link termsOf}. */
interface MicroBatchFit {
  readonly compute: number;
  readonly attention: number;
  readonly exchange: number;
  readonly latency: number;
  readonly exchangeRowUs: number;
  readonly microBatchMs: number;
  readonly error: FitError;
  /** By sample. */
  readonly predictedMs: readonly number[];
}

/**
 * What a rank of a group does, by cause. The sum of the first four is `groupMs` without overlap.
 * @param rows pieces of rows that it sends, a token
 */
function termsOf(cost: DegreeCost, { tokens, pairs }: MicroBatchSample, rows: number): number[] {
  return [
    cost.msPerToken * tokens,
    cost.msPerPair * pairs,
    cost.exchangeMsPerToken * tokens,
    cost.exchangeMs,
    (rows * tokens) / 1000,
    1,
  ];
}

/** @param unit the package on the cluster whose rates the factors are relative to, all factors 1 */
export function fitMicroBatches(
  samples: readonly MicroBatchSample[],
  unit: CostModel,
  rowsPerToken: (degree: number) => number,
): MicroBatchFit {
  const costs = new Map(unit.degrees.map((cost) => [cost.degree, cost]));
  const rows = samples.map((sample) => ({
    terms: termsOf(costs.get(sample.degree)!, sample, rowsPerToken(sample.degree)),
    measured: sample.ms,
  }));
  const factors = fitFactors(rows);
  const predictedMs = rows.map(({ terms }) => dot(terms, factors));
  const [compute = 1, attention = 1, exchange = 1, latency = 1, exchangeRowUs = 0, microBatchMs = 0] =
    factors;
  // Alone, ranks exchange nothing: there was nothing to fit.
  const exchanged = rows.some(({ terms }) => terms[2]! > 0);
  return {
    compute,
    attention,
    exchange: exchanged ? exchange : 1,
    latency: exchanged ? latency : 1,
    exchangeRowUs,
    microBatchMs,
    error: errorOf(rows.map(({ measured }, i) => [predictedMs[i]!, measured])),
    predictedMs,
  };
}

/** Work of a step beside its micro-batches, on each rank: those of a step share it evenly. */
export function stepWorkMs(steps: readonly MeasuredStep[], model: CostModel): number {
  const costs = new Map(model.degrees.map((cost) => [cost.degree, cost]));
  return Math.max(
    0,
    median(
      steps.map(({ loads, processCpuMs }) => {
        const busy = loads.flat().reduce((sum, { ranks, tokens, pairs }) => {
          const cost = costs.get(ranks.length);
          const ms = cost === undefined ? 0 : groupMs(cost, tokens, pairs);
          return sum + ranks.length * (model.microBatchMs + ms);
        }, 0);
        return (processCpuMs - busy) / model.ranks;
      }),
    ),
  );
}

/**
 * How much faster a rank works while others wait, beside what sharing cores does: hardware threads share a core's
 * units, cores share memory. At least 1.
 * @param model times on a core
 */
export function aloneFactor(alone: readonly MicroBatchSample[], model: CostModel): number {
  const cost = model.degrees.find(({ degree }) => degree === 1);
  if (cost === undefined || alone.length === 0) return 1;
  const ratios = alone.map(
    ({ tokens, pairs, ms }) => (model.microBatchMs + groupMs(cost, tokens, pairs)) / Math.max(ms, 1e-6),
  );
  return Math.max(1, median(ratios));
}

/**
 * How much longer steps take than the work of the ranks on the cores there are: waits, and other processes. Half of
 * the time is in steps for which it is more, half in those for which it is less.
 */
export function elapsedOver(steps: readonly MeasuredStep[], model: CostModel): number {
  const ratios = steps
    .map(({ loads, ms }) => ({ weight: ms, ratio: ms / predictStepMs(loads, model) }))
    .sort((a, b) => a.ratio - b.ratio);
  let left = ratios.reduce((sum, { weight }) => sum + weight, 0) / 2;
  return ratios.find(({ weight }) => (left -= weight) <= 0)?.ratio ?? 1;
}

/** All times of a model, `factor` times as long. */
export function slowerCluster(cluster: Cluster, factor: number): Cluster {
  const { node, network } = cluster.links;
  const slower = ({ gibPerSecond, latencyUs }: typeof node): typeof node => ({
    gibPerSecond: gibPerSecond / factor,
    latencyUs: latencyUs * factor,
  });
  return {
    ...cluster,
    teraflopsPerRank: cluster.teraflopsPerRank / factor,
    launchUs: cluster.launchUs * factor,
    collectiveUs: cluster.collectiveUs * factor,
    links: { node: slower(node), network },
  };
}

/** The same times, with the rate of the cluster set to what was measured where anything was. */
export function normalised(
  cluster: Cluster,
  fit: Pick<Coefficients, 'compute' | 'attention'>,
): { cluster: Cluster; compute: number; attention: number } {
  if (!(fit.compute > 0)) return { cluster, ...fit };
  return {
    cluster: { ...cluster, teraflopsPerRank: cluster.teraflopsPerRank / fit.compute },
    compute: 1,
    attention: fit.attention / fit.compute,
  };
}

export const coefficientsOf = (fit: MicroBatchFit, settle: number): Coefficients => ({
  ...UNCALIBRATED,
  compute: fit.compute,
  attention: fit.attention,
  exchange: fit.exchange,
  latency: fit.latency,
  exchangeRowUs: fit.exchangeRowUs,
  microBatchMs: fit.microBatchMs,
  settle,
});
