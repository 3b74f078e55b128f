import type { Items } from './items.js';
import { createShelf, type PackedGroup } from './shelf.js';
import { loadMs, type DegreeTables } from './tables.js';

export interface Packing {
  readonly groups: readonly PackedGroup[];
  /** Items that fitted nowhere. */
  readonly left: readonly number[];
  readonly ms: number;
}

export interface PackingOptions {
  /** Ranks that the groups may take together: those of one micro-batch, or of several. */
  readonly ranks: number;
  /** Whether items fill open groups before they open one that costs less rank-time. */
  readonly fillFirst: boolean;
  /** Gives up at the first item that fits nowhere. */
  readonly whole: boolean;
}

/**
 * Best fit decreasing into groups of any allowed degree, none slower than `limitMs`. A long item opens the group
 * that spends the least rank-time on it; among open groups of one degree the fullest that has room takes it.
 * @returns undefined if `whole` is asked for and something is left
 */
export function packWithin(
  tables: DegreeTables,
  items: Items,
  list: readonly number[],
  limitMs: number,
  { ranks, fillFirst, whole }: PackingOptions,
): Packing | undefined {
  const { size, capacity } = tables;
  const smallest = list.length === 0 ? 0 : items.tokens[list[list.length - 1]!]!;
  const shelves = Array.from(size, (ranksOfGroup, k) =>
    createShelf(tables, k, Math.min(list.length, Math.floor(ranks / ranksOfGroup)), limitMs, smallest),
  );
  const alone = new Float64Array(size.length);
  const left: number[] = [];
  let used = 0;
  let previous = -1;
  for (const item of list) {
    const s = items.tokens[item]!;
    const p = items.pairs[item]!;
    if (s !== previous)
      for (let k = 0; k < alone.length; k++) alone[k] = s > capacity[k]! ? Infinity : loadMs(tables, k, s, p);
    previous = s;
    let fresh = -1;
    let freshCost = Infinity;
    for (let k = 0; k < alone.length; k++)
      if (alone[k]! <= limitMs && used + size[k]! <= ranks && size[k]! * alone[k]! < freshCost) {
        fresh = k;
        freshCost = size[k]! * alone[k]!;
      }
    let bestColumn = -1;
    let best = -1;
    let bestCost = fillFirst ? Infinity : freshCost * (1 + 1e-9);
    for (let k = 0; k < alone.length; k++) {
      if (alone[k]! > limitMs) continue;
      const at = shelves[k]!.find(s, p);
      if (at < 0) continue;
      const cost = size[k]! * shelves[k]!.increase(at, s, p);
      if (cost >= bestCost) continue;
      bestColumn = k;
      best = at;
      bestCost = cost;
    }
    if (best < 0 && fresh >= 0) {
      bestColumn = fresh;
      best = shelves[fresh]!.open();
      used += size[fresh]!;
    }
    if (best >= 0) shelves[bestColumn]!.add(best, item, s, p);
    else if (whole) return undefined;
    else left.push(item);
  }
  const groups = shelves.toReversed().flatMap((shelf) => shelf.groups());
  return { groups, left, ms: groups.reduce((slowest, group) => Math.max(slowest, group.ms), 0) };
}

/**
 * MULTIFIT (Coffman, Garey and Johnson, 1978) with groups of several sizes: the least time limit, by bisection,
 * within which that many micro-batches of equal length take the whole list, longest first.
 * @returns what memory lets in, if it does not let in all
 */
export function packEvenly(
  tables: DegreeTables,
  items: Items,
  list: readonly number[],
  microBatches: number,
  fillFirst: boolean,
  rounds: number,
): Packing {
  const ranks = microBatches * tables.ranks;
  const whole = packWithin(tables, items, list, Infinity, { ranks, fillFirst, whole: true });
  if (whole === undefined)
    return packWithin(tables, items, list, Infinity, { ranks, fillFirst: true, whole: false })!;
  let best = whole;
  let low = lowestMs(tables, items, list, ranks);
  let high = best.ms;
  for (let round = 0; round < rounds && high - low > 1e-3 * high; round++) {
    // A good packing is close to what no packing can beat: look there first.
    const limit = low + (high - low) * (round === 0 ? 0.02 : round === 1 ? 0.15 : 0.5);
    const tried = packWithin(tables, items, list, limit, { ranks, fillFirst, whole: true });
    if (tried === undefined) low = limit;
    else [best, high] = [tried, Math.min(limit, tried.ms)];
  }
  return best;
}

/** Where bisection starts: no packing is faster. */
function lowestMs(tables: DegreeTables, items: Items, list: readonly number[], ranks: number): number {
  let [work, longest] = [0, 0];
  for (const item of list) {
    const least = leastRankTime(tables, items.tokens[item]!, items.pairs[item]!);
    work += least.rankMs;
    longest = Math.max(longest, least.fastestMs);
  }
  return Math.max(work / ranks, longest);
}

/** What a sequence costs by itself: rank-time in the group that spends least on it, time in the fastest group. */
export function leastRankTime(
  tables: DegreeTables,
  tokens: number,
  pairs: number,
): { rankMs: number; fastestMs: number } {
  let [rankMs, fastestMs] = [Infinity, Infinity];
  for (let k = 0; k < tables.size.length; k++) {
    if (tokens > tables.capacity[k]!) continue;
    const ms = loadMs(tables, k, tokens, pairs);
    rankMs = Math.min(rankMs, tables.size[k]! * ms);
    fastestMs = Math.min(fastestMs, ms);
  }
  return { rankMs, fastestMs };
}
