import { createRoom } from '../place.js';
import { chunkItems } from './chunk.js';
import { byMs, type Draft } from './draft.js';
import { allItems, type Items } from './items.js';
import { createPacker, keepPacking, packEvenly, packWithin, type Packer, type Packing } from './pack.js';
import { loadMs, type DegreeTables } from './tables.js';

/** How much a search for first plans may cost. */
export interface StartOptions {
  readonly beam?: number;
  /** Micro-batches whose length a long sequence dictates. */
  readonly depth?: number;
  /** Fronts whose rest is packed. */
  readonly completed?: number;
  /** Rounds of bisection. */
  readonly rounds?: number;
  /** Whether time is up. */
  readonly stop?: () => boolean;
}

/** Micro-batches packed so far, the last of them, and what is not packed yet. */
interface Front {
  readonly before: Front | undefined;
  readonly packed: Packed;
  readonly rest: Int32Array;
  readonly restTokens: number;
  /** Of all micro-batches so far. */
  readonly ms: number;
  /** Time of the step if the rest could be spread without a gap. */
  readonly outlook: number;
}

/** Groups that were packed together, copied out of a packer. */
interface Packed {
  /** `[group]`, larger ones first. */
  readonly column: Int32Array;
  readonly loads: Float64Array;
  readonly items: Int32Array;
  /** `[position in items]` → group. */
  readonly groupOf: Int32Array;
  /** `[group]` → micro-batch of those packed together. */
  readonly microBatch: Int32Array;
  readonly microBatches: number;
}

interface Context {
  readonly tables: DegreeTables;
  readonly items: Items;
  readonly packer: Packer;
  /** Tokens that a micro-batch holds. */
  readonly capacity: number;
  readonly rounds: number;
}

/**
 * First plans, best first. The longest sequence that is left dictates how long a micro-batch takes: some degree's
 * time for it, or for it and the next one in the same group. Within that time best fit decreasing packs all that
 * fits, so that short sequences fill what the long ones leave idle; then the longest of the rest dictates. A beam
 * keeps the most promising fronts; their rests are spread over micro-batches of equal length.
 */
export function startPlans(
  tables: DegreeTables,
  items: Items,
  { beam = 4, depth = 6, completed = 8, rounds = 4, stop = () => false }: StartOptions = {},
): readonly Draft[] {
  const last = tables.size.length - 1;
  const capacity = (tables.capacity[last]! / tables.size[last]!) * tables.ranks;
  const context: Context = { tables, items, packer: createPacker(tables, items), capacity, rounds };
  const first = frontOf(context, undefined, NOTHING, allItems(items), 0);
  let fronts: readonly Front[] = [first];
  const seen: Front[] = [];
  for (let level = 0; level < depth && !stop(); level++) {
    fronts = survivors(
      context,
      fronts.flatMap((one) => extend(context, one)),
      beam,
    );
    seen.push(...fronts);
  }
  const chosen = [first, ...seen.sort(byOutlook).slice(0, completed)];
  const drafts: Draft[] = [];
  for (const one of chosen) {
    if (drafts.length > 0 && stop()) break;
    const least = Math.max(one.rest.length > 0 ? 1 : 0, Math.ceil(one.restTokens / capacity));
    drafts.push(completeEvenly(context, one, one.restTokens > 0.97 * least * capacity ? least + 1 : least));
    if (one === first) for (const more of [0, 1]) drafts.push(completeByRuns(context, one, least + more));
  }
  return drafts.sort(byMs);
}

const byOutlook = (a: { readonly outlook: number }, b: { readonly outlook: number }): number =>
  a.outlook - b.outlook;

const NOTHING: Packed = {
  column: new Int32Array(0),
  loads: new Float64Array(0),
  items: new Int32Array(0),
  groupOf: new Int32Array(0),
  microBatch: new Int32Array(0),
  microBatches: 0,
};

function frontOf(
  { tables, items, packer, capacity }: Context,
  before: Front | undefined,
  packed: Packed,
  rest: Int32Array,
  ms: number,
): Front {
  let [restTokens, work] = [0, 0];
  for (let i = 0; i < rest.length; i++) {
    restTokens += items.tokens[rest[i]!]!;
    work += packer.rankMs[rest[i]!]!;
  }
  const outlook = ms + tables.microBatchMs * Math.ceil(restTokens / capacity) + work / tables.ranks;
  return { before, packed, rest, restTokens, ms, outlook };
}

