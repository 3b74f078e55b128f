import type { Items } from './items.js';
import { leastRankTime } from './pack.js';
import type { Random } from './ruin.js';
import { anneal, startSearch, type Search, type Snapshot } from './search.js';
import { objectiveMs } from './state.js';
import type { Start } from './start.js';
import type { DegreeTables } from './tables.js';

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
  { searches: 8, share: 0.04, hot: 0.003, cold: 0.0003 },
  { searches: 3, share: 0.1, hot: 0.001, cold: 0.0001 },
  { searches: 1, share: 0.38, hot: 0.0005, cold: 0.00001 },
] as const;

/** Successive halving: many first plans are improved a little, the best of them more, the best one most. */
export function race(
  tables: DegreeTables,
  items: Items,
  starts: readonly Start[],
  options: RaceOptions,
): { best: Snapshot | undefined; moves: number } {
  const { moves, random, window, stop } = options;
  let searches = diverse(starts, ROUNDS[0].searches).map((start) => startSearch(tables, items, start));
  let spent = 0;
  let best: Snapshot | undefined;
  for (const { searches: many, share, hot, cold } of ROUNDS) {
    searches = searches.sort((a, b) => rank(a) - rank(b)).slice(0, many);
    for (const search of searches) {
      const before = search.moves;
      anneal(search, { moves: share * moves, hot, cold, random, most: 30, window, stop });
      spent += search.moves - before;
      if (search.best !== undefined && search.best.objective < (best?.objective ?? Infinity))
        best = search.best;
    }
  }
  return { best, moves: spent };
}

/** The best step so far; of an incomplete plan, what it could become if the items left out made no gaps. */
function rank({ best, state, unplaced }: Search): number {
  if (best !== undefined) return best.objective;
  const { tables, items } = state;
  let missing = 0;
  for (const item of unplaced)
    missing += leastRankTime(tables, items.tokens[item]!, items.pairs[item]!).rankMs;
  return objectiveMs(state) + (1.5 * missing) / tables.ranks;
}

/** The first of every number of micro-batches, even where items are left over; then the first of all. */
function diverse(starts: readonly Start[], many: number): readonly Start[] {
  const heads = [
    ...new Map(starts.toReversed().map((start) => [start.microBatches.length, start])).values(),
  ].slice(-3);
  const chosen = new Set(heads);
  for (const start of starts) if (chosen.size < many) chosen.add(start);
  return [...chosen];
}
