import type { CostModel } from '../../../src/runtime/planner/cost.js';

/**
 * Time of the shortest legal step, by trying everything: which sequences share a micro-batch, which of those share a
 * group, every degree. For up to about six sequences on one node. Prices groups from the model's tables by itself.
 */
export function shortestStepMs(lengths: readonly number[], model: CostModel): number {
  const all = (1 << lengths.length) - 1;
  const micro = new Map<number, number>();
  const best = new Map<number, number>([[0, 0]]);
  const stepOf = (rest: number): number => {
    const known = best.get(rest);
    if (known !== undefined) return known;
    const first = rest & -rest;
    let least = Infinity;
    for (let part = rest; part > 0; part = (part - 1) & rest) {
      if ((part & first) === 0) continue;
      let ms = micro.get(part);
      if (ms === undefined) micro.set(part, (ms = microBatchMs(part, model.ranks, lengths, model)));
      if (ms < Infinity) least = Math.min(least, model.microBatchMs + ms + stepOf(rest & ~part));
    }
    best.set(rest, least);
    return least;
  };
  return model.stepMs + stepOf(all);
}

/** Slowest group of the best micro-batch that holds these sequences on that many ranks. */
function microBatchMs(rest: number, ranks: number, lengths: readonly number[], model: CostModel): number {
  if (rest === 0) return 0;
  const first = rest & -rest;
  let least = Infinity;
  for (let part = rest; part > 0; part = (part - 1) & rest) {
    if ((part & first) === 0) continue;
    for (const cost of model.degrees) {
      if (cost.degree > ranks) continue;
      let [tokens, pairs] = [0, 0];
      lengths.forEach((length, i) => {
        if ((part & (1 << i)) === 0) return;
        tokens += length;
        pairs += model.pairs(length);
      });
      if (tokens > cost.capacity) continue;
      const compute = cost.msPerToken * tokens + cost.msPerPair * pairs;
      const exchange = cost.exchangeMs + cost.exchangeMsPerToken * tokens;
      const hidden = cost.overlap * Math.min(compute, exchange);
      const ms = tokens === 0 ? 0 : compute + exchange - hidden;
      if (ms >= least) continue;
      least = Math.min(least, Math.max(ms, microBatchMs(rest & ~part, ranks - cost.degree, lengths, model)));
    }
  }
  return least;
}