/** One more micro-batch for a front: a packing as the packer left it, not yet worth copying out. */
interface Candidate {
  readonly before: Front;
  readonly packing: Packing;
  readonly ms: number;
  readonly outlook: number;
}

/** Packs one more micro-batch, for each of a few times that the longest items may dictate. */
function extend(context: Context, before: Front): readonly Candidate[] {
  const { tables, items, packer, capacity } = context;
  const { rest } = before;
  return dictatedMs(context, rest).map((limitMs): Candidate => {
    packWithin(packer, rest, {
      limitMs: limitMs * (1 + 1e-9),
      ranks: tables.ranks,
      fillFirst: false,
      whole: false,
    });
    let [restTokens, work] = [0, 0];
    for (let i = 0; i < rest.length; i++)
      if (packer.placedIn[i]! < 0) {
        restTokens += items.tokens[rest[i]!]!;
        work += packer.rankMs[rest[i]!]!;
      }
    const ms = before.ms + tables.microBatchMs + packer.ms;
    const outlook = ms + tables.microBatchMs * Math.ceil(restTokens / capacity) + work / tables.ranks;
    return { before, packing: keepPacking(packer, rest.length), ms, outlook };
  });
}

/** The most promising candidates, no two of them alike: the same micro-batches in another order look the same. */
function survivors(context: Context, candidates: readonly Candidate[], many: number): readonly Front[] {
  const fronts: Front[] = [];
  let previous = -1;
  for (const { before, packing, ms, outlook } of candidates.toSorted(byOutlook)) {
    if (fronts.length === many) break;
    if (outlook - previous <= 1e-9 * outlook) continue;
    previous = outlook;
    const { packed, left } = copyPacked(context.tables, packing, before.rest, 1);
    fronts.push(frontOf(context, before, packed, left, ms));
  }
  return fronts;
}

/** How long the longest item, or the two longest in one group, take in groups of several sizes. */
function dictatedMs({ tables, items }: Context, rest: Int32Array): readonly number[] {
  const [longest, next] = rest;
  const limits: number[] = [];
  if (longest === undefined) return limits;
  let previous = 0;
  for (let k = 0; k < tables.size.length && limits.length < 5; k++) {
    let tokens = items.tokens[longest]!;
    // Degrees a little apart dictate about the same time.
    if (tokens > tables.capacity[k]! || tables.size[k]! < 1.4 * previous) continue;
    previous = tables.size[k]!;
    limits.push(loadMs(tables, k, tokens, items.pairs[longest]!));
    if (next === undefined) continue;
    tokens += items.tokens[next]!;
    if (tokens > tables.capacity[k]!) continue;
    limits.push(loadMs(tables, k, tokens, items.pairs[longest]! + items.pairs[next]!));
  }
  return limits;
}

/**
 * Copies the groups of a packing out and deals them to micro-batches: larger ones first, of one size the slower first,
 * so that micro-batches end up sorted by time. Items of groups that nodes have no room for are left over.
 */
function copyPacked(
  tables: DegreeTables,
  { placedIn, base, opened, loads }: Packing,
  list: Int32Array,
  microBatches: number,
): { packed: Packed; left: Int32Array; slowest: number } {
  const ids: number[] = [];
  const columnOf: number[] = [];
  for (let k = tables.size.length - 1; k >= 0; k--) {
    const part: number[] = [];
    for (let g = 0; g < opened[k]!; g++) part.push(base[k]! + g);
    if (microBatches > 1) part.sort((a, b) => loads[b]! - loads[a]! || a - b);
    for (const g of part) {
      ids.push(g);
      columnOf.push(k);
    }
  }
  const microBatch = dealOut(tables, columnOf, microBatches);
  const numberOf = new Int32Array(loads.length).fill(-1);
  let groups = 0;
  let slowest = 0;
  const [column, kept] = [new Int32Array(ids.length), new Int32Array(ids.length)];
  const ms = new Float64Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    if (microBatch[i]! < 0) continue;
    numberOf[ids[i]!] = groups;
    column[groups] = columnOf[i]!;
    kept[groups] = microBatch[i]!;
    ms[groups] = loads[ids[i]!]!;
    if (ms[groups]! > slowest) slowest = ms[groups]!;
    groups++;
  }
  const [inside, groupOf, left] = [list.slice(), list.slice(), list.slice()];
  let [n, over] = [0, 0];
  for (let i = 0; i < list.length; i++) {
    const group = placedIn[i]! < 0 ? -1 : numberOf[placedIn[i]!]!;
    if (group < 0) left[over++] = list[i]!;
    else {
      inside[n] = list[i]!;
      groupOf[n++] = group;
    }
  }
  const packed: Packed = {
    column: column.subarray(0, groups),
    loads: ms.subarray(0, groups),
    items: inside.subarray(0, n),
    groupOf: groupOf.subarray(0, n),
    microBatch: kept.subarray(0, groups),
    microBatches,
  };
  return { packed, left: left.subarray(0, over), slowest };
}

