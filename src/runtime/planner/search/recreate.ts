import { place, type SearchState } from './state.js';
import type { Random } from './random.js';

/** What makes one place better than another, in ms of the step. */
export interface Taste {
  /** Price of rank-time spent, relative to the time it would add to a full micro-batch. */
  rankTime: number;
  /** Positive: prefer groups with little work (balance); negative: with much (tight packing). */
  load: number;
  /** Groups looked at in a micro-batch, from a random one on. */
  window: number;
}

/**
 * Puts an item where it lengthens its micro-batch least, then where it costs least rank-time.
 * @returns the slot, or −1 if memory allows none
 */
export function insertBest(state: SearchState, item: number, taste: Taste, random: Random): number {
  const { tables, items, members, groups, width, makespan, column } = state;
  const { size, capacity, msPerToken, msPerPair, exchangeMs, exchangeMsPerToken, overlap } = tables;
  const { tokens: slotTokens, pairs: slotPairs, ms: slotMs } = state;
  const s = items.tokens[item]!;
  const p = items.pairs[item]!;
  const rankTime = taste.rankTime / tables.ranks;
  const { load, window } = taste;
  let best = -1;
  let bestScore = Infinity;
  for (let m = 0; m < state.microBatches; m++) {
    const many = groups[m]!;
    const limit = makespan[m]!;
    // A micro-batch that is still empty costs its fixed time as well.
    const opening = limit === 0 ? tables.microBatchMs : 0;
    if (opening >= bestScore || many === 0) continue;
    const from = m * width;
    const end = from + many;
    let looks = many;
    let at = from;
    if (many > window) {
      looks = window;
      at += random() % many;
    }
    for (; looks > 0; looks--) {
      const slot = members[at]!;
      if (++at === end) at = from;
      const k = column[slot]!;
      const tokens = slotTokens[slot]! + s;
      if (tokens > capacity[k]!) continue;
      const compute = msPerToken[k]! * tokens + msPerPair[k]! * (slotPairs[slot]! + p);
      const exchange = exchangeMs[k]! + exchangeMsPerToken[k]! * tokens;
      const ms = compute + exchange - overlap[k]! * (compute < exchange ? compute : exchange);
      const over = ms > limit ? ms - limit + opening : 0;
      if (over >= bestScore) continue;
      const score = over + rankTime * size[k]! * (ms - slotMs[slot]!) + load * ms;
      if (score < bestScore) {
        best = slot;
        bestScore = score;
      }
    }
  }
  if (best >= 0) place(state, item, best);
  return best;
}
