import type { CostModel } from '../cost.js';
import { kindsOf, memoryPerToken, type Kind } from './kinds.js';

/** More end times than this add little: intervals between some of them are merged, which keeps the bound valid. */
const MOST_TIMES = 384;

/**
 * No legal plan takes less than this, in about a millisecond.
 *
 * Say the longest micro-batch lasts C without its fixed cost. Then no sequence is in a group in which it alone takes
 * longer, so that all sequences together keep ranks busy for at least W(C) = Σ min {d·share(s,d) : alone(s,d) ≤ C}.
 * That micro-batch itself holds at most ranks·C of it, and at most what fits in the ranks' memory, K(C): the
 * sequences with the most work per token first. The other micro-batches last at least (W(C) − min(ranks·C, K(C)))/ranks.
 * Memory demands at least Mmin micro-batches, each pays the fixed cost. The bound is the least over C of
 * Mmin·fixed + C + max(0, …); between two times at which the allowed groups change only C itself grows.
 */
export function quickBound(lengths: readonly number[], model: CostModel): number {
  const kinds = kindsOf(lengths, model);
  const { ranks, degrees, microBatchMs, stepMs } = model;
  if (lengths.length === 0) return stepMs;
  if (kinds.length === 0) return stepMs + microBatchMs;
  const memory = memoryPerToken(model);
  const tokens = kinds.reduce((sum, kind) => sum + kind.tokens * kind.count, 0);
  const micro = Math.max(1, Math.ceil((tokens * memory) / ranks - 1e-9));
  const shortest = kinds.reduce((most, kind) => Math.max(most, Math.min(...kind.aloneMs)), 0);
  if (shortest === Infinity) return Infinity;
  const times = [...new Set([shortest, ...kinds.flatMap((kind) => kind.aloneMs)])]
    .filter((ms) => ms >= shortest && ms < Infinity)
    .sort((a, b) => a - b);
  const stride = Math.ceil(times.length / MOST_TIMES);
  let best = Infinity;
  for (let i = 0; i < times.length; i += stride) {
    const from = times[i]!;
    if (from >= best) break;
    // Groups allowed anywhere in the merged interval.
    const upTo = times[Math.min(times.length - 1, i + stride - 1)]!;
    const { work, inMemory } = workWithin(kinds, degrees, upTo, ranks / memory);
    // Inside the interval C + (work − min(ranks·C, inMemory))/ranks never falls.
    best = Math.min(best, from + Math.max(0, work - Math.min(ranks * from, inMemory)) / ranks);
  }
  return stepMs + micro * microBatchMs + best;
}

/** Least rank-time of all sequences if none may take longer than `limitMs`, and the most of it that `room` tokens hold. */
function workWithin(
  kinds: readonly Kind[],
  degrees: CostModel['degrees'],
  limitMs: number,
  room: number,
): { work: number; inMemory: number } {
  const parts = kinds.map((kind) => {
    let least = Infinity;
    for (let k = 0; k < degrees.length; k++)
      if (kind.aloneMs[k]! <= limitMs) least = Math.min(least, degrees[k]!.degree * kind.shareMs[k]!);
    return { tokens: kind.tokens * kind.count, work: least * kind.count, density: least / kind.tokens };
  });
  let [work, inMemory, left] = [0, 0, room];
  for (const part of parts.sort((a, b) => b.density - a.density)) {
    work += part.work;
    const taken = Math.min(left, part.tokens);
    inMemory += taken * part.density;
    left -= taken;
  }
  return { work, inMemory };
}
