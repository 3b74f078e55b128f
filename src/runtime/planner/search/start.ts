import { placeable } from '../place.js';
import { chunkItems } from './chunk.js';
import type { Items } from './items.js';
import { leastRankTime, packEvenly, packWithin, type Packing } from './pack.js';
import type { PackedGroup } from './shelf.js';
import { loadMs, type DegreeTables } from './tables.js';

/** A first plan: groups by micro-batch, and the items that fitted nowhere. */
export interface Start {
  readonly microBatches: readonly (readonly {
    readonly column: number;
    readonly held: readonly number[];
  }[])[];
  readonly left: readonly number[];
  /** Time of the step; with items left over, what is known of it. */
  readonly ms: number;
}

interface Front {
  readonly microBatches: Start['microBatches'];
  readonly rest: readonly number[];
  readonly restTokens: number;
  readonly ms: number;
  /** Time of the step if the rest could be spread without a gap. */
  readonly outlook: number;
}

/** How much a search for first plans may cost. */
export interface StartOptions {
  readonly beam?: number;
  /** Micro-batches whose length a long sequence dictates. */
  readonly depth?: number;
  /** Fronts whose rest is packed. */
  readonly completed?: number;
  /** Rounds of bisection. */
  readonly rounds?: number;
}

/**
 * First plans, best first. The longest sequence that is left dictates how long a micro-batch takes: some degree's
 * time for it, or for it and the next one in the same group. Within that time first fit decreasing packs all that
 * fits, so that short sequences fill what the long ones leave idle; then the longest of the rest dictates. A beam
 * keeps the most promising fronts; their rests are cut into runs of even token counts.
 */
export function startPlans(
  tables: DegreeTables,
  items: Items,
  { beam = 6, depth = 5, completed = 8, rounds = 6 }: StartOptions = {},
): readonly Start[] {
  const all = Array.from({ length: items.count }, (_, i) => i);
  const rankMs = Float64Array.from(
    all,
    (i) => leastRankTime(tables, items.tokens[i]!, items.pairs[i]!).rankMs,
  );
  const roomiest = tables.size.length - 1;
  const capacity = (tables.capacity[roomiest]! / tables.size[roomiest]!) * tables.ranks;
  const context: Context = { tables, items, rankMs, capacity, rounds };
  const first = front(context, [], all, 0);
  let fronts = [first];
  const seen: Front[] = [];
  for (let level = 0; level < depth; level++) {
    const next = fronts.flatMap((one) => extend(context, one)).sort((a, b) => a.outlook - b.outlook);
    fronts = next.slice(0, beam);
    seen.push(...fronts);
  }
  const chosen = [first, ...seen.sort((a, b) => a.outlook - b.outlook).slice(0, completed)];
  const starts = chosen.flatMap((one) => {
    const least = Math.max(one.rest.length > 0 ? 1 : 0, Math.ceil(one.restTokens / capacity));
    const ends = [completeEvenly(context, one, one.restTokens > 0.97 * least * capacity ? least + 1 : least)];
    if (one === first)
      ends.push(completeByRuns(context, one, least), completeByRuns(context, one, least + 1));
    return ends;
  });
  return starts.sort((a, b) => a.left.length - b.left.length || a.ms - b.ms);
}

interface Context {
  readonly tables: DegreeTables;
  readonly items: Items;
  /** `[item]` → least rank-time of the sequence. */
  readonly rankMs: Float64Array;
  /** Tokens that a micro-batch holds. */
  readonly capacity: number;
  readonly rounds: number;
}

function front(
  context: Context,
  microBatches: Front['microBatches'],
  rest: readonly number[],
  ms: number,
): Front {
  const { tables, items, rankMs, capacity } = context;
  let [restTokens, work] = [0, 0];
  for (const item of rest) {
    restTokens += items.tokens[item]!;
    work += rankMs[item]!;
  }
  const outlook = ms + tables.microBatchMs * Math.ceil(restTokens / capacity) + work / tables.ranks;
  return { microBatches, rest, restTokens, ms, outlook };
}

/** Packs one more micro-batch, for each of a few times that the longest items may dictate. */
function extend(context: Context, { microBatches, rest, ms }: Front): readonly Front[] {
  const { tables, items } = context;
  const [longest, next] = rest;
  if (longest === undefined) return [];
  const limits: number[] = [];
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
  return limits.map((limit) => {
    const packing = packWithin(tables, items, rest, limit * (1 + 1e-9), {
      ranks: tables.ranks,
      fillFirst: false,
      whole: false,
    })!;
    const { kept, left } = keepPlaceable(tables, packing);
    return front(context, [...microBatches, kept], left, ms + tables.microBatchMs + packing.ms);
  });
}

/** Groups of one micro-batch that nodes have room for; the items of the others are left over. */
function keepPlaceable(
  tables: DegreeTables,
  packing: Packing,
): { kept: readonly PackedGroup[]; left: readonly number[] } {
  const { groups } = packing;
  const sizes = groups.map((group) => tables.size[group.column]!);
  if (placeable(sizes, tables.ranks, tables.ranksPerNode)) return { kept: groups, left: packing.left };
  const kept: PackedGroup[] = [];
  const left = [...packing.left];
  for (const group of groups) {
    if (fits(tables, kept, tables.size[group.column]!)) kept.push(group);
    else left.push(...group.held);
  }
  return { kept, left: left.sort((a, b) => a - b) };
}

/** Micro-batches of even token counts, longest first, each packed for itself. */
function completeByRuns({ tables, items, rounds }: Context, one: Front, count: number): Start {
  const microBatches = [...one.microBatches];
  const left: number[] = [];
  let { ms } = one;
  for (const run of chunkItems(items, one.rest, count)) {
    const packings = [false, true].map((fillFirst) => packEvenly(tables, items, run, 1, fillFirst, rounds));
    const packing = packings.reduce(better);
    const placed = keepPlaceable(tables, packing);
    microBatches.push(placed.kept);
    left.push(...placed.left);
    ms += tables.microBatchMs + packing.ms;
  }
  return { microBatches, left, ms };
}

const better = (a: Packing, b: Packing): Packing =>
  b.left.length < a.left.length || (b.left.length === a.left.length && b.ms < a.ms) ? b : a;

/** Micro-batches of equal length, packed together: long and short sequences share groups. */
function completeEvenly({ tables, items, rounds }: Context, one: Front, count: number): Start {
  if (one.rest.length === 0) return { microBatches: one.microBatches, left: [], ms: one.ms };
  const packing = packEvenly(tables, items, one.rest, count, false, rounds);
  const left = [...packing.left];
  const parts: PackedGroup[][] = Array.from({ length: count }, () => []);
  const used: number[] = Array.from({ length: count }, () => 0);
  // Larger groups first, of one size the slower first: micro-batches end up sorted by time.
  for (const group of packing.groups.toSorted((a, b) => b.column - a.column || b.ms - a.ms)) {
    const size = tables.size[group.column]!;
    const m = parts.findIndex((part, i) => used[i]! + size <= tables.ranks && fits(tables, part, size));
    if (m < 0) left.push(...group.held);
    else {
      parts[m]!.push(group);
      used[m]! += size;
    }
  }
  let { ms } = one;
  for (const part of parts)
    ms += tables.microBatchMs + part.reduce((most, group) => Math.max(most, group.ms), 0);
  return { microBatches: [...one.microBatches, ...parts], left, ms };
}

const fits = (tables: DegreeTables, part: readonly PackedGroup[], size: number): boolean =>
  placeable([...part.map((group) => tables.size[group.column]!), size], tables.ranks, tables.ranksPerNode);
