import { invariant } from '../../../errors.js';
import type { Items } from './items.js';
import { loadMs, type DegreeTables } from './tables.js';

/**
 * A plan under change, in flat arrays: nothing is allocated while a search runs. Groups live in slots; a micro-batch
 * lists the slots of its groups, whose sizes add up to at most the number of ranks; a slot links its items. Every
 * change between `begin` and `commit` or `rollback` can be taken back.
 */
export interface SearchState {
  readonly tables: DegreeTables;
  readonly items: Items;
  readonly microBatches: number;
  /** `[slot]`: column of the degree, micro-batch (−1 for none), place in its list. */
  readonly column: Int32Array;
  readonly microBatch: Int32Array;
  readonly position: Int32Array;
  /** `[slot]`: sums over its items, and its time. */
  readonly tokens: Float64Array;
  readonly pairs: Float64Array;
  readonly ms: Float64Array;
  /** `[slot]`: first of its items (−1 for none), and how many they are. */
  readonly first: Int32Array;
  readonly held: Int32Array;
  /** `[item]`: its neighbours, and its slot; −1 for none. */
  readonly next: Int32Array;
  readonly previous: Int32Array;
  readonly slotOf: Int32Array;
  /** Slots of micro-batch m: members[m · width] … members[m · width + groups[m] − 1]. */
  readonly width: number;
  readonly members: Int32Array;
  readonly groups: Int32Array;
  /** `[microBatch]`: its slowest group, without the fixed cost. */
  readonly makespan: Float64Array;
  readonly free: Int32Array;
  frees: number;
  /** Items taken out in this round. */
  readonly removed: Int32Array;
  removes: number;
  readonly log: UndoLog;
}

/** What was there before: slots as they were, items and groups with where they were, in the order of the changes. */
interface UndoLog {
  open: boolean;
  stamp: number;
  readonly slotStamp: Int32Array;
  slots: number;
  readonly slot: Int32Array;
  readonly column: Int32Array;
  readonly tokens: Float64Array;
  readonly pairs: Float64Array;
  readonly ms: Float64Array;
  items: number;
  readonly item: Int32Array;
  readonly itemFrom: Int32Array;
  groups: number;
  readonly group: Int32Array;
  readonly groupFrom: Int32Array;
  readonly makespan: Float64Array;
}

/** An empty plan with room for `microBatches`. */
export function createState(tables: DegreeTables, items: Items, microBatches: number): SearchState {
  // One more than fit: groups that change places come before others go.
  const width = Math.floor(tables.ranks / tables.size[0]!) + 1;
  const slots = (microBatches + 1) * width;
  const { count } = items;
  return {
    tables,
    items,
    microBatches,
    column: new Int32Array(slots),
    microBatch: new Int32Array(slots).fill(-1),
    position: new Int32Array(slots),
    tokens: new Float64Array(slots),
    pairs: new Float64Array(slots),
    ms: new Float64Array(slots),
    first: new Int32Array(slots).fill(-1),
    held: new Int32Array(slots),
    next: new Int32Array(count),
    previous: new Int32Array(count),
    slotOf: new Int32Array(count).fill(-1),
    width,
    members: new Int32Array(microBatches * width),
    groups: new Int32Array(microBatches),
    makespan: new Float64Array(microBatches),
    free: Int32Array.from({ length: slots }, (_, i) => slots - 1 - i),
    frees: slots,
    removed: new Int32Array(count),
    removes: 0,
    log: {
      open: false,
      stamp: 0,
      slotStamp: new Int32Array(slots),
      slots: 0,
      slot: new Int32Array(slots),
      column: new Int32Array(slots),
      tokens: new Float64Array(slots),
      pairs: new Float64Array(slots),
      ms: new Float64Array(slots),
      items: 0,
      // An item leaves and enters once a round; groups are given up by one micro-batch or two.
      item: new Int32Array(2 * count),
      itemFrom: new Int32Array(2 * count),
      groups: 0,
      group: new Int32Array(3 * width + 8),
      groupFrom: new Int32Array(3 * width + 8),
      makespan: new Float64Array(microBatches),
    },
  };
}

/** Sum of the makespans, fixed costs of micro-batches with work included. */
export function objectiveMs({ makespan, tables }: SearchState): number {
  let sum = 0;
  for (let m = 0; m < makespan.length; m++) if (makespan[m]! > 0) sum += tables.microBatchMs + makespan[m]!;
  return sum;
}

export function begin({ log, makespan }: SearchState): void {
  log.open = true;
  log.stamp++;
  log.slots = 0;
  log.items = 0;
  log.groups = 0;
  for (let m = 0; m < makespan.length; m++) log.makespan[m] = makespan[m]!;
}

export function commit({ log }: SearchState): void {
  log.open = false;
}

export function rollback(state: SearchState): void {
  const { log, slotOf, column, tokens, pairs, ms, makespan } = state;
  log.open = false;
  for (let i = log.items - 1; i >= 0; i--) {
    const item = log.item[i]!;
    if (slotOf[item]! >= 0) unlink(state, item);
    if (log.itemFrom[i]! >= 0) link(state, item, log.itemFrom[i]!);
  }
  for (let i = log.groups - 1; i >= 0; i--) {
    const slot = log.group[i]!;
    const to = log.groupFrom[i]!;
    if (state.microBatch[slot]! >= 0) leave(state, slot);
    else state.frees--;
    if (to >= 0) join(state, slot, to);
    else state.free[state.frees++] = slot;
  }
  for (let i = 0; i < log.slots; i++) {
    const slot = log.slot[i]!;
    column[slot] = log.column[i]!;
    tokens[slot] = log.tokens[i]!;
    pairs[slot] = log.pairs[i]!;
    ms[slot] = log.ms[i]!;
  }
  for (let m = 0; m < makespan.length; m++) makespan[m] = log.makespan[m]!;
}

