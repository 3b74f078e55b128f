import { placeable } from '../place.js';
import { pick, unit, type Random } from './random.js';
import { addGroup, dropGroup, itemAt, remove, settle, transfer, type SearchState } from './state.js';

/** Slot of the slowest group. */
function slowest({ members, groups, width, ms }: SearchState, m: number): number {
  let best = -1;
  let most = -1;
  const end = m * width + groups[m]!;
  for (let i = m * width; i < end; i++) {
    const slot = members[i]!;
    if (ms[slot]! > most) {
      best = slot;
      most = ms[slot]!;
    }
  }
  return best;
}

/** Slot of any group. */
const anyGroup = ({ members, groups, width }: SearchState, m: number, random: Random): number =>
  members[m * width + pick(random, groups[m]!)]!;

function clear(state: SearchState, slot: number): void {
  while (state.held[slot]! > 0) remove(state, state.first[slot]!);
}

function removeAny(state: SearchState, slot: number, random: Random): void {
  remove(state, itemAt(state, slot, pick(random, state.held[slot]!)));
}

/** A random way to fill `total` ranks with allowed groups; what no group fits into stays idle. */
function compose({ tables }: SearchState, total: number, random: Random, columns: number[]): void {
  columns.length = 0;
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
}

/**
 * Dissolves a few groups of a micro-batch and shares their ranks, and the idle ones, out anew.
 * @returns false if the ranks cannot be shared out otherwise, or the groups hold more than `most` items
 */
export function reshape(state: SearchState, m: number, most: number, random: Random): boolean {
  const { tables, members, groups, width, column, held } = state;
  const many = groups[m]!;
  if (many === 0) return false;
  const chosen = [pick(random, 2) === 0 ? slowest(state, m) : anyGroup(state, m, random)];
  const others = Math.min(many - 1, pick(random, 4));
  for (let i = 0; i < others; i++) {
    const slot = anyGroup(state, m, random);
    if (!chosen.includes(slot)) chosen.push(slot);
  }
  let [ranks, holds] = [tables.ranks, 0];
  for (let i = m * width; i < m * width + many; i++) ranks -= tables.size[column[members[i]!]!]!;
  for (const slot of chosen) {
    ranks += tables.size[column[slot]!]!;
    holds += held[slot]!;
  }
  if (holds > most) return false;
  const columns: number[] = [];
  compose(state, ranks, random, columns);
  if (sameColumns(state, chosen, columns)) return false;
  if (!tables.fitsByCount) {
    const sizes = columns.map((k) => tables.size[k]!);
    for (let i = m * width; i < m * width + many; i++)
      if (!chosen.includes(members[i]!)) sizes.push(tables.size[column[members[i]!]!]!);
    if (!placeable(sizes, tables.ranks, tables.ranksPerNode)) return false;
  }
  for (const slot of chosen) {
    clear(state, slot);
    dropGroup(state, slot);
  }
  for (const k of columns) addGroup(state, m, k);
  settle(state, m);
  return true;
}

function sameColumns({ column }: SearchState, slots: readonly number[], columns: readonly number[]): boolean {
  if (columns.length !== slots.length) return false;
  for (const k of columns) {
    let surplus = 0;
    for (const other of columns) if (other === k) surplus++;
    for (const slot of slots) if (column[slot] === k) surplus--;
    if (surplus !== 0) return false;
  }
  return true;
}

/** Empties the slowest group of a micro-batch and some others, wherever they are, or takes a few of their items. */
export function empty(state: SearchState, microBatch: number, most: number, random: Random): boolean {
  const { held } = state;
  const groups = 1 + pick(random, 4);
  for (let i = 0; i < groups; i++) {
    const m = i === 0 ? microBatch : pick(random, state.microBatches);
    if (state.groups[m] === 0) continue;
    const slot = i === 0 || pick(random, 3) === 0 ? slowest(state, m) : anyGroup(state, m, random);
    if (held[slot] === 0) continue;
    if (state.removes + held[slot]! <= most && pick(random, 2) === 0) clear(state, slot);
    else for (let j = 1 + pick(random, 6); j > 0 && held[slot]! > 0; j--) removeAny(state, slot, random);
    settle(state, m);
  }
  return state.removes > 0;
}

/** Takes just so much out of every group of a micro-batch that it could end a few per cent earlier. */
export function lower(state: SearchState, m: number, most: number, random: Random): boolean {
  const { members, width, ms, held } = state;
  const ceiling = state.makespan[m]! * (1 - 0.08 * unit(random) ** 2);
  const end = m * width + state.groups[m]!;
  for (let i = m * width; i < end; i++) {
    const slot = members[i]!;
    while (ms[slot]! > ceiling && held[slot]! > 0 && state.removes < most) removeAny(state, slot, random);
  }
  settle(state, m);
  return state.removes > 0;
}

/**
 * Groups of two micro-batches change places, ranks for ranks, with all they hold: a group of the first against
 * groups of the second that together have as many ranks.
 */
export function exchange(state: SearchState, m: number, random: Random): boolean {
  const { tables, members, groups, width, column } = state;
  const other = pick(random, state.microBatches);
  const many = groups[other]!;
  if (other === m || groups[m] === 0 || many === 0) return false;
  const given = anyGroup(state, m, random);
  let rest = tables.size[column[given]!]!;
  const taken: number[] = [];
  const from = pick(random, many);
  for (let i = 0; i < many && rest > 0; i++) {
    const slot = members[other * width + ((from + i) % many)]!;
    const size = tables.size[column[slot]!]!;
    if (size > rest) continue;
    taken.push(slot);
    rest -= size;
  }
  if (rest > 0) return false;
  transfer(state, taken[0]!, m);
  transfer(state, given, other);
  for (let i = 1; i < taken.length; i++) transfer(state, taken[i]!, m);
  settle(state, m);
  settle(state, other);
  return isPlaceable(state, m) && isPlaceable(state, other);
}

function isPlaceable({ tables, members, groups, width, column }: SearchState, m: number): boolean {
  if (tables.fitsByCount) return true;
  const slots = members.subarray(m * width, m * width + groups[m]!);
  return placeable(
    Array.from(slots, (slot) => tables.size[column[slot]!]!),
    tables.ranks,
    tables.ranksPerNode,
  );
}

/** Takes out items of like lengths from all over the plan. */
export function window(state: SearchState, most: number, random: Random): boolean {
  const { count } = state.items;
  const span = Math.min(count, most * 3);
  const from = pick(random, count - span + 1);
  for (let i = Math.min(span, 2 + pick(random, most)); i > 0; i--) {
    const item = from + pick(random, span);
    if (state.slotOf[item]! >= 0) remove(state, item);
  }
  for (let m = 0; m < state.microBatches; m++) settle(state, m);
  return state.removes > 0;
}
