import { createRoom } from '../place.js';
import { chunkItems } from './chunk.js';
import { byMs, type Draft } from './draft.js';
import { allItems, type Items } from './items.js';
import { createPacker, keepPacking, packEvenly, packWithin, type Packer, type Packing } from './pack.js';
import { loadMs, type DegreeTables } from './tables.js';

/** How much a search for first plans may cost. */
export interface StartOptions {
  readonly beam?: number;
  /** Times for a micro-batch that are tried. */
  readonly times?: number;
  /** Micro-batches whose length a long sequence dictates. */
  readonly depth?: number;
  /** Fronts whose rest is packed. */
  readonly completed?: number;
  /** Rounds of bisection. */
  readonly rounds?: number;
  /** Whether time is up. */
  readonly stop?: () => boolean;
}

/** Groups that a list was packed into, and the micro-batch of each, of those that are packed together. */
interface Dealt {
  readonly packing: Packing;
  readonly list: Int32Array;
  /** `[group]`; −1 for those that nodes have no room for, whose items then are not placed. */
  readonly microBatch: Int32Array;
  readonly microBatches: number;
}

/** Micro-batches packed so far, the last of them, and what is not packed yet. */
interface Front {
  readonly before: Front | undefined;
  readonly dealt: Dealt | undefined;
  readonly rest: Int32Array;
  readonly restTokens: number;
  /** Of all micro-batches so far. */
  readonly ms: number;
  /** Time of the step if the rest could be spread without a gap. */
  readonly outlook: number;
}

interface Context {
  readonly tables: DegreeTables;
  readonly items: Items;
  readonly packer: Packer;
  /** Tokens that a micro-batch holds. */
  readonly capacity: number;
  readonly rounds: number;
  readonly times: number;
}

/** Few sequences are planned in a process that just started, where looking less far is faster; many take longer anyway. */
const effortFor = ({ count }: Items): Required<StartOptions> =>
  count <= 1024
    ? { beam: 3, times: 3, depth: 5, completed: 7, rounds: 4, stop: () => false }
    : { beam: 4, times: 5, depth: 6, completed: 8, rounds: 4, stop: () => false };

/**
 * First plans, best first. The longest sequence that is left dictates how long a micro-batch takes: some degree's
 * time for it, or for it and the next one in the same group. Within that time best fit decreasing packs all that
 * fits, so that short sequences fill what the long ones leave idle; then the longest of the rest dictates. A beam
 * keeps the most promising fronts; their rests are spread over micro-batches of equal length.
 */
export function startPlans(tables: DegreeTables, items: Items, options: StartOptions = {}): readonly Draft[] {
  const { beam, depth, completed, rounds, times, stop } = { ...effortFor(items), ...options };
  const last = tables.size.length - 1;
  const capacity = (tables.capacity[last]! / tables.size[last]!) * tables.ranks;
  const context: Context = { tables, items, packer: createPacker(tables, items), capacity, rounds, times };
  const all = allItems(items);
  const restTokens = items.tokens.reduce((a, b) => a + b, 0);
  const first: Front = { before: undefined, dealt: undefined, rest: all, restTokens, ms: 0, outlook: 0 };
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
    // Where memory is nearly full, one micro-batch more is safe; without it a search may find room for what is left.
    const tight = one.restTokens > 0.97 * least * capacity;
    if (tight) drafts.push(completeEvenly(context, one, least + 1));
    if (!tight || drafts.length < TIGHT_TRIES) drafts.push(completeEvenly(context, one, least));
    if (one === first) for (const more of [0, 1]) drafts.push(completeByRuns(context, one, least + more));
  }
  return drafts.sort(byMs);
}

const byOutlook = (a: { readonly outlook: number }, b: { readonly outlook: number }): number =>
  a.outlook - b.outlook;

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
    const dealt = deal(context, packing, before.rest, 1);
    const rest = restOf(dealt);
    let restTokens = 0;
    for (let i = 0; i < rest.length; i++) restTokens += context.items.tokens[rest[i]!]!;
    fronts.push({ before, dealt, rest, restTokens, ms, outlook });
  }
  return fronts;
}

/** Plans so far beyond which no more are tried that memory is nearly too small for. */
const TIGHT_TRIES = 4;