function touch(state: SearchState, slot: number): void {
  const { log } = state;
  if (!log.open || log.slotStamp[slot] === log.stamp) return;
  log.slotStamp[slot] = log.stamp;
  const i = log.slots++;
  log.slot[i] = slot;
  log.column[i] = state.column[slot]!;
  log.tokens[i] = state.tokens[slot]!;
  log.pairs[i] = state.pairs[slot]!;
  log.ms[i] = state.ms[slot]!;
}

function logGroup({ log, microBatch }: SearchState, slot: number): void {
  if (!log.open) return;
  log.group[log.groups] = slot;
  log.groupFrom[log.groups++] = microBatch[slot]!;
}

function logItem({ log, slotOf }: SearchState, item: number): void {
  if (!log.open) return;
  log.item[log.items] = item;
  log.itemFrom[log.items++] = slotOf[item]!;
}

function link({ first, held, next, previous, slotOf }: SearchState, item: number, slot: number): void {
  const head = first[slot]!;
  next[item] = head;
  previous[item] = -1;
  if (head >= 0) previous[head] = item;
  first[slot] = item;
  held[slot] = held[slot]! + 1;
  slotOf[item] = slot;
}

function unlink({ first, held, next, previous, slotOf }: SearchState, item: number): void {
  const slot = slotOf[item]!;
  const after = next[item]!;
  const before = previous[item]!;
  if (before >= 0) next[before] = after;
  else first[slot] = after;
  if (after >= 0) previous[after] = before;
  held[slot] = held[slot]! - 1;
  slotOf[item] = -1;
}

function join({ members, groups, width, position, microBatch }: SearchState, slot: number, m: number): void {
  const at = groups[m]!;
  members[m * width + at] = slot;
  position[slot] = at;
  groups[m] = at + 1;
  microBatch[slot] = m;
}

function leave({ members, groups, width, position, microBatch }: SearchState, slot: number): void {
  const m = microBatch[slot]!;
  const at = position[slot]!;
  const last = members[m * width + groups[m]! - 1]!;
  members[m * width + at] = last;
  position[last] = at;
  groups[m] = groups[m]! - 1;
  microBatch[slot] = -1;
}

/** Adds an empty group and returns its slot. */
export function addGroup(state: SearchState, m: number, column: number): number {
  invariant(state.frees > 0 && state.groups[m]! < state.width, 'the search ran out of group slots');
  const slot = state.free[state.frees - 1]!;
  touch(state, slot);
  logGroup(state, slot);
  state.frees--;
  state.column[slot] = column;
  state.tokens[slot] = 0;
  state.pairs[slot] = 0;
  state.ms[slot] = 0;
  join(state, slot, m);
  return slot;
}

/** Dissolves a group; its items must be gone. */
export function dropGroup(state: SearchState, slot: number): void {
  touch(state, slot);
  logGroup(state, slot);
  leave(state, slot);
  state.free[state.frees++] = slot;
}

/** Moves a group with all it holds to another micro-batch. */
export function transfer(state: SearchState, slot: number, m: number): void {
  logGroup(state, slot);
  leave(state, slot);
  join(state, slot, m);
}

export function place(state: SearchState, item: number, slot: number): void {
  touch(state, slot);
  logItem(state, item);
  link(state, item, slot);
  const { items, tokens, pairs, makespan } = state;
  tokens[slot] = tokens[slot]! + items.tokens[item]!;
  pairs[slot] = pairs[slot]! + items.pairs[item]!;
  const ms = loadMs(state.tables, state.column[slot]!, tokens[slot]!, pairs[slot]!);
  state.ms[slot] = ms;
  const m = state.microBatch[slot]!;
  if (ms > makespan[m]!) makespan[m] = ms;
}

/** Takes an item out; the makespan of its micro-batch is only right again after `settle`. */
export function remove(state: SearchState, item: number): void {
  const slot = state.slotOf[item]!;
  touch(state, slot);
  logItem(state, item);
  unlink(state, item);
  const { items, tokens, pairs } = state;
  // Sums of what is not there are exactly nothing, whatever rounding left.
  const none = state.held[slot] === 0;
  tokens[slot] = none ? 0 : tokens[slot]! - items.tokens[item]!;
  pairs[slot] = none ? 0 : pairs[slot]! - items.pairs[item]!;
  state.ms[slot] = loadMs(state.tables, state.column[slot]!, tokens[slot]!, pairs[slot]!);
  state.removed[state.removes++] = item;
}

/** One of the items of a slot, by number; the order changes as items come and go. */
export function itemAt({ first, next }: SearchState, slot: number, at: number): number {
  let item = first[slot]!;
  for (let i = 0; i < at; i++) item = next[item]!;
  return item;
}

/** Recomputes the makespan of a micro-batch. */
export function settle({ members, groups, width, ms, makespan }: SearchState, m: number): void {
  let most = 0;
  const end = m * width + groups[m]!;
  for (let i = m * width; i < end; i++) {
    const load = ms[members[i]!]!;
    if (load > most) most = load;
  }
  makespan[m] = most;
}
