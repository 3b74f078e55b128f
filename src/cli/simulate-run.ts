import { UserError } from '../errors.js';
import type { Manifest } from '../package/manifest.js';
import { openPackage } from '../package/read.js';
import { readLengths } from '../runtime/data/lengths/read.js';
import { loadCalibration, requireFits, type Calibration } from '../runtime/planner/calibration.js';
import { readCluster, worldOf, type Cluster } from '../runtime/planner/cluster.js';
import { restrictDegrees, type CostModel } from '../runtime/planner/cost.js';
import { flexSpCluster, flexSpModelCost, flexSpModelWork } from '../runtime/planner/flexsp-models.js';
import { physicalCost } from '../runtime/planner/physical-cost.js';
import { drawBatches, type Drawn } from '../runtime/planner/simulate/draw.js';
import { simulate, type Simulated } from '../runtime/planner/simulate/run.js';
import { pricePackage } from './plan-package.js';

export interface SimulationOptions {
  readonly lengths: string;
  readonly column?: string;
  readonly cluster?: string;
  readonly calibration?: string;
  readonly model?: string;
  readonly context?: number;
  readonly pad: number;
  readonly batch: number;
  readonly batches: number;
  readonly solvers: readonly string[];
  readonly ranks?: readonly number[];
  readonly degrees: 'any' | 'pow2';
  readonly seed: number;
  readonly flexspSeconds?: number;
  readonly boundSeconds?: number;
}

/** What is simulated, and by which formulas. */
export interface Simulation {
  readonly name: string;
  readonly cluster: Cluster;
  readonly costs: 'package' | 'calibrated' | 'flexsp' | 'physical';
  /** Longest sequence allowed, in tokens. */
  readonly context: number | undefined;
  readonly drawn: Drawn;
  readonly ranks: readonly number[];
  readonly modelOf: (ranks: number) => CostModel;
}

/** FlexSP's shorter context. */
const DEFAULT_CONTEXT = 192_000;

/**
 * Reads the lengths, opens the package or the model, draws the batches.
 * @throws UserError for files that cannot be read, or ranks that the cluster does not have
 */
export async function openSimulation(
  directory: string | undefined,
  options: SimulationOptions,
): Promise<Simulation> {
  const calibration = options.calibration === undefined ? undefined : loadCalibration(options.calibration);
  const cluster =
    calibration?.cluster ?? (options.cluster === undefined ? flexSpCluster() : readCluster(options.cluster));
  const ranks = options.ranks ?? [worldOf(cluster)];
  const most = ranks.find((count) => count > worldOf(cluster));
  // FlexSP's constants are for any number of its nodes.
  if (most !== undefined && directory !== undefined)
    throw new UserError(
      `${cluster.name} has ${worldOf(cluster)} ranks, --ranks asks for ${most}`,
      'name a larger cluster',
    );
  const priced =
    directory === undefined
      ? priceModel(options, cluster)
      : await priceDirectory(directory, options, { cluster, ranks, calibration });
  const { batch: size, batches: count, pad, seed } = options;
  const lengths = await readLengths(options.lengths, { column: options.column });
  const drawn = drawBatches(lengths, { context: priced.context, pad, size, count, seed });
  return { cluster, ranks, drawn, ...priced };
}

type Priced = Pick<Simulation, 'name' | 'costs' | 'context' | 'modelOf'>;

function priceModel(options: SimulationOptions, cluster: Cluster): Priced {
  const { model: name = '7b', context = DEFAULT_CONTEXT, degrees } = options;
  if (degrees === 'pow2' && cluster.name !== flexSpCluster().name && options.cluster !== undefined)
    requireFlexSpNodes(cluster);
  const modelOf = (ranks: number): CostModel =>
    degrees === 'pow2'
      ? flexSpModelCost(name, { ranks, context })
      : physicalCost(flexSpModelWork(name, { ranks, context }, cluster), cluster, undefined, { ranks });
  return { name, costs: degrees === 'pow2' ? 'flexsp' : 'physical', context, modelOf };
}

/** FlexSP's bandwidths are those of its own machines. */
function requireFlexSpNodes({ name, ranksPerNode, links }: Cluster): void {
  const own = flexSpCluster();
  const alike =
    ranksPerNode === own.ranksPerNode &&
    links.node.gibPerSecond === own.links.node.gibPerSecond &&
    links.network.gibPerSecond === own.links.network.gibPerSecond;
  if (!alike)
    throw new UserError(
      `FlexSP's constants are those of ${own.name}, not of ${name}`,
      'use --degrees any, which prices the model by the links of the cluster',
    );
}

async function priceDirectory(
  directory: string,
  options: SimulationOptions,
  machine: {
    readonly cluster: Cluster;
    readonly ranks: readonly number[];
    readonly calibration?: Calibration;
  },
): Promise<Priced> {
  const { cluster, ranks, calibration } = machine;
  const pkg = await openPackage(directory);
  for (const count of ranks) if (calibration !== undefined) requireFits(calibration, pkg, count);
  return {
    name: pkg.manifest.name,
    costs: calibration === undefined ? 'package' : 'calibrated',
    context: contextOf(pkg.manifest, options.context),
    modelOf: (count) => {
      const model = pricePackage(pkg, cluster, count, calibration?.coefficients);
      return options.degrees === 'pow2' ? restrictDegrees(model, { powersOfTwo: true }) : model;
    },
  };
}

function contextOf({ name, maxDocument }: Manifest, wanted: number | undefined): number | undefined {
  if (maxDocument !== undefined && wanted !== undefined && wanted > maxDocument.tokens)
    throw new UserError(
      `${name} allows ${maxDocument.tokens} tokens (${maxDocument.reason}), --context asks for ${wanted}`,
      `use --context ${maxDocument.tokens}, or leave it out`,
    );
  return wanted ?? maxDocument?.tokens;
}

export interface SimulatedRanks extends Simulated {
  readonly ranks: number;
}

/** Runs the solvers for each number of ranks. Ends early, with what is done, when the signal comes. */
export async function runSimulation(
  { drawn, ranks, modelOf }: Simulation,
  options: SimulationOptions,
  hooks: {
    readonly signal: AbortSignal;
    readonly onSolve: (ranks: number, batch: number, solver: string) => void;
    readonly onRanks: (done: SimulatedRanks) => void;
  },
): Promise<readonly SimulatedRanks[]> {
  const { flexspSeconds, boundSeconds = 0, solvers, seed } = options;
  const rows: SimulatedRanks[] = [];
  for (const count of ranks) {
    if (hooks.signal.aborted) break;
    const result = await simulate(drawn.batches, modelOf(count), {
      solvers,
      longest: drawn.longest,
      seed,
      flexSpMs: flexspSeconds === undefined ? undefined : 1000 * flexspSeconds,
      boundMs: 1000 * boundSeconds,
      signal: hooks.signal,
      onSolve: (batch, solver) => hooks.onSolve(count, batch, solver),
    });
    if (result.batches === 0) continue;
    const done = { ranks: count, ...result };
    rows.push(done);
    hooks.onRanks(done);
  }
  return rows;
}
