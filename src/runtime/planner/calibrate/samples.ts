import { invariant } from '../../../errors.js';
import type { CostModel } from '../cost.js';
import { cutTokens, type MicroBatchShape } from './documents.js';
import type { MeasuredStep, Stage } from './stage.js';

/** Micro-batches whose groups are all alike: what one rank took, on a core. */
export interface MicroBatchSample {
  readonly degree: number;
  /** Of a group. */
  readonly tokens: number;
  readonly pairs: number;
  readonly ms: number;
}

export interface SampleOptions {
  /** Degrees to be measured. */
  readonly degrees: readonly number[];
  readonly limitMs: number;
  /** Ranks over cores. */
  readonly crowd: number;
  onSample?(share: number): void;
  isStopped?(): boolean;
}

export interface Samples {
  readonly microBatches: readonly MicroBatchSample[];
  /** The same of degree 1 where one rank works and the others wait. */
  readonly alone: readonly MicroBatchSample[];
  readonly steps: readonly MeasuredStep[];
  /** Tokens a rank got at most. */
  readonly mostPerRank: number;
}

const LEAST_PER_RANK = 16;
const SHORT_DOCUMENT = 128;
/** A thread's time on its core is known to a few ms only: shorter micro-batches are repeated within a step. */
const RESOLVED_MS = 12;
const MOST_REPEATS = 12;
const MOST_ROUNDS = 12;
/** Micro-batches of each degree that are measured however long they take. */
const ENOUGH = 5;
const MOST_PER_RANK = 2 ** 16;
/** Of the time there is, what the largest micro-batch may take. */
const SHARE_OF_ONE = 1 / 30;
/** On a machine that does other things, micro-batches may take this many times as long. */
const BUSY_MACHINE = 8;

/** Every step begins with a small one: the first writes gradients, the others add to them. */
interface Cell {
  readonly degree: number;
  readonly perRank: number;
  /** Longest document. */
  readonly length: number;
}

/**
 * Runs micro-batches of several degrees, sizes and mixes of lengths, round after round until the time is over; at
 * least a few of each degree. No two have the same tokens: ranks lay out their memory for each, as they do in training.
 */
export async function measureSamples(
  stage: Stage,
  model: CostModel,
  options: SampleOptions,
): Promise<Samples> {
  const { degrees, limitMs } = options;
  const end = performance.now() + limitMs;
  for (const degree of degrees)
    await stage.run([lead(stage, degree), shapeOf(stage, { degree, perRank: 64, length: Infinity }, 1)]);
  const mostPerRank = await findMost(stage, model, options);
  const cells = cellsOf(options, mostPerRank);
  const begin = performance.now();
  const microBatches: MicroBatchSample[] = [];
  const alone: MicroBatchSample[] = [];
  const steps: MeasuredStep[] = [];
  const result = { microBatches, alone, steps, mostPerRank };
  const expected = new Map<Cell, number>();
  for (let round = 0; round < MOST_ROUNDS; round++) {
    if (stage.world > 1) alone.push(await measureAlone(stage, mostPerRank, round));
    for (const [c, cell] of cells.entries()) {
      if (options.isStopped?.() === true) return result;
      const now = performance.now();
      if ((round > 0 || c >= ENOUGH * degrees.length) && now > end) return result;
      const share = Math.min(1, (now - begin) / Math.max(1, end - begin));
      options.onSample?.(round === 0 ? share * ((c + 1) / cells.length) : share);
      const least = expected.get(cell) ?? RESOLVED_MS / 3;
      const repeats = Math.min(MOST_REPEATS, Math.ceil(RESOLVED_MS / Math.max(least, 1e-3)));
      const shapes = Array.from({ length: repeats }, (_, i) =>
        shapeOf(stage, cell, 1 + ((7 * round + 5 * i + 3 * c) % 31)),
      );
      const step = await stage.run([lead(stage, cell.degree), ...shapes]);
      const sample = sampleOf(step, cell.degree);
      expected.set(cell, sample.ms);
      microBatches.push(sample);
      steps.push(step);
    }
  }
  return result;
}

/** One rank at work. */
async function measureAlone(stage: Stage, perRank: number, round: number): Promise<MicroBatchSample> {
  const shapes = [0, 1, 2].map((i) => ({
    groups: [
      {
        degree: 1,
        lengths: cutTokens(
          Math.ceil(perRank / 2) + 3 * i + round,
          Math.min(stage.maxDocument, SHORT_DOCUMENT),
        ),
      },
    ],
  }));
  return sampleOf(await stage.run([lead(stage, 1), ...shapes]), 1);
}

const lead = (stage: Stage, degree: number): MicroBatchShape =>
  shapeOf(stage, { degree, perRank: LEAST_PER_RANK, length: Infinity }, 0);

/** As many groups as the ranks form, all alike. */
function shapeOf({ world, maxDocument }: Stage, cell: Cell, jitter: number): MicroBatchShape {
  const { degree, perRank, length } = cell;
  const lengths = cutTokens(degree * perRank + jitter, Math.min(maxDocument, length));
  return { groups: Array.from({ length: Math.floor(world / degree) }, () => ({ degree, lengths })) };
}

/** The mean of the micro-batches after the first. */
function sampleOf({ loads, microBatchMs }: MeasuredStep, degree: number): MicroBatchSample {
  const own = loads.slice(1).map(([first]) => first!);
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  return {
    degree,
    tokens: mean(own.map(({ tokens }) => tokens)),
    pairs: mean(own.map(({ pairs }) => pairs)),
    ms: mean(microBatchMs.slice(1)),
  };
}

/**
 * Doubles a rank's tokens until a micro-batch takes long enough, or memory ends. What counts is its work on the cores
 * there are: on a machine that is busy otherwise, sizes stay useful, and rounds become fewer.
 */
async function findMost(stage: Stage, model: CostModel, options: SampleOptions): Promise<number> {
  const { degrees, limitMs, isStopped, crowd } = options;
  const degree = degrees.at(-1);
  invariant(degree !== undefined, 'there is no degree to measure');
  for (let perRank = 4 * LEAST_PER_RANK; ; perRank *= 2) {
    const fits = degrees.every((d) => model.memoryBytes(d, 2 * perRank * d + 64) <= model.memoryLimitBytes);
    if (!fits || perRank >= MOST_PER_RANK || isStopped?.() === true) return perRank;
    const { microBatchMs, metrics } = await stage.run([
      lead(stage, degree),
      shapeOf(stage, { degree, perRank, length: Infinity }, 1),
    ]);
    const ms = Math.max(crowd * microBatchMs.at(-1)!, metrics.microBatches.at(-1)!.ms / BUSY_MACHINE);
    // The next is twice as long, or longer where attention decides.
    if (2.5 * ms > limitMs * SHARE_OF_ONE) return perRank;
  }
}

/**
 * Few, most and middling tokens a rank; one long document, or many short ones. All degrees take turns, and what tells
 * most comes first, in case the time is over before the end.
 */
function cellsOf({ degrees }: SampleOptions, most: number): readonly Cell[] {
  const middle = Math.round(Math.sqrt(LEAST_PER_RANK * most));
  const sizes = [...new Set([LEAST_PER_RANK, most, middle, Math.round(most / 2)])];
  return sizes.flatMap((perRank) =>
    [Infinity, SHORT_DOCUMENT].flatMap((longest) =>
      degrees
        .filter((degree) => longest < degree * perRank || longest === Infinity)
        .map((degree) => ({ degree, perRank, length: longest })),
    ),
  );
}
