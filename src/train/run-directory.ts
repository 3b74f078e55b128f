import { appendFileSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { UserError } from '../errors.js';
import { writeFileAtomic } from '../files/atomic.js';
import { explainReadError, explainWriteError, statIfPresent } from '../files/fs-errors.js';
import { listCheckpoints } from '../runtime/checkpoint.js';
import { settingsSchema } from './settings.js';

/**
 *     run/run.json           {@link RunRecord}
 *     run/metrics.jsonl      one line a step
 *     run/checkpoints/       see `runtime/checkpoint.ts`
 */
const RECORD = 'run.json';
const METRICS = 'metrics.jsonl';
const MAX_RECORD_BYTES = 1 << 24;

const recordSchema = z.strictObject({
  format: z.literal('ithaca-run'),
  version: z.literal(1),
  ithaca: z.string(),
  /** Absolute path, and the hash of its manifest. */
  package: z.strictObject({ path: z.string(), hash: z.string().regex(/^[0-9a-f]{64}$/), name: z.string() }),
  settings: settingsSchema,
});

export type RunRecord = Readonly<z.infer<typeof recordSchema>>;

/** One line of `metrics.jsonl`. */
export interface StepMetrics {
  /** Updates done, this one included. */
  readonly step: number;
  /** Mean loss of the counted tokens of the batch, before the update. */
  readonly loss: number;
  readonly grad_norm: number;
  readonly lr: number;
  /** Tokens of the batch. */
  readonly tokens: number;
  /** Those of them whose next token counts. */
  readonly predicted: number;
  readonly tokens_per_s: number;
  /** Sent by all ranks to others, every collective included. */
  readonly bytes_exchanged: number;
  /** Of these, those of all-to-alls: what `inspect` computes for each group and micro-batch. */
  readonly bytes_all_to_all: number;
  /** All-to-alls of the rank that took part in most. */
  readonly exchanges: number;
  /** Largest peak of a rank. */
  readonly peak_bytes: number;
  readonly ms: number;
  /** For every micro-batch, the tokens of each group. */
  readonly groups: readonly (readonly number[])[];
  /** Loss over the evaluation data after this step, where it was computed. */
  readonly eval_loss?: number | undefined;
}

/** @throws UserError when a new run may not be written there; looks only, makes nothing */
export function requireFreshRun(directory: string): void {
  const stats = statIfPresent(directory);
  if (stats === undefined) return;
  if (!stats.isDirectory())
    throw new UserError(`--out ${directory} is a file`, 'name a folder that does not exist yet');
  const isRun = statIfPresent(path.join(directory, RECORD)) !== undefined;
  // A run that ended before its first checkpoint has nothing to lose, and nothing to go on from.
  if (isRun && listCheckpoints(directory).length === 0) return;
  if (isRun)
    throw new UserError(
      `--out ${directory} holds a run already`,
      `continue it with --resume ${directory}, or choose another --out`,
    );
  if (readdirSync(directory).length > 0)
    throw new UserError(`--out ${directory} is not empty`, 'name a folder that does not exist yet');
}

/** Makes the folder, if it is not there, and writes its record. */
export async function writeRecord(directory: string, record: RunRecord): Promise<void> {
  try {
    mkdirSync(directory, { recursive: true });
  } catch (error) {
    throw explainWriteError(error, directory);
  }
  const text = `${JSON.stringify(recordSchema.parse(record), undefined, 2)}\n`;
  await writeFileAtomic(path.join(directory, RECORD), async (handle) => {
    await handle.writeFile(text);
  });
}

/** @throws UserError when the folder holds no run, or one that cannot be read */
export function readRecord(directory: string): RunRecord {
  const file = path.join(directory, RECORD);
  const stats = statIfPresent(file);
  if (stats === undefined)
    throw new UserError(
      `${directory} holds no run: ${RECORD} is missing`,
      'give the folder that train --out wrote',
    );
  if (stats.size > MAX_RECORD_BYTES) throw new UserError(`${file} has ${stats.size} bytes, too many`);
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError)
      throw new UserError(`${file} is cut short or altered: it is not JSON`, 'start the run again', {
        cause: error,
      });
    throw explainReadError(error, file);
  }
  const parsed = recordSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new UserError(
    `${file} does not fit this version of ithaca: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'invalid'}`,
    'continue the run with the version that began it',
  );
}

/** The run that a path names: its own folder, or one of its checkpoints. */
export function runOf(target: string): string {
  const resolved = path.resolve(target);
  const isCheckpoint =
    path.basename(path.dirname(resolved)) === 'checkpoints' &&
    statIfPresent(path.join(target, RECORD)) === undefined;
  return isCheckpoint ? path.join(target, '..', '..') : target;
}

/** Appends a line to `metrics.jsonl`. @throws UserError when the disk is full */
export function appendMetrics(directory: string, metrics: StepMetrics): void {
  const file = path.join(directory, METRICS);
  try {
    appendFileSync(file, `${JSON.stringify(metrics)}\n`);
  } catch (error) {
    throw explainWriteError(error, file);
  }
}

/** Drops the lines after `step`, which a run that goes on from there will write again, and a line cut short. */
export async function rewindMetrics(directory: string, step: number): Promise<void> {
  const file = path.join(directory, METRICS);
  if (statIfPresent(file) === undefined) return;
  const before = readFileSync(file, 'utf8');
  const kept = before.split('\n').filter((line) => {
    const at = stepOf(line);
    return at !== undefined && at <= step;
  });
  const after = kept.map((line) => `${line}\n`).join('');
  if (after === before) return;
  await writeFileAtomic(file, async (handle) => {
    await handle.writeFile(after);
  });
}

function stepOf(line: string): number | undefined {
  try {
    const { step } = JSON.parse(line) as { step?: unknown };
    return typeof step === 'number' ? step : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the folder of a package that a run names is still there. */
export const isDirectory = (directory: string): boolean =>
  statSync(directory, { throwIfNoEntry: false })?.isDirectory() === true;
