import { placeable } from '../place.js';
import type { Draft } from './draft.js';
import type { Items } from './items.js';
import { pick, unit, type Random } from './random.js';
import { insertBest, type Taste } from './recreate.js';
import { empty, exchange, lower, reshape, window } from './ruin.js';
import {
  addGroup,
  begin,
  commit,
  createState,
  objectiveMs,
  place,
  rollback,
  type SearchState,
} from './state.js';
import { loadMs, type DegreeTables } from './tables.js';

/** A search under way: its plan, the items that have no place, the best complete plan so far. */
export interface Search {
  readonly state: SearchState;
  readonly unplaced: number[];
  /** Makespans plus penalties of the unplaced. */
  cost: number;
  /** Time of the best complete plan, ∞ before there is one. */
  bestMs: number;
  readonly bestColumn: Int32Array;
  readonly bestMicroBatch: Int32Array;
  readonly bestSlotOf: Int32Array;
  moves: number;
}

/** The best complete plan of a search that has one. */
export const bestDraft = ({ state, bestMs, bestColumn, bestMicroBatch, bestSlotOf }: Search): Draft => ({
  microBatches: state.microBatches,
  column: bestColumn,
  microBatch: bestMicroBatch,
  groupOf: bestSlotOf,
  left: 0,
  ms: bestMs,
});

/** What it costs to leave items out: more than placing them could, so that leaving out never pays. */
function penalties({ state, unplaced }: Search): number {
  const { tables, items } = state;
  let sum = 0;
  for (const item of unplaced) {
    let slowest = 0;
    for (let k = 0; k < tables.size.length; k++)
      if (items.tokens[item]! <= tables.capacity[k]!)
        slowest = Math.max(slowest, loadMs(tables, k, items.tokens[item]!, items.pairs[item]!));
    sum += 2 * slowest + 1;
  }
  return sum;
}

/** Turns a first plan into a search: ranks that no group has get empty groups, items left over a first try. */
export function startSearch(tables: DegreeTables, items: Items, draft: Draft): Search {
  const state = createState(tables, items, draft.microBatches);
  const slots = Array.from(draft.column, (column, g) =>
    draft.microBatch[g]! < 0 ? -1 : addGroup(state, draft.microBatch[g]!, column),
  );
  const left: number[] = [];
  for (let item = 0; item < items.count; item++) {
    const group = draft.groupOf[item]!;
    if (group < 0) left.push(item);
    else place(state, item, slots[group]!);
  }
  for (let m = 0; m < draft.microBatches; m++) fillRanks(state, m);
  const search: Search = {
    state,
    unplaced: [],
    cost: 0,
    bestMs: Infinity,
    bestColumn: new Int32Array(state.column.length),
    bestMicroBatch: new Int32Array(state.column.length),
    bestSlotOf: new Int32Array(items.count),
    moves: 0,
  };
  const taste: Taste = { rankTime: 1, load: -1e-6, window: Infinity };
  for (const item of left) if (insertBest(state, item, taste, () => 0) < 0) search.unplaced.push(item);
  accept(search, objectiveMs(state) + penalties(search));
  return search;
}

/** Gives the ranks that no group has to empty groups: larger ones first, the smallest take what is left. */
function fillRanks(state: SearchState, m: number): void {
  const { tables, column, members, groups, width } = state;
  const sizes = Array.from(
    members.subarray(m * width, m * width + groups[m]!),
    (s) => tables.size[column[s]!]!,
  );
  let rest = sizes.reduce((sum, size) => sum - size, tables.ranks);
  const aim = Math.min(4, tables.size.length) - 1;
  for (let k = aim; k >= 0; k--)
    while (tables.size[k]! <= rest) {
      const size = tables.size[k]!;
      if (!tables.fitsByCount && !placeable([...sizes, size], tables.ranks, tables.ranksPerNode)) break;
      addGroup(state, m, k);
      sizes.push(size);
      rest -= size;
    }
}