/** How long the longest item, or the two longest in one group, take in groups of several sizes. */
function dictatedMs({ tables, items, times }: Context, rest: Int32Array): readonly number[] {
  const [longest, next] = rest;
  const limits: number[] = [];
  if (longest === undefined) return limits;
  let previous = 0;
  for (let k = 0; k < tables.size.length && limits.length < times; k++) {
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
 * Deals the groups of a packing to micro-batches: larger ones first, of one size the slower first, so that
 * micro-batches end up sorted by time. A group goes to the first that has room.
 */
function deal({ tables }: Context, packing: Packing, list: Int32Array, microBatches: number): Dealt {
  const { ranks, ranksPerNode, fitsByCount, size } = tables;
  const { base, opened, loads, placedIn } = packing;
  const microBatch = new Int32Array(loads.length);
  const dealt: Dealt = { packing, list, microBatch, microBatches };
  if (microBatches === 1 && fitsByCount) return dealt;
  const rooms = Array.from({ length: microBatches }, () =>
    fitsByCount ? countRoom(ranks) : createRoom(ranks, ranksPerNode),
  );
  let dropped = false;
  for (let k = size.length - 1; k >= 0; k--) {
    const groups = Array.from({ length: opened[k]! }, (_, g) => base[k]! + g);
    // A micro-batch that has no room for a size has none for it later.
    let from = 0;
    for (const g of groups.sort((a, b) => loads[b]! - loads[a]! || a - b)) {
      while (from < microBatches && rooms[from]!.take(size[k]!) < 0) from++;
      microBatch[g] = from < microBatches ? from : -1;
      dropped ||= from === microBatches;
    }
  }
  if (dropped)
    for (let i = 0; i < list.length; i++)
      if (placedIn[i]! >= 0 && microBatch[placedIn[i]!]! < 0) placedIn[i] = -1;
  return dealt;
}

/** Items of the list that have no place. */
function restOf({ list, packing }: Dealt): Int32Array {
  const rest = new Int32Array(list.length);
  let n = 0;
  for (let i = 0; i < list.length; i++) if (packing.placedIn[i]! < 0) rest[n++] = list[i]!;
  return rest.subarray(0, n);
}

/** Times of all micro-batches of a packing, their fixed costs included. */
function dealtMs(
  { tables }: Context,
  { packing: { base, opened, loads }, microBatch, microBatches }: Dealt,
): number {
  const slowest = new Float64Array(microBatches);
  for (let k = 0; k < base.length; k++)
    for (let g = base[k]!; g < base[k]! + opened[k]!; g++)
      if (microBatch[g]! >= 0 && loads[g]! > slowest[microBatch[g]!]!) slowest[microBatch[g]!] = loads[g]!;
  return slowest.reduce((sum, ms) => sum + tables.microBatchMs + ms, 0);
}

function countRoom(ranks: number): { take(size: number): number } {
  let used = 0;
  return { take: (size) => (used + size > ranks ? -1 : (used += size) - size) };
}

/** Micro-batches of even token counts, longest first, each packed for itself. */
function completeByRuns(context: Context, one: Front, count: number): Draft {
  const { items, packer, rounds } = context;
  let front = one;
  const left: number[] = [];
  for (const run of chunkItems(items.tokens, one.rest, count)) {
    let best: ReturnType<typeof packEvenly> | undefined;
    for (const fillFirst of [false, true]) {
      const packing = packEvenly(packer, run, 1, fillFirst, rounds);
      const better = packing.left - (best?.left ?? Infinity) || packing.ms - (best?.ms ?? Infinity);
      if (better < 0) best = packing;
    }
    const dealt = deal(context, best!, run, 1);
    left.push(...restOf(dealt));
    front = { ...front, before: front, dealt, ms: front.ms + dealtMs(context, dealt) };
  }
  return draftOf(context, front, left);
}

/** Micro-batches of equal length, packed together: long and short sequences share groups. */
function completeEvenly(context: Context, one: Front, count: number): Draft {
  if (one.rest.length === 0) return draftOf(context, one, []);
  const packing = packEvenly(context.packer, one.rest, count, false, context.rounds);
  const dealt = deal(context, packing, one.rest, count);
  const ms = one.ms + dealtMs(context, dealt);
  return draftOf(context, { ...one, before: one, dealt, ms }, restOf(dealt));
}

/** What leaves gaps behind costs more than its rank-time. */
const GAPS = 1.5;

/** All micro-batches of a front and of those before it. */
function draftOf({ items, tables, packer }: Context, front: Front, left: ArrayLike<number>): Draft {
  const chain: Dealt[] = [];
  for (let one: Front | undefined = front; one !== undefined; one = one.before)
    if (one.dealt !== undefined) chain.unshift(one.dealt);
  const groupOf = new Int32Array(items.count).fill(-1);
  const [column, microBatch]: [number[], number[]] = [[], []];
  let microBatches = 0;
  for (const { packing, list, ...dealt } of chain) {
    const { base, opened, loads, placedIn } = packing;
    const numberOf = new Int32Array(loads.length);
    for (let k = base.length - 1; k >= 0; k--)
      for (let g = base[k]!; g < base[k]! + opened[k]!; g++) {
        if (dealt.microBatch[g]! < 0) continue;
        numberOf[g] = column.length;
        column.push(k);
        microBatch.push(microBatches + dealt.microBatch[g]!);
      }
    for (let i = 0; i < list.length; i++) if (placedIn[i]! >= 0) groupOf[list[i]!] = numberOf[placedIn[i]!]!;
    microBatches += dealt.microBatches;
  }
  let missing = 0;
  for (let i = 0; i < left.length; i++) missing += packer.rankMs[left[i]!]!;
  const ms = front.ms + (GAPS * missing) / tables.ranks;
  return { microBatches, column, microBatch, groupOf, left: left.length, ms };
}
