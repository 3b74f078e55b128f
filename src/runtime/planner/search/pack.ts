import type { Items } from './items.js';
import { leastIncreaseMs, loadMs, type DegreeTables } from './tables.js';

/**
 * A workspace for packing lists of items into groups: what the last packing left in it. Groups have numbers; those of
 * column k are base[k] … base[k] + opened[k] − 1.
 */
export interface Packer {
  readonly tables: DegreeTables;
  readonly items: Items;
  /** `[item]` → least rank-time of the sequence, time in the fastest group. */
  readonly rankMs: Float64Array;
  readonly fastestMs: Float64Array;
  /** `[position in the list]` → group, −1 for what fitted nowhere. */
  readonly placedIn: Int32Array;
  readonly base: Int32Array;
  readonly opened: Int32Array;
  /** `[group]`. */
  loads: Float64Array;
  tokens: Float64Array;
  pairs: Float64Array;
  /** Groups of column k with room for more, ascending by load, at base[k] … base[k] + open[k] − 1. */
  order: Int32Array;
  readonly open: Int32Array;
  /** Tokens of the smallest item of the list. */
  smallest: number;
  /** Items that fitted nowhere. */
  left: number;
  /** Of the slowest group. */
  ms: number;
  readonly alone: Float64Array;
}

export function createPacker(tables: DegreeTables, items: Items): Packer {
  const { count } = items;
  const columns = tables.size.length;
  const rankMs = new Float64Array(count);
  const fastestMs = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    let [least, fastest] = [Infinity, Infinity];
    for (let k = 0; k < columns; k++) {
      if (items.tokens[i]! > tables.capacity[k]!) continue;
      const ms = loadMs(tables, k, items.tokens[i]!, items.pairs[i]!);
      if (tables.size[k]! * ms < least) least = tables.size[k]! * ms;
      if (ms < fastest) fastest = ms;
    }
    rankMs[i] = least;
    fastestMs[i] = fastest;
  }
  return {
    tables,
    items,
    rankMs,
    fastestMs,
    placedIn: new Int32Array(count),
    base: new Int32Array(columns),
    opened: new Int32Array(columns),
    loads: new Float64Array(0),
    tokens: new Float64Array(0),
    pairs: new Float64Array(0),
    order: new Int32Array(0),
    open: new Int32Array(columns),
    smallest: 0,
    left: 0,
    ms: 0,
    alone: new Float64Array(columns),
  };
}

export interface PackingOptions {
  /** No group takes longer. */
  readonly limitMs: number;
  /** Ranks that the groups may take together: those of one micro-batch, or of several. */
  readonly ranks: number;
  /** Whether items fill open groups before they open one that costs less rank-time. */
  readonly fillFirst: boolean;
  /** Gives up at the first item that fits nowhere. */
  readonly whole: boolean;
}

/**
 * Best fit decreasing into groups of any allowed degree, none slower than a limit. A long item opens the group that
 * spends the least rank-time on it; among open groups of one degree the fullest that has room takes it. The groups are
 * in the packer afterwards.
 * @returns false if `whole` is asked for and something is left
 */
export function packWithin(
  packer: Packer,
  list: Int32Array,
  { limitMs, ranks, fillFirst, whole }: PackingOptions,
): boolean {
  const { tables, items, placedIn, alone, base, opened, open } = packer;
  const { size, capacity } = tables;
  const columns = size.length;
  reset(packer, list, ranks);
  const { loads, tokens, order } = packer;
  const slack = limitMs * (1 + 1e-9);
  let used = 0;
  let left = 0;
  let previous = -1;
  for (let i = 0; i < list.length; i++) {
    const item = list[i]!;
    const s = items.tokens[item]!;
    const p = items.pairs[item]!;
    if (s !== previous) {
      for (let k = 0; k < columns; k++) alone[k] = s > capacity[k]! ? Infinity : loadMs(tables, k, s, p);
      previous = s;
    }
    let fresh = -1;
    let freshCost = Infinity;
    for (let k = 0; k < columns; k++) {
      const cost = size[k]! * alone[k]!;
      if (cost < freshCost && alone[k]! <= limitMs && used + size[k]! <= ranks) {
        fresh = k;
        freshCost = cost;
      }
    }
    let bestColumn = -1;
    let bestAt = -1;
    let bestCost = fillFirst ? Infinity : freshCost * (1 + 1e-9);
    for (let k = 0; k < columns; k++) {
      if (open[k] === 0 || alone[k]! > limitMs) continue;
      const from = base[k]!;
      // Positions before `at` have time for the item at best: latency and overlap may still be in the way.
      let at = from;
      let end = from + open[k]!;
      const most = slack - leastIncreaseMs(tables, k, s, p);
      while (at < end) {
        const middle = (at + end) >> 1;
        if (loads[order[middle]!]! <= most) at = middle + 1;
        else end = middle;
      }
      for (at--; at >= from; at--) {
        const g = order[at]!;
        if (tokens[g]! + s > capacity[k]!) continue;
        const load = loadMs(tables, k, tokens[g]! + s, packer.pairs[g]! + p);
        if (load > limitMs) continue;
        const cost = size[k]! * (load - loads[g]!);
        if (cost < bestCost) {
          bestColumn = k;
          bestAt = at;
          bestCost = cost;
        }
        break;
      }
    }
    if (bestAt < 0 && fresh >= 0) {
      bestColumn = fresh;
      bestAt = openGroup(packer, fresh);
      used += size[fresh]!;
    }
    if (bestAt >= 0) placedIn[i] = addItem(packer, bestColumn, bestAt, s, p);
    else {
      if (whole) return false;
      placedIn[i] = -1;
      left++;
    }
  }
  let slowest = 0;
  for (let k = 0; k < columns; k++)
    for (let g = base[k]!; g < base[k]! + opened[k]!; g++) if (loads[g]! > slowest) slowest = loads[g]!;
  packer.left = left;
  packer.ms = slowest;
  return true;
}