function accept(search: Search, cost: number): void {
  search.cost = cost;
  if (search.unplaced.length > 0 || cost >= search.bestMs - 1e-9) return;
  const { state } = search;
  search.bestMs = cost;
  search.bestColumn.set(state.column);
  search.bestMicroBatch.set(state.microBatch);
  search.bestSlotOf.set(state.slotOf);
}

export interface Annealing {
  readonly moves: number;
  /** Temperatures in shares of the cost. */
  readonly hot: number;
  readonly cold: number;
  readonly random: Random;
  /** Most items taken out at a time. */
  readonly most: number;
  readonly window: number;
  readonly stop: () => boolean;
}

/**
 * Ruin and recreate (Schrimpf et al., 2000) under simulated annealing: takes items out, sometimes shares ranks out
 * anew, puts the items back longest first where they lengthen the step least, keeps what is shorter and, while hot,
 * some of what is not.
 */
export function anneal(search: Search, options: Annealing): void {
  const { state, unplaced } = search;
  const { moves, hot, cold, random, most, stop } = options;
  const begun = search.moves;
  const end = begun + moves;
  const taste: Taste = { rankTime: 0, load: 0, window: options.window };
  const before: number[] = [];
  const cooling = Math.log(cold / hot);
  let round = 0;
  while (search.moves < end) {
    if ((++round & 63) === 0 && stop()) return;
    state.removes = 0;
    begin(state);
    const ruined = ruin(state, most, random);
    search.moves += 1 + state.removes;
    if (!ruined) {
      rollback(state);
      continue;
    }
    if (unplaced.length > 0) {
      before.length = 0;
      for (const item of unplaced) {
        before.push(item);
        state.removed[state.removes++] = item;
      }
      unplaced.length = 0;
    }
    order(state, random);
    taste.rankTime = 0.2 + 1.2 * unit(random);
    taste.load = (unit(random) - 0.5) * 0.02;
    for (let i = 0; i < state.removes; i++)
      if (insertBest(state, state.removed[i]!, taste, random) < 0) unplaced.push(state.removed[i]!);
    const cost = objectiveMs(state) + (unplaced.length > 0 ? penalties(search) : 0);
    const temperature = search.cost * hot * Math.exp((cooling * (search.moves - begun)) / moves);
    if (cost <= search.cost || cost <= search.cost - temperature * Math.log(unit(random) + 1e-12)) {
      commit(state);
      before.length = 0;
      accept(search, cost);
    } else {
      rollback(state);
      unplaced.length = 0;
      for (const item of before) unplaced.push(item);
    }
  }
}

function ruin(state: SearchState, most: number, random: Random): boolean {
  const m = pick(random, state.microBatches);
  const dice = unit(random);
  if (dice < 0.1)
    return exchange(state, m, random) && (pick(random, 2) === 0 || empty(state, m, most, random));
  if (dice < 0.45) return reshape(state, m, most, random);
  if (dice < 0.7) return empty(state, m, most, random);
  if (dice < 0.92) return lower(state, m, Math.max(most, 2 * state.groups[m]!), random);
  return window(state, most, random);
}

/** Longest first; half of the time with some neighbours swapped, so that it is not the only order tried. */
function order({ removed, removes }: SearchState, random: Random): void {
  if (removes > 24) removed.subarray(0, removes).sort();
  else
    for (let i = 1; i < removes; i++) {
      const item = removed[i]!;
      let j = i - 1;
      for (; j >= 0 && removed[j]! > item; j--) removed[j + 1] = removed[j]!;
      removed[j + 1] = item;
    }
  if (pick(random, 2) === 0) return;
  for (let i = 1; i < removes; i++)
    if (pick(random, 5) === 0) {
      const item = removed[i]!;
      removed[i] = removed[i - 1]!;
      removed[i - 1] = item;
    }
}
