import { placeable } from '../place.js';
import { addGroup, dropGroup, remove, settle, transfer, type SearchState } from './state.js';
import type { DegreeTables } from './tables.js';

export type Random = () => number;

/** A number in [0, 1). */
export const unit = (random: Random): number => random() / 2 ** 32;

/** One of the list; the bias of the remainder is below 2⁻²⁰ for any list a search holds. */
const pick = (random: Random, bound: number): number => random() % bound;

/** Slot of the slowest group. */
function slowest(state: SearchState, microBatch: number): number {
  let best = -1;
  let most = -1;
  for (const slot of state.members[microBatch]!)
    if (state.ms[slot]! > most) {
      best = slot;
      most = state.ms[slot]!;
    }
  return best;
}

function clear(state: SearchState, slot: number, removed: number[]): void {
  const held = state.held[slot]!.slice();
  for (const item of held) {
    remove(state, item);
    removed.push(item);
  }
}

/** A random way to fill `total` ranks with allowed groups; what no group fits into stays idle. */
function compose(tables: DegreeTables, total: number, random: Random): number[] {
  const columns: number[] = [];
  let rest = total;
  let allowed = tables.size.length;
  while (rest > 0) {
    while (allowed > 0 && tables.size[allowed - 1]! > rest) allowed--;
    if (allowed === 0) break;
    const k = pick(random, allowed);
    const size = tables.size[k]!;
    const times = pick(random, 2) === 0 ? 1 : Math.floor(rest / size);
    for (let i = 0; i < times; i++) columns.push(k);
    rest -= times * size;
  }
  return columns;
}

/**
 * Dissolves a few groups of a micro-batch and shares their ranks, and the idle ones, out anew.
 * @returns false if the ranks cannot be shared out otherwise, or the groups hold more than `most` items
 */
export function reshape(
  state: SearchState,
  microBatch: number,
  most: number,
  random: Random,
  removed: number[],
): boolean {
  const { tables } = state;
  const slots = state.members[microBatch]!;
  if (slots.length === 0) return false;
  const chosen = [pick(random, 2) === 0 ? slowest(state, microBatch) : slots[pick(random, slots.length)]!];
  const others = Math.min(slots.length - 1, pick(random, 4));
  for (let i = 0; i < others; i++) {
    const slot = slots[pick(random, slots.length)]!;
    if (!chosen.includes(slot)) chosen.push(slot);
  }
  let [freed, used, held] = [0, 0, 0];
  for (const slot of slots) used += tables.size[state.column[slot]!]!;
  for (const slot of chosen) {
    freed += tables.size[state.column[slot]!]!;
    held += state.held[slot]!.length;
  }
  if (held > most) return false;
  const columns = compose(tables, freed + tables.ranks - used, random);
  if (columns.length === chosen.length) {
    const before = chosen.map((slot) => state.column[slot]!).sort((a, b) => a - b);
    const after = columns.slice().sort((a, b) => a - b);
    if (before.every((k, i) => k === after[i])) return false;
  }
  const kept = slots
    .filter((slot) => !chosen.includes(slot))
    .map((slot) => tables.size[state.column[slot]!]!);
  const sizes = [...kept, ...columns.map((k) => tables.size[k]!)];
  if (!placeable(sizes, tables.ranks, tables.ranksPerNode)) return false;
  for (const slot of chosen) {
    clear(state, slot, removed);
    dropGroup(state, slot);
  }
  for (const k of columns) addGroup(state, microBatch, k);
  settle(state, microBatch);
  return true;
}

/** Empties the slowest group of a micro-batch and some others, wherever they are, or takes a few of their items. */
export function empty(
  state: SearchState,
  microBatch: number,
  most: number,
  random: Random,
  removed: number[],
): boolean {
  const groups = 1 + pick(random, 4);
  for (let i = 0; i < groups; i++) {
    const m = i === 0 ? microBatch : pick(random, state.members.length);
    const slots = state.members[m]!;
    if (slots.length === 0) continue;
    const slot = i === 0 || pick(random, 3) === 0 ? slowest(state, m) : slots[pick(random, slots.length)]!;
    const held = state.held[slot]!;
    if (held.length === 0) continue;
    if (removed.length + held.length <= most && pick(random, 2) === 0) clear(state, slot, removed);
    else {
      const take = Math.min(held.length, 1 + pick(random, 6));
      for (let j = 0; j < take; j++) {
        const item = held[pick(random, held.length)]!;
        remove(state, item);
        removed.push(item);
      }
    }
    settle(state, m);
  }
  return removed.length > 0;
}

/** Takes just so much out of every group of a micro-batch that it could end a few per cent earlier. */
export function lower(
  state: SearchState,
  microBatch: number,
  most: number,
  random: Random,
  removed: number[],
): boolean {
  const ceiling = state.makespan[microBatch]! * (1 - 0.08 * unit(random) ** 2);
  for (const slot of state.members[microBatch]!) {
    while (state.ms[slot]! > ceiling && state.held[slot]!.length > 0) {
      if (removed.length >= most) break;
      const held = state.held[slot]!;
      const item = held[pick(random, held.length)]!;
      remove(state, item);
      removed.push(item);
    }
  }
  settle(state, microBatch);
  return removed.length > 0;
}

/**
 * Groups of two micro-batches change places, ranks for ranks, with all they hold: a group of the first against
 * groups of the second that together have as many ranks.
 */
export function exchange(state: SearchState, microBatch: number, random: Random): boolean {
  const { tables, members, column } = state;
  const other = pick(random, members.length);
  const slots = members[microBatch]!;
  const others = members[other]!;
  if (other === microBatch || slots.length === 0 || others.length === 0) return false;
  const given = slots[pick(random, slots.length)]!;
  let rest = tables.size[column[given]!]!;
  const taken: number[] = [];
  const from = pick(random, others.length);
  for (let i = 0; i < others.length && rest > 0; i++) {
    const slot = others[(from + i) % others.length]!;
    const size = tables.size[column[slot]!]!;
    if (size > rest) continue;
    taken.push(slot);
    rest -= size;
  }
  if (rest > 0) return false;
  transfer(state, given, other);
  for (const slot of taken) transfer(state, slot, microBatch);
  for (const m of [microBatch, other]) {
    settle(state, m);
    if (!isPlaceable(state, m)) return false;
  }
  return true;
}

const isPlaceable = ({ tables, members, column }: SearchState, m: number): boolean =>
  placeable(
    members[m]!.map((slot) => tables.size[column[slot]!]!),
    tables.ranks,
    tables.ranksPerNode,
  );

/** Takes out items of like lengths from all over the plan. */
export function window(state: SearchState, most: number, random: Random, removed: number[]): boolean {
  const { count } = state.items;
  const span = Math.min(count, most * 3);
  const from = pick(random, count - span + 1);
  const take = Math.min(span, 2 + pick(random, most));
  for (let i = 0; i < take; i++) {
    const item = from + pick(random, span);
    const slot = state.slotOf[item]!;
    if (slot < 0) continue;
    remove(state, item);
    removed.push(item);
  }
  for (let m = 0; m < state.members.length; m++) settle(state, m);
  return removed.length > 0;
}
