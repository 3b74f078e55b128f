import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseConfig } from '../../src/config.js';
import type { Package } from '../../src/package/read.js';
import type { PlannerFault } from '../../src/runtime/planner/ahead/protocol.js';
import { train, type TrainResult } from '../../src/train/loop.js';
import { resumeRun, startRun, type OpenedRun, type OpenHooks } from '../../src/train/open.js';
import type { StepMetrics } from '../../src/train/run-directory.js';
import { settingsOf, type TrainFlags } from '../../src/train/settings.js';

/** Lengths as in text corpora: most are short, a few are very long. */
export function tailedLengths(count: number, longest: number, seed = 1): number[] {
  let state = seed;
  const uniform = (): number => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return (state + 1) / 2147483649;
  };
  return Array.from({ length: count }, () => Math.min(longest, Math.max(3, Math.round(6 / uniform()))));
}

/** A file of documents of these lengths. */
export function writeDocuments(file: string, lengths: readonly number[]): void {
  const line = (n: number, i: number): string =>
    JSON.stringify({ input_ids: Array.from({ length: n }, (_, t) => (7 * t + 31 * i + t * t) % 256) });
  writeFileSync(file, `${lengths.map(line).join('\n')}\n`);
}

export interface Trained {
  readonly result: TrainResult;
  readonly metrics: readonly StepMetrics[];
  readonly notes: readonly string[];
}

interface Options {
  readonly fault?: PlannerFault;
  /** Asked after every step. */
  readonly stopAfter?: number;
}

async function trained(
  directory: string,
  open: (hooks: OpenHooks) => Promise<OpenedRun>,
  { fault, stopAfter = Infinity }: Options,
): Promise<Trained> {
  const notes: string[] = [];
  let done = 0;
  const run = await open({
    reporter: { onStep: ({ step }) => (done = step), onSave: () => {}, onNote: (note) => notes.push(note) },
    isStopped: () => done >= stopAfter,
    ...(fault === undefined ? {} : { plannerFault: fault }),
  });
  try {
    const result = await train(run);
    return { result, metrics: readMetrics(directory), notes };
  } finally {
    await run.close();
  }
}

export const readMetrics = (directory: string): StepMetrics[] =>
  readFileSync(path.join(directory, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as StepMetrics);

/** Trains a new run to its end. */
export const trainNew = (
  pkg: Package,
  directory: string,
  flags: TrainFlags,
  options: Options = {},
): Promise<Trained> =>
  trained(
    directory,
    (hooks) =>
      startRun(pkg, directory, settingsOf(flags, parseConfig({}, 'test'), path.dirname(directory)), hooks),
    options,
  );

export const trainOn = (directory: string, flags: TrainFlags = {}, options: Options = {}): Promise<Trained> =>
  trained(directory, (hooks) => resumeRun(directory, undefined, flags, hooks), options);

/** A copy of a run as it was when a step had been saved; what it recorded later is still there. */
export function copyOf(run: string, copy: string, step: number): string {
  cpSync(run, copy, { recursive: true });
  for (const name of readdirSync(path.join(copy, 'checkpoints')))
    if (Number(name.replace(/\D/g, '')) > step)
      rmSync(path.join(copy, 'checkpoints', name), { recursive: true });
  return copy;
}

/** Weights, moments and state of a checkpoint, as bytes. */
export const checkpointBytes = (run: string, step: number): Buffer[] =>
  ['weights.safetensors', 'optimizer.safetensors', 'state.json'].map((file) =>
    readFileSync(path.join(run, 'checkpoints', `step-${String(step).padStart(6, '0')}`, file)),
  );
