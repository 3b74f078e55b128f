import { UserError } from '../../../errors.js';
import { createRandom, randomBelow } from '../../data/random.js';

export interface DrawOptions {
  /** Longer sequences are left out, padding included. Default: none are. */
  readonly context?: number;
  /** Lengths are rounded up to a multiple. Default 1. */
  readonly pad?: number;
  /** Sequences of a batch. */
  readonly size: number;
  readonly count: number;
  /** Batches are drawn at random; without a seed they are runs of the file's order. */
  readonly seed?: number;
}

export interface Drawn {
  readonly batches: readonly (readonly number[])[];
  /** Sequences to draw from, and those that are longer than the context. */
  readonly kept: number;
  readonly dropped: number;
  readonly longest: number;
  /** Whether the sequences had to be used more than once. */
  readonly repeats: boolean;
}

/**
 * Batches of a length distribution: every sequence once, in shuffled order, before any comes again.
 * @throws UserError if no sequence is short enough
 */
export function drawBatches(lengths: readonly number[], options: DrawOptions): Drawn {
  const { context = Infinity, pad = 1, size, count, seed } = options;
  const padded = lengths.map((length) => Math.ceil(length / pad) * pad);
  const kept = padded.filter((length) => length <= context);
  if (kept.length === 0)
    throw new UserError(
      `none of ${lengths.length} sequences has at most ${context} tokens`,
      'allow longer ones with --context',
    );
  const random = seed === undefined ? undefined : createRandom(seed, kept.length);
  const batches: number[][] = [];
  let next = 0;
  for (let b = 0; b < count; b++) {
    const batch: number[] = [];
    for (; batch.length < size; next++) {
      const i = next % kept.length;
      if (random !== undefined) swap(kept, i, i + randomBelow(random, kept.length - i));
      batch.push(kept[i]!);
    }
    batches.push(batch);
  }
  return {
    batches,
    kept: kept.length,
    dropped: lengths.length - kept.length,
    longest: kept.reduce((a, b) => Math.max(a, b), 0),
    repeats: next > kept.length,
  };
}

function swap(list: number[], i: number, j: number): void {
  [list[i], list[j]] = [list[j]!, list[i]!];
}
