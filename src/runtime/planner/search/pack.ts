import type { Items } from './items.js';
import { loadMs, type DegreeTables } from './tables.js';

/** A group being packed. */
export interface PackedGroup {
  readonly column: number;
  readonly held: readonly number[];
  readonly ms: number;
}

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
 * First fit decreasing into groups of any allowed degree, none slower than `limitMs`. A long item opens the group
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
  const columns = size.length;
  const most = Math.min(list.length, Math.floor(ranks / size[0]!)) + 1;
  const tokens: Float64Array[] = [];
  const pairs: Float64Array[] = [];
  const loads: Float64Array[] = [];
  const held: number[][][] = [];
  const opened = new Int32Array(columns);
  for (let k = 0; k < columns; k++) {
    const room = Math.min(most, Math.floor(ranks / size[k]!));
    tokens.push(new Float64Array(room));
    pairs.push(new Float64Array(room));
    loads.push(new Float64Array(room));
    held.push([]);
  }
  const left: number[] = [];
  let used = 0;
  for (const item of list) {
    const [s, p] = [items.tokens[item]!, items.pairs[item]!];
    let [fresh, freshCost] = [-1, Infinity];
    let [bestColumn, best, bestCost] = [-1, -1, Infinity];
    for (let k = 0; k < columns; k++) {
      if (s > capacity[k]!) continue;
      const alone = loadMs(tables, k, s, p);
      if (alone > limitMs) continue;
      if (used + size[k]! <= ranks && size[k]! * alone < freshCost)
        [fresh, freshCost] = [k, size[k]! * alone];
    }
    if (!fillFirst) bestCost = freshCost * (1 + 1e-9);
    for (let k = 0; k < columns; k++) {
      const [groupTokens, groupPairs, groupLoads] = [tokens[k]!, pairs[k]!, loads[k]!];
      const roomTokens = capacity[k]! - s;
      let [fullest, fullestMs, now] = [-1, -1, 0];
      for (let g = 0; g < opened[k]!; g++) {
        if (groupTokens[g]! > roomTokens || groupLoads[g]! <= now) continue;
        const ms = loadMs(tables, k, groupTokens[g]! + s, groupPairs[g]! + p);
        if (ms <= limitMs) [fullest, fullestMs, now] = [g, ms, groupLoads[g]!];
      }
      if (fullest < 0) continue;
      const cost = size[k]! * (fullestMs - now);
      if (cost < bestCost) [bestColumn, best, bestCost] = [k, fullest, cost];
    }
    if (best < 0 && fresh >= 0) {
      [bestColumn, best] = [fresh, opened[fresh]!++];
      held[fresh]!.push([]);
      used += size[fresh]!;
    }
    if (best < 0) {
      if (whole) return undefined;
      left.push(item);
      continue;
    }
    const k = bestColumn;
    tokens[k]![best]! += s;
    pairs[k]![best]! += p;
    loads[k]![best] = loadMs(tables, k, tokens[k]![best]!, pairs[k]![best]!);
    held[k]![best]!.push(item);
  }
  const groups: PackedGroup[] = [];
  for (let k = columns - 1; k >= 0; k--)
    for (let g = 0; g < opened[k]!; g++) groups.push({ column: k, held: held[k]![g]!, ms: loads[k]![g]! });
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
