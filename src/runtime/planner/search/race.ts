import { byMs, type Draft } from './draft.js';
import type { Items } from './items.js';
import type { Random } from './random.js';
import { anneal, bestDraft, startSearch, type Search } from './search.js';
import { leastMs, type DegreeTables } from './tables.js';
import { objectiveMs } from './state.js';

export interface RaceOptions {
  /** Items taken out and put back, all searches together. */
  readonly moves: number;
  readonly random: Random;
  /** Groups looked at in a micro-batch when an item is put back. */
  readonly window: number;
  readonly stop: () => boolean;
}

/** `[round]`: how many searches go on, the share of the budget each gets, temperatures in shares of the step. */
const ROUNDS = [
  { searches: 6, share: 0.04, hot: 0.003, cold: 0.0003 },
  { searches: 3, share: 0.1, hot: 0.001, cold: 0.0001 },
  { searches: 1, share: 0.46, hot: 0.0005, cold: 0.00001 },
] as const;

/** Successive halving: many first plans are improved a little, the best of them more, the best one most. */
export function race(
  tables: DegreeTables,
  items: Items,
  starts: readonly Draft[],
  { moves, random, window, stop }: RaceOptions,
): { best: Draft | undefined; moves: number } {
  let searches = promising(starts, ROUNDS[0].searches).map((start) => startSearch(tables, items, start));
  let spent = 0;
  let best: Draft | undefined;
  for (const { searches: many, share, hot, cold } of ROUNDS) {
    const order = new Map(searches.map((search) => [search, rank(search)]));
    searches = searches.sort((a, b) => order.get(a)! - order.get(b)!).slice(0, many);
    for (const search of searches) {
      const before = search.moves;
      anneal(search, { moves: share * moves, hot, cold, random, most: 30, window, stop });
      spent += search.moves - before;
    }
  }
  for (const search of searches) if (search.bestMs < (best?.ms ?? Infinity)) best = bestDraft(search);
  return { best, moves: spent };
}

/** The best step so far; of an incomplete plan, what it could become if the items left out made no gaps. */
function rank({ bestMs, state, unplaced }: Search): number {
  if (bestMs < Infinity) return bestMs;
  const { tables, items } = state;
  let missing = 0;
  for (const item of unplaced) {
    let least = Infinity;
    for (let k = 0; k < tables.size.length; k++)
      if (items.tokens[item]! <= tables.capacity[k]!)
        least = Math.min(
          least,
          tables.size[k]! * leastMs(tables, k, items.tokens[item]!, items.pairs[item]!),
        );
    missing += least;
  }
  return objectiveMs(state) + (1.5 * missing) / tables.ranks;
}

/** The most promising, and the best of those that are complete. */
function promising(starts: readonly Draft[], many: number): readonly Draft[] {
  const sorted = starts.toSorted(byMs);
  const complete = sorted.find(({ left }) => left === 0);
  return [...new Set([...(complete === undefined ? [] : [complete]), ...sorted])].slice(0, many);
}
