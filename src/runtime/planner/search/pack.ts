import type { Items } from './items.js';
import { leastIncreaseMs, loadMs, type DegreeTables } from './tables.js';

/** Groups that a list of items was packed into. They have numbers; column k's are base[k] … base[k] + opened[k] − 1. */
export interface Packing {
  /** `[position in the list]` → group, −1 for what fitted nowhere. */
  readonly placedIn: Int32Array;
  readonly base: Int32Array;
  readonly opened: Int32Array;
  /** `[group]` → time. */
  readonly loads: Float64Array;
}

/** A workspace for packing, and what the last packing left in it. */
export interface Packer extends Packing {
  readonly tables: DegreeTables;
  readonly items: Items;
  /** `[item]` → least rank-time of the sequence, time in the fastest group. */
  readonly rankMs: Float64Array;
  readonly fastestMs: Float64Array;
  readonly loads: Float64Array;
  readonly tokens: Float64Array;
  readonly pairs: Float64Array;
  /** Groups of column k with room for more, ascending by load, at head[k] … tail[k] − 1: new ones come in front. */
  readonly order: Int32Array;
  readonly head: Int32Array;
  readonly tail: Int32Array;
  /** Tokens of the smallest item of the list. */
  smallest: number;
  /** Items that fitted nowhere. */
  left: number;
  /** Of the slowest group. */
  ms: number;
  /** `[column]`, of the item at hand: its time alone, and what it adds to a group at least. */
  readonly alone: Float64Array;
  readonly least: Float64Array;
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
    // At most one group an item in every column.
    loads: new Float64Array(columns * count),
    tokens: new Float64Array(columns * count),
    pairs: new Float64Array(columns * count),
    order: new Int32Array(columns * count),
    head: new Int32Array(columns),
    tail: new Int32Array(columns),
    smallest: 0,
    left: 0,
    ms: 0,
    alone: new Float64Array(columns),
    least: new Float64Array(columns),
  };
}

/** The last packing of a list, kept while the packer goes on. */
export function keepPacking({ placedIn, base, opened, loads }: Packer, length: number): Packing {
  const last = base.length - 1;
  return {
    placedIn: placedIn.slice(0, length),
    base: base.slice(),
    opened: opened.slice(),
    loads: loads.slice(0, base[last]! + opened[last]!),
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

/** Groups of a column that are looked at for one item. */
const LOOKS = 48;

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
  const { tables, items, placedIn, alone, least, base, opened, head, tail } = packer;
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
      for (let k = 0; k < columns; k++) {
        alone[k] = s > capacity[k]! ? Infinity : loadMs(tables, k, s, p);
        least[k] = leastIncreaseMs(tables, k, s, p);
      }
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
      const from = head[k]!;
      if (from === tail[k] || alone[k]! > limitMs || size[k]! * least[k]! >= bestCost) continue;
      // Positions before `at` have time for the item at best: latency and overlap may still be in the way.
      let at = from;
      let end = tail[k]!;
      const most = slack - least[k]!;
      while (at < end) {
        const middle = (at + end) >> 1;
        if (loads[order[middle]!]! <= most) at = middle + 1;
        else end = middle;
      }
      // The fullest groups may lack memory for it; beyond a few of them, only the emptiest is worth a look.
      let looks = 0;
      for (at--; at >= from; at--) {
        if (++looks === LOOKS) at = from;
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

/** Empties the workspace: every column gets room for as many groups as a packing can open. */
function reset(packer: Packer, list: Int32Array, ranks: number): void {
  const { size } = packer.tables;
  const most = list.length;
  packer.smallest = most === 0 ? 0 : packer.items.tokens[list[most - 1]!]!;
  let total = 0;
  for (let k = 0; k < size.length; k++) {
    packer.base[k] = total;
    total += Math.min(most, Math.floor(ranks / size[k]!));
    packer.head[k] = total;
    packer.tail[k] = total;
    packer.opened[k] = 0;
  }
}

/** Opens a group of a column. @returns its position */
function openGroup({ base, head, opened, order, loads, tokens, pairs }: Packer, column: number): number {
  const g = base[column]! + opened[column]!;
  opened[column] = opened[column]! + 1;
  loads[g] = 0;
  tokens[g] = 0;
  pairs[g] = 0;
  const at = head[column]! - 1;
  head[column] = at;
  order[at] = g;
  return at;
}

/** Adds an item to the group at a position and keeps the order; a group without room for more is closed. */
function addItem(packer: Packer, column: number, position: number, s: number, p: number): number {
  const { tables, tail, order, loads, tokens, pairs } = packer;
  const g = order[position]!;
  tokens[g] = tokens[g]! + s;
  pairs[g] = pairs[g]! + p;
  const load = loadMs(tables, column, tokens[g]!, pairs[g]!);
  loads[g] = load;
  const end = tail[column]!;
  const full = tokens[g]! + packer.smallest > tables.capacity[column]!;
  const passes = full ? Infinity : load;
  let at = position + 1;
  for (; at < end && loads[order[at]!]! < passes; at++) order[at - 1] = order[at]!;
  if (full) tail[column] = end - 1;
  else order[at - 1] = g;
  return g;
}

/** Multiples of what no packing can beat that are tried first: a good packing is close to it. */
const FIRST_TRIES = [1.01, 1.05, 1.2, 1.8];

/**
 * MULTIFIT (Coffman, Garey and Johnson, 1978) with groups of several sizes: the least time limit, by bisection, within
 * which that many micro-batches of equal length take the whole list, longest first.
 * @returns what memory lets in, if it does not let in all
 */
export function packEvenly(
  packer: Packer,
  list: Int32Array,
  microBatches: number,
  fillFirst: boolean,
  rounds: number,
): Packing & { readonly left: number; readonly ms: number } {
  const ranks = microBatches * packer.tables.ranks;
  const least = lowestMs(packer, list, ranks);
  let best: ReturnType<typeof packEvenly> | undefined;
  let [low, high] = [least, Infinity];
  for (let round = 0; round < rounds && high - low > 1e-3 * low; round++) {
    const limitMs = best === undefined ? least * (FIRST_TRIES[round] ?? 4) : (low + high) / 2;
    if (packWithin(packer, list, { limitMs, ranks, fillFirst, whole: true })) {
      best = { ...keepPacking(packer, list.length), left: 0, ms: packer.ms };
      high = Math.min(limitMs, packer.ms);
    } else low = limitMs;
  }
  if (best !== undefined) return best;
  if (!packWithin(packer, list, { limitMs: Infinity, ranks, fillFirst, whole: true }))
    packWithin(packer, list, { limitMs: Infinity, ranks, fillFirst: true, whole: false });
  return { ...keepPacking(packer, list.length), left: packer.left, ms: packer.ms };
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
