import { readFileSync, statSync } from 'node:fs';
import { z } from 'zod';
import { UserError } from '../../errors.js';
import { writeFileAtomic } from '../../files/atomic.js';
import type { Package } from '../../package/read.js';
import { clusterShape, worldOf } from './cluster.js';
import type { CostModel } from './cost.js';
import { localCluster } from './machine.js';
import { packageCost } from './package-cost.js';
import { UNCALIBRATED } from './physical-cost.js';

export { localCluster } from './machine.js';

const text = z.string().max(4096);
const ratio = z.number().nonnegative().max(1e9);
const ms = z.number().nonnegative().max(1e9);
const count = z.number().int().nonnegative();
const amount = z.number().nonnegative();

const coefficientsSchema = z.strictObject({
  compute: ratio,
  attention: ratio,
  exchange: ratio,
  latency: ratio.default(1),
  exchangeRowUs: ratio.default(0),
  settle: ratio.default(1),
  overlap: z.number().min(0).max(1),
  microBatchMs: ms,
  stepMs: ms,
  sharing: z.number().min(1).max(65_536).default(1),
});

const fitError = z.strictObject({
  samples: z.number().int().nonnegative(),
  /** Of |predicted − measured| / measured. */
  mean: ratio,
  worst: ratio,
});

/** What was measured, and how far from it the model is. Nothing of it prices a plan. */
const measuredSchema = z.strictObject({
  seconds: z.number().nonnegative(),
  /** Of the cores, while it was measured, the part that other processes used: 0 … 1. */
  othersShare: z.number().min(0).max(1),
  /** Time of a step on the clock over that of its work on the cores there are. */
  elapsed: ratio,
  /** On a core, of micro-batches that the model was fitted to. */
  microBatches: fitError,
  /** Of plans that it was not fitted to: on the clock, and on a core. */
  steps: fitError,
  work: fitError,
  collectives: z
    .array(
      z.strictObject({
        kind: z.enum(['all-to-all', 'all-reduce', 'reduce-scatter', 'all-gather']),
        callUs: ratio.default(0),
        latencyUs: ratio,
        gibPerSecond: z.number().nonnegative(),
        error: fitError,
        samples: z.array(z.strictObject({ degree: count, bytes: count, ms })).max(10_000),
      }),
    )
    .max(16),
  /** Micro-batches of equal groups. */
  samples: z
    .array(z.strictObject({ degree: count, tokens: amount, pairs: amount, ms, predictedMs: ms }))
    .max(100_000),
  heldOut: z
    .array(
      z.strictObject({
        what: text,
        microBatches: count,
        tokens: amount,
        predictedMs: ms,
        measuredMs: ms,
        predictedWorkMs: ms,
        measuredWorkMs: ms,
      }),
    )
    .max(1000),
});

const calibrationSchema = z.strictObject({
  format: z.literal('ithaca-calibration'),
  version: z.literal(1),
  ithaca: text,
  package: z.strictObject({ name: text, hash: z.string().regex(/^[0-9a-f]{64}$/) }),
  /** Ranks that ran at the same time while it was measured. */
  ranks: z.number().int().positive().max(65_536),
  machine: z.strictObject({
    cpu: text,
    cores: z.number().positive(),
    memoryGib: z.number().positive(),
    platform: text,
    node: text,
  }),
  /** Rates measured where there was something to measure: of ranks that are all busy. */
  cluster: clusterShape,
  coefficients: coefficientsSchema,
  measured: measuredSchema.optional(),
});

/** What a machine does with a package, measured: `calibration.json`. */
export type Calibration = z.output<typeof calibrationSchema>;

const MAX_BYTES = 64 * 2 ** 20;

/** @throws UserError for a file that cannot be read, or the key that does not fit the format */
export function loadCalibration(file: string): Calibration {
  const hint = 'measure it: ithaca calibrate PACKAGE --ranks N';
  let json: unknown;
  try {
    if (statSync(file).size > MAX_BYTES) throw new Error(`it is larger than ${MAX_BYTES} bytes`);
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UserError(`${file}: cannot be read as a calibration: ${reason}`, hint, { cause });
  }
  const parsed = calibrationSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue === undefined || issue.path.length === 0 ? '' : `${issue.path.join('.')}: `;
  throw new UserError(`${file}: ${where}${issue?.message ?? 'does not fit the format'}`, hint);
}

/** @throws UserError for a folder that is missing or not writable */
export async function saveCalibration(file: string, calibration: Calibration): Promise<void> {
  await writeFileAtomic(file, async (handle) => {
    await handle.writeFile(`${JSON.stringify(calibration, null, 2)}\n`);
  });
}

/**
 * What a plan for the package costs on `world` ranks: as measured, or by rough rates of this machine.
 * @throws UserError for a calibration of another package, or of other ranks
 */
export function costOf(pkg: Package, world: number, calibration: Calibration | undefined): CostModel {
  if (calibration === undefined) return packageCost(pkg, localCluster(world), UNCALIBRATED, { ranks: world });
  requireFits(calibration, pkg, world);
  return packageCost(pkg, calibration.cluster, calibration.coefficients, { ranks: world });
}

/** @throws UserError for a calibration of another package, or of other ranks */
export function requireFits(
  { package: measured, ranks, cluster }: Calibration,
  pkg: Package,
  world: number,
): void {
  if (measured.hash !== pkg.hash)
    throw new UserError(
      `the calibration is of package ${measured.name} (${measured.hash.slice(0, 12)}), not of ${pkg.manifest.name} (${pkg.hash.slice(0, 12)})`,
      `measure this one: ithaca calibrate ${pkg.directory} --ranks ${world}`,
    );
  // Ranks share cores, caches and links: measured rates are those of a full node.
  const wholeNodes =
    ranks === cluster.ranksPerNode && world % cluster.ranksPerNode === 0 && world <= worldOf(cluster);
  if (world !== ranks && !wholeNodes)
    throw new UserError(
      `the calibration was measured with ${ranks} ranks, it says nothing of ${world}`,
      `measure them: ithaca calibrate ${pkg.directory} --ranks ${world}`,
    );
}
