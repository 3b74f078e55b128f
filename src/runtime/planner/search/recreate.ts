import { place, type SearchState } from './state.js';

/** What makes one place better than another, in ms of the step. */
export interface Taste {
  /** Price of rank-time spent, relative to the time it would add to a full micro-batch. */
  readonly rankTime: number;
  /** Positive: prefer groups with little work (balance); negative: with much (tight packing). */
  readonly load: number;
  /** Groups looked at in a micro-batch, from a random one on. */
  readonly window: number;
}

/**
 * Puts an item where it lengthens its micro-batch least, then where it costs least rank-time.
 * @returns the slot, or −1 if memory allows none
 */
export function insertBest(state: SearchState, item: number, taste: Taste, random: () => number): number {
  const { tables, items, members, makespan } = state;
  const { size, capacity, msPerToken, msPerPair, exchangeMs, exchangeMsPerToken, overlap, ranks } = tables;
  const s = items.tokens[item]!;
  const p = items.pairs[item]!;
  let best = -1;
  let bestScore = Infinity;
  for (let m = 0; m < members.length; m++) {
    const slots = members[m]!;
    const limit = makespan[m]!;
    // A micro-batch that is still empty costs its fixed time as well.
    const opening = limit === 0 ? tables.microBatchMs : 0;
    if (opening >= bestScore) continue;
    const looks = slots.length < taste.window ? slots.length : taste.window;
    let at = looks === slots.length ? 0 : random() % slots.length;
    for (let i = 0; i < looks; i++) {
      const slot = slots[at]!;
      if (++at === slots.length) at = 0;
      const k = state.column[slot]!;
      const tokens = state.tokens[slot]! + s;
      if (tokens > capacity[k]!) continue;
      const compute = msPerToken[k]! * tokens + msPerPair[k]! * (state.pairs[slot]! + p);
      const exchange = exchangeMs[k]! + exchangeMsPerToken[k]! * tokens;
      const ms = compute + exchange - overlap[k]! * (compute < exchange ? compute : exchange);
      const over = ms > limit ? ms - limit + opening : 0;
      if (over >= bestScore) continue;
      const score = over + (taste.rankTime * size[k]! * (ms - state.ms[slot]!)) / ranks + taste.load * ms;
      if (score < bestScore) {
        best = slot;
        bestScore = score;
      }
    }
  }
  if (best >= 0) place(state, item, best);
  return best;
}
