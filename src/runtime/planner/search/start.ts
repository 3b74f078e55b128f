import { createRoom } from '../place.js';
import { chunkItems } from './chunk.js';
import { byQuality, type Draft } from './draft.js';
import { allItems, type Items } from './items.js';
import { createPacker, packEvenly, packWithin, type Packer } from './pack.js';
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
  { beam = 2, depth = 4, completed = 2, rounds = 4, stop = () => false }: StartOptions = {},
): readonly Draft[] {
  const last = tables.size.length - 1;
  const capacity = (tables.capacity[last]! / tables.size[last]!) * tables.ranks;
  const context: Context = { tables, items, packer: createPacker(tables, items), capacity, rounds };
  const first = frontOf(context, undefined, NOTHING, allItems(items), 0);
  let fronts = [first];
  const seen: Front[] = [];
  for (let level = 0; level < depth && !stop(); level++) {
    const next = fronts.flatMap((one) => extend(context, one)).sort(byOutlook);
    fronts = next.slice(0, beam);
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
  return drafts.sort(byQuality);
}

const byOutlook = (a: Front, b: Front): number => a.outlook - b.outlook;

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

/** Packs one more micro-batch, for each of a few times that the longest items may dictate. */
function extend(context: Context, before: Front): readonly Front[] {
  const { tables, packer } = context;
  const { rest } = before;
  return dictatedMs(context, rest).map((limitMs) => {
    packWithin(packer, rest, {
      limitMs: limitMs * (1 + 1e-9),
      ranks: tables.ranks,
      fillFirst: false,
      whole: false,
    });
    const { packed, left, slowest } = copyPacked(context, rest, 1);
    return frontOf(context, before, packed, left, before.ms + tables.microBatchMs + slowest);
  });
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
 * Copies the packer's groups out and deals them to micro-batches: larger ones first, of one size the slower first, so
 * that micro-batches end up sorted by time. Items of groups that nodes have no room for are left over.
 */
function copyPacked(
  { tables, packer }: Context,
  list: Int32Array,
  microBatches: number,
): { packed: Packed; left: Int32Array; slowest: number } {
  const { base, opened, loads, placedIn } = packer;
  const ids: number[] = [];
  const columnOf: number[] = [];
  for (let k = tables.size.length - 1; k >= 0; k--) {
    const from = ids.length;
    for (let g = base[k]!; g < base[k]! + opened[k]!; g++) ids.push(g);
    if (microBatches > 1 && ids.length - from > 1) {
      const sorted = ids.splice(from).sort((a, b) => loads[b]! - loads[a]! || a - b);
      for (const g of sorted) ids.push(g);
    }
    while (columnOf.length < ids.length) columnOf.push(k);
  }
  const microBatch = dealOut(
    tables,
    columnOf.map((k) => tables.size[k]!),
    microBatches,
  );
  const numberOf = new Int32Array(loads.length).fill(-1);
  const kept: number[] = [];
  ids.forEach((g, i) => {
    if (microBatch[i]! >= 0) numberOf[g] = kept.push(i) - 1;
  });
  const [inside, groupOf, left] = [new Int32Array(list.length), new Int32Array(list.length), [] as number[]];
  let n = 0;
  for (let i = 0; i < list.length; i++) {
    const group = placedIn[i]! < 0 ? -1 : numberOf[placedIn[i]!]!;
    if (group < 0) left.push(list[i]!);
    else {
      inside[n] = list[i]!;
      groupOf[n++] = group;
    }
  }
  const packed: Packed = {
    column: Int32Array.from(kept, (i) => columnOf[i]!),
    loads: Float64Array.from(kept, (i) => loads[ids[i]!]!),
    items: inside.subarray(0, n),
    groupOf: groupOf.subarray(0, n),
    microBatch: Int32Array.from(kept, (i) => microBatch[i]!),
    microBatches,
  };
  const slowest = packed.loads.reduce((a, b) => Math.max(a, b), 0);
  return { packed, left: Int32Array.from(left), slowest };
}

/** Micro-batch of each group, the first that has room; −1 for those that have none. */
function dealOut(tables: DegreeTables, sizes: readonly number[], microBatches: number): Int32Array {
  const { ranks, ranksPerNode, fitsByCount } = tables;
  const rooms = Array.from({ length: microBatches }, () =>
    fitsByCount ? countRoom(ranks) : createRoom(ranks, ranksPerNode),
  );
  // A micro-batch that has no room for a size has none for it later.
  let [from, previous] = [0, 0];
  return Int32Array.from(sizes, (size) => {
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
      packEvenly(packer, run, 1, fillFirst, rounds);
      const better =
        best === undefined ||
        packer.left < best.left.length ||
        (packer.left === best.left.length && packer.ms < best.slowest);
      if (better) best = copyPacked(context, run, 1);
    }
    const { packed, slowest } = best!;
    left.push(...best!.left);
    front = { ...front, before: front, packed, ms: front.ms + tables.microBatchMs + slowest };
  }
  return draftOf(context, front, left.length);
}

/** Micro-batches of equal length, packed together: long and short sequences share groups. */
function completeEvenly(context: Context, one: Front, count: number): Draft {
  if (one.rest.length === 0) return draftOf(context, one, 0);
  packEvenly(context.packer, one.rest, count, false, context.rounds);
  const { packed, left } = copyPacked(context, one.rest, count);
  const slowest = new Float64Array(count);
  packed.loads.forEach((ms, g) => {
    const m = packed.microBatch[g]!;
    if (ms > slowest[m]!) slowest[m] = ms;
  });
  const ms = slowest.reduce((sum, most) => sum + context.tables.microBatchMs + most, one.ms);
  return draftOf(context, { ...one, before: one, packed, ms }, left.length);
}

/** All micro-batches of a front and of those before it. */
function draftOf({ items }: Context, front: Front, left: number): Draft {
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
  return { microBatches, column, microBatch, groupOf, left, ms: front.ms };
}
