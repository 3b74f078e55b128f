import { UserError } from '../errors.js';
import { trainProgramsOf } from '../package/manifest.js';
import { openPackage, type Package } from '../package/read.js';
import { readLengths } from '../runtime/data/lengths/read.js';
import { loadCalibration, requireFits } from '../runtime/planner/calibration.js';
import { readCluster, worldOf, type Cluster } from '../runtime/planner/cluster.js';
import type { CostModel } from '../runtime/planner/cost.js';
import { packageCost } from '../runtime/planner/package-cost.js';
import { UNCALIBRATED, type Coefficients } from '../runtime/planner/physical-cost.js';
import { workOf } from '../runtime/planner/work.js';

const MAX_SEQUENCES = 2_000_000;

export interface PackageProblem {
  readonly name: string;
  readonly cluster: Cluster;
  readonly lengths: readonly number[];
  readonly cost: CostModel;
}

interface BatchOptions {
  readonly lengths: string;
  readonly batch?: number;
  readonly column?: string;
}

/** What prices a package: rates as described, or as measured. */
interface Priced {
  readonly cluster?: string;
  readonly calibration?: string;
}

/**
 * Prices the train program of a package on a cluster, and reads the batch.
 * @param batch sequences of the file that are planned; default: all
 * @throws UserError for a model that does not fit a rank, or documents longer than it allows
 */
export async function readPackageProblem(
  directory: string,
  options: BatchOptions & Priced,
): Promise<PackageProblem> {
  const calibration = options.calibration === undefined ? undefined : loadCalibration(options.calibration);
  const cluster = calibration?.cluster ?? readCluster(options.cluster ?? '');
  const lengths = await readBatch(options);
  const pkg = await openPackage(directory);
  if (calibration !== undefined) requireFits(calibration, pkg, worldOf(cluster));
  const { maxDocument, name } = pkg.manifest;
  const long = lengths.findIndex((length) => length > (maxDocument?.tokens ?? Infinity));
  if (long >= 0)
    throw new UserError(
      `${options.lengths}: sequence ${long} has ${lengths[long]} tokens, ${name} allows ${maxDocument?.tokens} (${maxDocument?.reason})`,
      'cut sequences before planning them, as --long split does in training',
    );
  const cost = pricePackage(pkg, cluster, worldOf(cluster), calibration?.coefficients);
  return { name, cluster, lengths, cost };
}

/**
 * A package on some ranks of a cluster.
 * @throws UserError for a model that does not fit a rank
 */
export function pricePackage(
  pkg: Package,
  cluster: Cluster,
  ranks: number,
  coefficients: Coefficients = UNCALIBRATED,
): CostModel {
  const cost = packageCost(pkg, cluster, coefficients, { ranks });
  if (cost.degrees.length > 0) return cost;
  const work = workOf(pkg, ranks, trainProgramsOf(pkg.manifest).at(-1));
  const gib = (work.peakBytes(Math.min(work.heads, ranks), 1) / 2 ** 30).toFixed(2);
  throw new UserError(
    `${work.name} needs ${gib} GiB on a rank for a single token, ranks of ${cluster.name} have ${cluster.memoryGibPerRank}`,
    'use ranks with more memory, or compile with zeroStage 1',
  );
}

/** The first sequences of a file, or all of them. @throws UserError for too few, or too many to plan at once */
async function readBatch({ lengths: file, batch, column }: BatchOptions): Promise<readonly number[]> {
  const lengths = await readLengths(file, { most: batch ?? MAX_SEQUENCES + 1, column });
  if (lengths.length > MAX_SEQUENCES)
    throw new UserError(
      `${file}: more than ${MAX_SEQUENCES} sequences`,
      'give the size of a batch with --batch',
    );
  if (batch !== undefined && lengths.length < batch)
    throw new UserError(
      `${file} holds ${lengths.length} sequences, --batch asks for ${batch}`,
      `use --batch ${lengths.length}, or leave it out`,
    );
  return lengths;
}
