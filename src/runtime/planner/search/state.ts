import { invariant } from '../../../errors.js';
import type { Items } from './items.js';
import { loadMs, type DegreeTables } from './tables.js';

/**
 * A plan under change. Groups live in slots; a micro-batch lists the slots of its groups, whose sizes add up to at
 * most the number of ranks. Every change between `begin` and `commit` or `rollback` can be taken back.
 */
export interface SearchState {
  readonly tables: DegreeTables;
  readonly items: Items;
  /** Column of the slot's degree in `tables`. */
  readonly column: Int32Array;
  readonly microBatch: Int32Array;
  readonly tokens: Float64Array;
  readonly pairs: Float64Array;
  readonly ms: Float64Array;
  readonly held: number[][];
  /** `[item]` → slot, −1 while it is nowhere. */
  readonly slotOf: Int32Array;
  readonly members: number[][];
  /** Slowest group of each micro-batch, without the fixed cost. */
  readonly makespan: Float64Array;
  readonly free: number[];
  readonly log: UndoLog;
}

interface UndoLog {
  open: boolean;
  stamp: number;
  readonly slotStamp: Int32Array;
  readonly memberStamp: Int32Array;
  readonly slots: {
    slot: number;
    column: number;
    microBatch: number;
    tokens: number;
    pairs: number;
    ms: number;
    held: number[];
  }[];
  readonly members: { microBatch: number; members: number[] }[];
  readonly makespan: Float64Array;
}

/** An empty plan with room for `microBatches`. */
export function createState(tables: DegreeTables, items: Items, microBatches: number): SearchState {
  const slots = microBatches * Math.ceil(tables.ranks / tables.size[0]!) + 2 * tables.ranks;
  return {
    tables,
    items,
    column: new Int32Array(slots),
    microBatch: new Int32Array(slots).fill(-1),
    tokens: new Float64Array(slots),
    pairs: new Float64Array(slots),
    ms: new Float64Array(slots),
    held: Array.from({ length: slots }, () => []),
    slotOf: new Int32Array(items.count).fill(-1),
    members: Array.from({ length: microBatches }, () => []),
    makespan: new Float64Array(microBatches),
    free: Array.from({ length: slots }, (_, i) => slots - 1 - i),
    log: {
      open: false,
      stamp: 0,
      slotStamp: new Int32Array(slots),
      memberStamp: new Int32Array(microBatches),
      slots: [],
      members: [],
      makespan: new Float64Array(microBatches),
    },
  };
}

/** Sum of the makespans, fixed costs of micro-batches with work included. */
export function objectiveMs(state: SearchState): number {
  let sum = 0;
  for (const ms of state.makespan) if (ms > 0) sum += state.tables.microBatchMs + ms;
  return sum;
}

function touch(state: SearchState, slot: number): void {
  const { log } = state;
  if (!log.open || log.slotStamp[slot] === log.stamp) return;
  log.slotStamp[slot] = log.stamp;
  log.slots.push({
    slot,
    column: state.column[slot]!,
    microBatch: state.microBatch[slot]!,
    tokens: state.tokens[slot]!,
    pairs: state.pairs[slot]!,
    ms: state.ms[slot]!,
    held: state.held[slot]!.slice(),
  });
}

function touchMembers(state: SearchState, microBatch: number): void {
  const { log } = state;
  if (!log.open || log.memberStamp[microBatch] === log.stamp) return;
  log.memberStamp[microBatch] = log.stamp;
  log.members.push({ microBatch, members: state.members[microBatch]!.slice() });
}

export function begin(state: SearchState): void {
  const { log } = state;
  log.open = true;
  log.stamp++;
  log.slots.length = 0;
  log.members.length = 0;
  log.makespan.set(state.makespan);
}

export function commit(state: SearchState): void {
  state.log.open = false;
}

