import { placeable } from '../place.js';
import type { Items } from './items.js';
import { insertBest } from './recreate.js';
import { empty, exchange, lower, reshape, unit, window, type Random } from './ruin.js';
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
import type { Start } from './start.js';
import { loadMs, type DegreeTables } from './tables.js';

/** Groups of every micro-batch as columns and items. */
export interface Snapshot {
  readonly objective: number;
  readonly microBatches: readonly (readonly {
    readonly column: number;
    readonly held: readonly number[];
  }[])[];
}

export function snapshot(state: SearchState, objective: number): Snapshot {
  return {
    objective,
    microBatches: state.members.map((slots) =>
      slots.map((slot) => ({ column: state.column[slot]!, held: state.held[slot]!.slice() })),
    ),
  };
}

/** A search under way: its plan, the items that have no place, the best complete plan so far. */
export interface Search {
  readonly state: SearchState;
  readonly unplaced: number[];
  /** Makespans plus penalties of the unplaced. */
  cost: number;
  best: Snapshot | undefined;
  moves: number;
}

/** What it costs to leave an item out: more than placing it could, so that leaving out never pays. */
function penaltyMs(tables: DegreeTables, items: Items, item: number): number {
  let slowest = 0;
  for (let k = 0; k < tables.size.length; k++)
    if (items.tokens[item]! <= tables.capacity[k]!)
      slowest = Math.max(slowest, loadMs(tables, k, items.tokens[item]!, items.pairs[item]!));
  return 2 * slowest + 1;
}

function penalties(search: Search): number {
  const { tables, items } = search.state;
  let sum = 0;
  for (const item of search.unplaced) sum += penaltyMs(tables, items, item);
  return sum;
}

/** Turns a first plan into a search: ranks that no group has get empty groups, items left over a first try. */
export function startSearch(tables: DegreeTables, items: Items, start: Start): Search {
  const state = createState(tables, items, start.microBatches.length);
  const search: Search = { state, unplaced: [], cost: 0, best: undefined, moves: 0 };
  for (const [m, groups] of start.microBatches.entries()) {
    load(state, m, groups);
    fillRanks(state, m);
  }
  const taste = { rankTime: 1, load: -1e-6, window: Infinity };
  for (const item of start.left.toSorted((a, b) => a - b))
    if (insertBest(state, item, taste, () => 0) < 0) search.unplaced.push(item);
  accept(search, objectiveMs(state) + penalties(search));
  return search;
}

export function load(state: SearchState, m: number, groups: Snapshot['microBatches'][number]): void {
  for (const { column, held } of groups) {
    const slot = addGroup(state, m, column);
    for (const item of held) place(state, item, slot);
  }
}

/** Gives the ranks that no group has to empty groups: larger ones first, the smallest take what is left. */
function fillRanks(state: SearchState, m: number): void {
  const { tables, column } = state;
  const sizes = state.members[m]!.map((slot) => tables.size[column[slot]!]!);
  let rest = sizes.reduce((sum, size) => sum - size, tables.ranks);
  const aim = Math.min(4, tables.size.length) - 1;
  for (let k = aim; k >= 0; k--)
    while (
      tables.size[k]! <= rest &&
      placeable([...sizes, tables.size[k]!], tables.ranks, tables.ranksPerNode)
    ) {
      addGroup(state, m, k);
      sizes.push(tables.size[k]!);
      rest -= tables.size[k]!;
    }
}

function accept(search: Search, cost: number): void {
  search.cost = cost;
  if (search.unplaced.length === 0 && cost < (search.best?.objective ?? Infinity) - 1e-9)
    search.best = snapshot(search.state, cost);
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
export function anneal(
  search: Search,
  { moves, hot, cold, random, most, window: looks, stop }: Annealing,
): void {
  const { state, unplaced } = search;
  const end = search.moves + moves;
  const begun = search.moves;
  const removed: number[] = [];
  const before: number[] = [];
  let round = 0;
  while (search.moves < end) {
    if ((++round & 63) === 0 && stop()) return;
    removed.length = 0;
    begin(state);
    const ruined = ruin(state, most, random, removed);
    search.moves += 1 + removed.length;
    if (!ruined) {
      rollback(state);
      continue;
    }
    before.length = 0;
    before.push(...unplaced);
    removed.push(...unplaced);
    unplaced.length = 0;
    removed.sort((a, b) => a - b);
    shuffleLightly(removed, random);
    const taste = {
      rankTime: 0.2 + 1.2 * unit(random),
      load: (unit(random) - 0.5) * 0.02,
      window: looks,
    };
    for (const item of removed) if (insertBest(state, item, taste, random) < 0) unplaced.push(item);
    const cost = objectiveMs(state) + (unplaced.length > 0 ? penalties(search) : 0);
    const progress = (search.moves - begun) / moves;
    const temperature = search.cost * hot * (cold / hot) ** progress;
    if (cost <= search.cost - temperature * Math.log(unit(random) + 1e-12)) {
      commit(state);
      accept(search, cost);
    } else {
      rollback(state);
      unplaced.length = 0;
      unplaced.push(...before);
    }
  }
}

function ruin(state: SearchState, most: number, random: Random, removed: number[]): boolean {
  const m = random() % state.members.length;
  const dice = unit(random);
  if (dice < 0.1)
    return exchange(state, m, random) && (random() % 2 === 0 || empty(state, m, most, random, removed));
  if (dice < 0.45) return reshape(state, m, most, random, removed);
  if (dice < 0.7) return empty(state, m, most, random, removed);
  if (dice < 0.92) return lower(state, m, Math.max(most, 2 * state.members[m]!.length), random, removed);
  return window(state, most, random, removed);
}

/** Swaps some neighbours, so that longest first is not the only order tried. */
function shuffleLightly(list: number[], random: Random): void {
  if (random() % 2 === 0) return;
  for (let i = 1; i < list.length; i++)
    if (random() % 5 === 0) [list[i - 1], list[i]] = [list[i]!, list[i - 1]!];
}
