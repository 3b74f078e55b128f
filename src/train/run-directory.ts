import {
  appendFileSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { UserError } from '../errors.js';
import { writeFileAtomic } from '../files/atomic.js';
import { explainReadError, explainWriteError, statIfPresent } from '../files/fs-errors.js';
import { listCheckpoints } from '../runtime/checkpoint.js';
import { readLines } from '../runtime/data/lines.js';
import { readRecordedStep, type RecordedStep } from './replay.js';
import { settingsSchema } from './settings.js';
import type { MicroBatchRecord, SolvedRecord } from './step-record.js';

/**
 *     run/run.json           {@link RunRecord}
 *     run/metrics.jsonl      one line a step
 *     run/calibration.json   what the machine was measured to do, where it was
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
  /** What the cost model expected of `ms`. */
  readonly predicted_ms: number;
  /** How long the ranks waited for this step's plan. */
  readonly plan_wait_ms: number;
  readonly micro_batches: readonly MicroBatchRecord[];
  /** Where a planner chose the groups. */
  readonly plan?: SolvedRecord | undefined;
  /** Loss over the evaluation data after this step, where it was computed. */
  readonly eval_loss?: number | undefined;
  /** Share of its counted tokens, or documents, whose label had the largest logit. */
  readonly eval_accuracy?: number | undefined;
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

/** Plans of this many steps after a checkpoint are repeated; beyond that, planning again is as good. */
const MAX_REPLAYED = 10_000;

/** Plans of the steps after `step` that an earlier run did, by step. */
export async function recordedSteps(
  directory: string,
  step: number,
): Promise<ReadonlyMap<number, RecordedStep>> {
  const found = new Map<number, RecordedStep>();
  for await (const { json } of metricLines(directory)) {
    const recorded = (stepOf(json) ?? 0) > step ? readRecordedStep(json) : undefined;
    if (recorded !== undefined && found.size < MAX_REPLAYED) found.set(recorded.step, recorded);
  }
  return found;
}

/** Drops the lines after `step`, which a run that goes on from there will write again, and a line cut short. */
export async function rewindMetrics(directory: string, step: number): Promise<void> {
  const isKept = (json: unknown): boolean => (stepOf(json) ?? Infinity) <= step;
  let isWhole = endsWithNewline(path.join(directory, METRICS));
  for await (const { json } of metricLines(directory)) isWhole &&= isKept(json);
  if (isWhole) return;
  await writeFileAtomic(path.join(directory, METRICS), async (handle) => {
    for await (const { json, text } of metricLines(directory))
      if (isKept(json)) await handle.write(`${text}\n`);
  });
}

/** What is appended must not end up in a line that was cut short. */
function endsWithNewline(file: string): boolean {
  const stats = statIfPresent(file);
  if (stats === undefined || stats.size === 0) return true;
  const last = Buffer.alloc(1);
  const descriptor = openSync(file, 'r');
  try {
    readSync(descriptor, last, 0, 1, stats.size - 1);
  } finally {
    closeSync(descriptor);
  }
  return last.toString() === '\n';
}

/** Lines of `metrics.jsonl`, none where there is no file; `json` is undefined for one that was cut short. */
async function* metricLines(directory: string): AsyncGenerator<{ text: string; json: unknown }> {
  const file = path.join(directory, METRICS);
  if (statIfPresent(file) === undefined) return;
  for await (const { text } of readLines(file)) {
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch {
      // Nothing: the process ended while it wrote the line.
    }
    yield { text, json };
  }
}

function stepOf(json: unknown): number | undefined {
  if (typeof json !== 'object' || json === null || !('step' in json)) return undefined;
  return typeof json.step === 'number' ? json.step : undefined;
}

/** Whether the folder of a package that a run names is still there. */
export const isDirectory = (directory: string): boolean =>
  statSync(directory, { throwIfNoEntry: false })?.isDirectory() === true;