export function rollback(state: SearchState): void {
  const { log } = state;
  log.open = false;
  for (const saved of log.slots) for (const item of state.held[saved.slot]!) state.slotOf[item] = -1;
  for (const saved of log.slots) {
    const { slot } = saved;
    if (saved.microBatch < 0 && state.microBatch[slot]! >= 0) state.free.push(slot);
    else if (saved.microBatch >= 0 && state.microBatch[slot]! < 0)
      state.free.splice(state.free.lastIndexOf(slot), 1);
    state.column[slot] = saved.column;
    state.microBatch[slot] = saved.microBatch;
    state.tokens[slot] = saved.tokens;
    state.pairs[slot] = saved.pairs;
    state.ms[slot] = saved.ms;
    state.held[slot] = saved.held;
    for (const item of saved.held) state.slotOf[item] = slot;
  }
  for (const { microBatch, members } of log.members) state.members[microBatch] = members;
  state.makespan.set(log.makespan);
}

/** Adds an empty group and returns its slot. */
export function addGroup(state: SearchState, microBatch: number, column: number): number {
  const slot = state.free.pop();
  invariant(slot !== undefined, 'the search ran out of group slots');
  touch(state, slot);
  touchMembers(state, microBatch);
  state.column[slot] = column;
  state.microBatch[slot] = microBatch;
  state.tokens[slot] = 0;
  state.pairs[slot] = 0;
  state.ms[slot] = 0;
  state.held[slot] = [];
  state.members[microBatch]!.push(slot);
  return slot;
}

/** Dissolves a group; its items must be gone. */
export function dropGroup(state: SearchState, slot: number): void {
  const microBatch = state.microBatch[slot]!;
  touch(state, slot);
  touchMembers(state, microBatch);
  const list = state.members[microBatch]!;
  list[list.indexOf(slot)] = list[list.length - 1]!;
  list.pop();
  state.microBatch[slot] = -1;
  state.free.push(slot);
}

/** Moves a group with all it holds to another micro-batch. */
export function transfer(state: SearchState, slot: number, microBatch: number): void {
  const from = state.microBatch[slot]!;
  touch(state, slot);
  touchMembers(state, from);
  touchMembers(state, microBatch);
  const list = state.members[from]!;
  list[list.indexOf(slot)] = list[list.length - 1]!;
  list.pop();
  state.members[microBatch]!.push(slot);
  state.microBatch[slot] = microBatch;
}

export function place(state: SearchState, item: number, slot: number): void {
  touch(state, slot);
  const { items, tables } = state;
  state.held[slot]!.push(item);
  state.slotOf[item] = slot;
  const tokens = (state.tokens[slot] = state.tokens[slot]! + items.tokens[item]!);
  const pairs = (state.pairs[slot] = state.pairs[slot]! + items.pairs[item]!);
  const ms = (state.ms[slot] = loadMs(tables, state.column[slot]!, tokens, pairs));
  const m = state.microBatch[slot]!;
  if (ms > state.makespan[m]!) state.makespan[m] = ms;
}

/** Takes an item out; the makespan of its micro-batch is only right again after `settle`. */
export function remove(state: SearchState, item: number): void {
  const slot = state.slotOf[item]!;
  touch(state, slot);
  const { items, tables } = state;
  const list = state.held[slot]!;
  list[list.indexOf(item)] = list[list.length - 1]!;
  list.pop();
  state.slotOf[item] = -1;
  const tokens = (state.tokens[slot] = state.tokens[slot]! - items.tokens[item]!);
  const pairs = (state.pairs[slot] = state.pairs[slot]! - items.pairs[item]!);
  state.ms[slot] = loadMs(tables, state.column[slot]!, tokens, pairs);
}

/** Recomputes the makespan of a micro-batch. */
export function settle(state: SearchState, microBatch: number): void {
  let most = 0;
  for (const slot of state.members[microBatch]!) if (state.ms[slot]! > most) most = state.ms[slot]!;
  state.makespan[microBatch] = most;
}
