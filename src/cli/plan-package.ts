import { UserError } from '../errors.js';
import { openPackage } from '../package/read.js';
import { readLines } from '../runtime/data/lines.js';
import { readCluster, worldOf, type Cluster } from '../runtime/planner/cluster.js';
import type { CostModel } from '../runtime/planner/cost.js';
import { physicalCost, UNCALIBRATED } from '../runtime/planner/physical-cost.js';
import { workOf } from '../runtime/planner/work.js';

const MAX_SEQUENCES = 2_000_000;
const MAX_TOKENS = 2 ** 40;

export interface PackageProblem {
  readonly name: string;
  readonly cluster: Cluster;
  readonly lengths: readonly number[];
  readonly cost: CostModel;
}

/**
 * Prices the train program of a package on a cluster, and reads the batch.
 * @param batch sequences of the file that are planned; default: all
 * @throws UserError for a model that does not fit a rank, or documents longer than it allows
 */
export async function readPackageProblem(
  directory: string,
  options: { readonly cluster: string; readonly lengths: string; readonly batch?: number },
): Promise<PackageProblem> {
  const cluster = readCluster(options.cluster);
  const lengths = await readLengths(options.lengths, options.batch);
  const pkg = await openPackage(directory);
  const { maxDocument, name } = pkg.manifest;
  const long = lengths.findIndex((length) => length > (maxDocument?.tokens ?? Infinity));
  if (long >= 0)
    throw new UserError(
      `${options.lengths}: sequence ${long} has ${lengths[long]} tokens, ${name} allows ${maxDocument?.tokens} (${maxDocument?.reason})`,
      'cut sequences before planning them, as --long split does in training',
    );
  const work = workOf(pkg, worldOf(cluster));
  const cost = physicalCost(work, cluster, UNCALIBRATED);
  if (cost.degrees.length === 0) {
    const gib = (work.peakBytes(Math.min(work.heads, worldOf(cluster)), 1) / 2 ** 30).toFixed(2);
    throw new UserError(
      `${name} needs ${gib} GiB on a rank for a single token, ranks of ${cluster.name} have ${cluster.memoryGibPerRank}`,
      'use ranks with more memory, or compile with zeroStage 1',
    );
  }
  return { name, cluster, lengths, cost };
}

/**
 * Lengths in tokens: one a line, or JSONL whose lines have input_ids.
 * @throws UserError naming the line that is neither
 */
export async function readLengths(file: string, most = Infinity): Promise<readonly number[]> {
  const lengths: number[] = [];
  for await (const { line, text } of readLines(file)) {
    if (lengths.length >= most) break;
    if (lengths.length >= MAX_SEQUENCES)
      throw new UserError(
        `${file}: more than ${MAX_SEQUENCES} sequences`,
        'give the number of a batch with --batch',
      );
    const length = lengthOf(text.trim(), `${file}:${line}`);
    if (!Number.isInteger(length) || length < 0 || length > MAX_TOKENS)
      throw new UserError(`${file}:${line}: ${text.trim().slice(0, 40)} is not a length`, HINT);
    lengths.push(length);
  }
  if (lengths.length === 0) throw new UserError(`${file} holds no lengths`, HINT);
  if (most !== Infinity && lengths.length < most)
    throw new UserError(
      `${file} holds ${lengths.length} sequences, --batch asks for ${most}`,
      `use --batch ${lengths.length}, or leave it out`,
    );
  return lengths;
}

const HINT = 'each line is a whole number of tokens, or {"input_ids": […]}';

function lengthOf(text: string, at: string): number {
  if (!text.startsWith('{')) return /^\d+$/.test(text) ? Number(text) : NaN;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${at}: not JSON (${String(cause)})`, HINT, { cause });
  }
  if (typeof json === 'object' && json !== null && 'input_ids' in json && Array.isArray(json.input_ids))
    return json.input_ids.length;
  throw new UserError(`${at}: no list "input_ids"`, HINT);
}