/** Empties the workspace, and makes room for as many groups as a packing can open. */
function reset(packer: Packer, list: Int32Array, ranks: number): void {
  const { size } = packer.tables;
  const most = list.length;
  packer.smallest = most === 0 ? 0 : packer.items.tokens[list[most - 1]!]!;
  let total = 0;
  for (let k = 0; k < size.length; k++) {
    packer.base[k] = total;
    total += Math.min(most, Math.floor(ranks / size[k]!));
  }
  packer.opened.fill(0);
  packer.open.fill(0);
  if (total <= packer.loads.length) return;
  packer.loads = new Float64Array(total);
  packer.tokens = new Float64Array(total);
  packer.pairs = new Float64Array(total);
  packer.order = new Int32Array(total);
}

/** Opens a group of a column. @returns its position */
function openGroup({ base, open, opened, order, loads, tokens, pairs }: Packer, column: number): number {
  const from = base[column]!;
  const g = from + opened[column]!;
  opened[column] = opened[column]! + 1;
  loads[g] = 0;
  tokens[g] = 0;
  pairs[g] = 0;
  const end = from + open[column]!;
  for (let at = end; at > from; at--) order[at] = order[at - 1]!;
  order[from] = g;
  open[column] = open[column]! + 1;
  return from;
}

/** Adds an item to the group at a position and keeps the order; a group without room for more is closed. @returns the group */
function addItem(packer: Packer, column: number, position: number, s: number, p: number): number {
  const { tables, base, open, order, loads, tokens, pairs } = packer;
  const g = order[position]!;
  tokens[g] = tokens[g]! + s;
  pairs[g] = pairs[g]! + p;
  const load = (loads[g] = loadMs(tables, column, tokens[g]!, pairs[g]!));
  const end = base[column]! + open[column]!;
  const full = tokens[g]! + packer.smallest > tables.capacity[column]!;
  let at = position + 1;
  for (; at < end && (full || loads[order[at]!]! < load); at++) order[at - 1] = order[at]!;
  if (full) open[column] = open[column]! - 1;
  else order[at - 1] = g;
  return g;
}

/**
 * MULTIFIT (Coffman, Garey and Johnson, 1978) with groups of several sizes: the least time limit, by bisection, within
 * which that many micro-batches of equal length take the whole list, longest first. Leaves in the packer what memory
 * lets in, if it does not let in all.
 */
export function packEvenly(
  packer: Packer,
  list: Int32Array,
  microBatches: number,
  fillFirst: boolean,
  rounds: number,
): void {
  const ranks = microBatches * packer.tables.ranks;
  if (!packWithin(packer, list, { limitMs: Infinity, ranks, fillFirst, whole: true })) {
    packWithin(packer, list, { limitMs: Infinity, ranks, fillFirst: true, whole: false });
    return;
  }
  let [low, high, best] = [lowestMs(packer, list, ranks), packer.ms, Infinity];
  let last = true;
  for (let round = 0; round < rounds && high - low > 1e-3 * high; round++) {
    // A good packing is close to what no packing can beat: look there first.
    const limitMs = low + (high - low) * (round === 0 ? 0.02 : round === 1 ? 0.15 : 0.5);
    last = packWithin(packer, list, { limitMs, ranks, fillFirst, whole: true });
    if (last) [best, high] = [limitMs, Math.min(limitMs, packer.ms)];
    else low = limitMs;
  }
  if (!last) packWithin(packer, list, { limitMs: best, ranks, fillFirst, whole: true });
}

/** Where bisection starts: no packing is faster. */
function lowestMs({ rankMs, fastestMs }: Packer, list: Int32Array, ranks: number): number {
  let [work, longest] = [0, 0];
  for (let i = 0; i < list.length; i++) {
    work += rankMs[list[i]!]!;
    if (fastestMs[list[i]!]! > longest) longest = fastestMs[list[i]!]!;
  }
  return Math.max(work / ranks, longest);
}