/** Micro-batch of each group, the first that has room; −1 for those that have none. */
function dealOut(tables: DegreeTables, columns: readonly number[], microBatches: number): Int32Array {
  const { ranks, ranksPerNode, fitsByCount } = tables;
  if (microBatches === 1 && fitsByCount) return new Int32Array(columns.length);
  const rooms = Array.from({ length: microBatches }, () =>
    fitsByCount ? countRoom(ranks) : createRoom(ranks, ranksPerNode),
  );
  // A micro-batch that has no room for a size has none for it later.
  let [from, previous] = [0, 0];
  return Int32Array.from(columns, (column) => {
    const size = tables.size[column]!;
    if (size !== previous) [from, previous] = [0, size];
    while (from < microBatches && rooms[from]!.take(size) < 0) from++;
    return from < microBatches ? from : -1;
  });
}

function countRoom(ranks: number): { take(size: number): number } {
  let used = 0;
  return { take: (size) => (used + size > ranks ? -1 : (used += size) - size) };
}

/** Micro-batches of even token counts, longest first, each packed for itself. */
function completeByRuns(context: Context, one: Front, count: number): Draft {
  const { tables, items, packer, rounds } = context;
  let front = one;
  const left: number[] = [];
  for (const run of chunkItems(items.tokens, one.rest, count)) {
    let best: ReturnType<typeof copyPacked> | undefined;
    for (const fillFirst of [false, true]) {
      const packing = packEvenly(packer, run, 1, fillFirst, rounds);
      const better =
        best === undefined ||
        packing.left < best.left.length ||
        (packing.left === best.left.length && packing.ms < best.slowest);
      if (better) best = copyPacked(tables, packing, run, 1);
    }
    const { packed, slowest } = best!;
    left.push(...best!.left);
    front = { ...front, before: front, packed, ms: front.ms + tables.microBatchMs + slowest };
  }
  return draftOf(context, front, left);
}

/** Micro-batches of equal length, packed together: long and short sequences share groups. */
function completeEvenly(context: Context, one: Front, count: number): Draft {
  if (one.rest.length === 0) return draftOf(context, one, []);
  const packing = packEvenly(context.packer, one.rest, count, false, context.rounds);
  const { packed, left } = copyPacked(context.tables, packing, one.rest, count);
  const slowest = new Float64Array(count);
  packed.loads.forEach((ms, g) => {
    const m = packed.microBatch[g]!;
    if (ms > slowest[m]!) slowest[m] = ms;
  });
  const ms = slowest.reduce((sum, most) => sum + context.tables.microBatchMs + most, one.ms);
  return draftOf(context, { ...one, before: one, packed, ms }, left);
}

/** What leaves gaps behind costs more than its rank-time. */
const GAPS = 1.5;

/** All micro-batches of a front and of those before it. */
function draftOf({ items, tables, packer }: Context, front: Front, left: ArrayLike<number>): Draft {
  const chain: Packed[] = [];
  for (let one: Front | undefined = front; one !== undefined; one = one.before) chain.unshift(one.packed);
  const groupOf = new Int32Array(items.count).fill(-1);
  const [column, microBatch]: [number[], number[]] = [[], []];
  let microBatches = 0;
  for (const packed of chain) {
    const groups = column.length;
    packed.items.forEach((item, i) => (groupOf[item] = groups + packed.groupOf[i]!));
    packed.column.forEach((k, g) => {
      column.push(k);
      microBatch.push(microBatches + packed.microBatch[g]!);
    });
    microBatches += packed.microBatches;
  }
  let missing = 0;
  for (let i = 0; i < left.length; i++) missing += packer.rankMs[left[i]!]!;
  const ms = front.ms + (GAPS * missing) / tables.ranks;
  return { microBatches, column, microBatch, groupOf, left: left.length, ms };
}
