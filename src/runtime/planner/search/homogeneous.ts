import { sideBySide } from '../place.js';
import { chunkItems } from './chunk.js';
import type { Draft } from './draft.js';
import { allItems, type Items } from './items.js';
import { leastMs, loadMs, type DegreeTables } from './tables.js';

/**
 * The best plan of one degree, balanced or packed, that takes less than `belowMs`. Degrees whose work alone takes
 * longer are not tried.
 */
export function bestOfOneDegree(tables: DegreeTables, items: Items, belowMs = Infinity): Draft | undefined {
  let best: Draft | undefined;
  for (let column = 0; column < tables.size.length; column++)
    for (const plan of [balancedPlan, packedPlan]) {
      const draft = plan(tables, items, column, best?.ms ?? belowMs);
      if (draft !== undefined && draft.ms < (best?.ms ?? belowMs)) best = draft;
    }
  return best;
}

/** What groups of one column are made of. */
interface OneDegree {
  /** Groups side by side. */
  readonly groups: number;
  readonly capacity: number;
  /** Fewest micro-batches that memory allows. */
  readonly least: number;
  /** No plan of this degree takes less, fixed costs left out. */
  readonly workMs: number;
}

/** @returns undefined if the degree does not hold the longest sequence */
function oneDegree(tables: DegreeTables, items: Items, column: number): OneDegree | undefined {
  const groups = sideBySide(tables.size[column]!, tables.ranks, tables.ranksPerNode);
  const capacity = tables.capacity[column]!;
  if (groups === 0 || (items.tokens[0] ?? 0) > capacity) return undefined;
  let [tokens, pairs] = [0, 0];
  for (let i = 0; i < items.count; i++) {
    tokens += items.tokens[i]!;
    pairs += items.pairs[i]!;
  }
  const least = Math.max(1, Math.ceil(tokens / (groups * capacity)));
  return { groups, capacity, least, workMs: leastMs(tables, column, tokens, pairs) / groups };
}

/**
 * One degree for the whole step: micro-batches of even token counts, longest first, each sequence to the group that
 * then ends first. As few micro-batches as memory lets this rule find, or up to two more if that is faster.
 * @returns undefined if the degree does not hold the longest sequence, or takes `belowMs` or longer
 */
export function balancedPlan(
  tables: DegreeTables,
  items: Items,
  column: number,
  belowMs = Infinity,
): Draft | undefined {
  const known = oneDegree(tables, items, column);
  if (known === undefined) return undefined;
  const { groups, least, workMs } = known;
  const all = allItems(items);
  const groupOf = new Int32Array(items.count);
  let [bestMs, bestCount, bestGroups] = [belowMs, 0, groupOf];
  let most = least + 2;
  for (let count = least; count <= most && count <= Math.max(1, items.count); count++) {
    if (workMs + count * tables.microBatchMs >= bestMs) break;
    const runs = chunkItems(items.tokens, all, count);
    let ms = 0;
    for (let m = 0; m < runs.length && ms < Infinity; m++)
      ms +=
        tables.microBatchMs + balance(tables, items, runs[m]!, { column, groups, from: m * groups }, groupOf);
    // A rule this simple may need more than memory demands; one sequence a group always fits.
    if (ms === Infinity) most++;
    if (ms < bestMs) [bestMs, bestCount, bestGroups] = [ms, runs.length, groupOf.slice()];
  }
  if (bestCount === 0) return undefined;
  return draftOf(column, bestCount * groups, groups, bestGroups, bestMs);
}

/**
 * Hands the items of a run, longest first, to the groups numbered `from` and up, each to the one that ends first.
 * @returns time of the slowest; ∞ if memory lets an item in nowhere
 */
function balance(
  tables: DegreeTables,
  items: Items,
  run: Int32Array,
  { column, groups, from }: { readonly column: number; readonly groups: number; readonly from: number },
  groupOf: Int32Array,
): number {
  const tokens = new Float64Array(groups);
  const pairs = new Float64Array(groups);
  const ms = new Float64Array(groups);
  const capacity = tables.capacity[column]!;
  let slowest = 0;
  for (let i = 0; i < run.length; i++) {
    const item = run[i]!;
    const room = capacity - items.tokens[item]!;
    let best = -1;
    let least = Infinity;
    for (let g = 0; g < groups; g++)
      if (ms[g]! < least && tokens[g]! <= room) {
        best = g;
        least = ms[g]!;
        if (least === 0) break;
      }
    if (best < 0) return Infinity;
    tokens[best] = tokens[best]! + items.tokens[item]!;
    pairs[best] = pairs[best]! + items.pairs[item]!;
    const now = (ms[best] = loadMs(tables, column, tokens[best]!, pairs[best]!));
    if (now > slowest) slowest = now;
    groupOf[item] = from + best;
  }
  return slowest;
}

/**
 * Best fit decreasing into groups of one degree, groups then set side by side in the order they were opened: the
 * packing of static sequence parallelism (FlexSP's DeepSpeed baseline).
 * @returns undefined if the degree does not hold the longest sequence, or takes `belowMs` or longer
 */
export function packedPlan(
  tables: DegreeTables,
  items: Items,
  column: number,
  belowMs = Infinity,
): Draft | undefined {
  const known = oneDegree(tables, items, column);
  if (known === undefined) return undefined;
  const { groups: side, capacity, least, workMs } = known;
  if (workMs + least * tables.microBatchMs >= belowMs) return undefined;
  const { count } = items;
  const smallest = items.tokens[count - 1] ?? 0;
  const tokens = new Float64Array(count);
  const pairs = new Float64Array(count);
  const groupOf = new Int32Array(count);
  // Groups that have room for something, ascending by tokens.
  const open = new Int32Array(count);
  let [opened, groups] = [0, 0];
  for (let item = 0; item < count; item++) {
    const s = items.tokens[item]!;
    let [at, end] = [0, opened];
    while (at < end) {
      const middle = (at + end) >> 1;
      if (tokens[open[middle]!]! + s <= capacity) at = middle + 1;
      else end = middle;
    }
    // Fullest with room; a new group stands before all others.
    const g = at > 0 ? open[at - 1]! : groups++;
    if (at === 0) {
      open.copyWithin(1, 0, opened);
      open[0] = g;
      opened++;
      at = 1;
    }
    groupOf[item] = g;
    const now = (tokens[g] = tokens[g]! + s);
    pairs[g] = pairs[g]! + items.pairs[item]!;
    let to = at;
    if (now + smallest > capacity) to = opened--;
    else while (to < opened && tokens[open[to]!]! < now) to++;
    open.copyWithin(at - 1, at, to);
    open[to - 1] = g;
  }
  let ms = 0;
  for (let from = 0; from < groups; from += side) {
    let slowest = 0;
    for (let g = from; g < Math.min(groups, from + side); g++)
      slowest = Math.max(slowest, loadMs(tables, column, tokens[g]!, pairs[g]!));
    ms += tables.microBatchMs + slowest;
  }
  return ms < belowMs ? draftOf(column, groups, side, groupOf, ms) : undefined;
}

const draftOf = (column: number, groups: number, side: number, groupOf: Int32Array, ms: number): Draft => ({
  microBatches: Math.ceil(groups / side),
  column: new Int32Array(groups).fill(column),
  microBatch: Int32Array.from({ length: groups }, (_, g) => Math.floor(g / side)),
  groupOf,
  left: 0,
  ms,
});
