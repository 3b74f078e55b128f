import { invariant } from '../../errors.js';
import type { Program } from '../../package/program.js';
import type { BoundBuffers } from './bind.js';
import { lruCache, type Lru } from './lru.js';

/** Where buffers lie in a rank's arena. */
export interface Layout {
  /** Byte offset of every buffer; −1 for inputs and outputs, which have memory of their own. */
  readonly offsets: Float64Array;
  /** Size of the arena. */
  readonly bytes: number;
  /** No layout can be smaller: the most bytes alive in one instruction, each buffer rounded up. */
  readonly lowerBound: number;
  readonly alignment: number;
}

export interface ArenaOptions {
  /** A power of two; default 64: a cache line, and what ONNX Runtime's kernels like best. */
  readonly alignment?: number;
}

const layouts = new WeakMap<Program, Lru<Layout>>();
const CACHED_LAYOUTS = 64;

/** The layout of a bound program; computed once for equal sizes. Deterministic. */
export function layoutArena(bound: BoundBuffers, { alignment = 64 }: ArenaOptions = {}): Layout {
  const cache = layouts.get(bound.program) ?? lruCache<Layout>(CACHED_LAYOUTS);
  layouts.set(bound.program, cache);
  return cache.get(`${alignment}:${bound.sizeKey}`, () => layoutBuffers(bound, alignment));
}

function layoutBuffers({ program, bytes }: BoundBuffers, alignment: number): Layout {
  invariant(alignment > 0 && Number.isInteger(Math.log2(alignment)), `alignment ${alignment}`);
  const offsets = new Float64Array(bytes.length).fill(-1);
  const placed: number[] = [];
  program.buffers.forEach(({ kind }, i) => {
    if (kind !== 'arena') return;
    if (bytes[i]! > 0) placed.push(i);
    else offsets[i] = 0;
  });
  const packed = packIntervals({
    first: Int32Array.from(placed, (b) => program.buffers[b]!.first),
    last: Int32Array.from(placed, (b) => program.buffers[b]!.last),
    sizes: Float64Array.from(placed, (b) => Math.ceil(bytes[b]! / alignment) * alignment),
  });
  placed.forEach((b, i) => (offsets[b] = packed.offsets[i]!));
  return { offsets, bytes: packed.bytes, lowerBound: packed.lowerBound, alignment };
}

/** Things to place: alive from instruction `first` to `last`, both inclusive, `sizes` > 0 wide. */
export interface Intervals {
  readonly first: Int32Array;
  readonly last: Int32Array;
  readonly sizes: Float64Array;
}

export interface Packing {
  readonly offsets: Float64Array;
  readonly bytes: number;
  readonly lowerBound: number;
}

/** Comparisons after which no further order is tried: some 10 ms, the same on every machine. */
const MAX_WORK = 2_000_000;

/**
 * Offset calculation, greedily with best-fit gaps (arXiv 2001.03288, section 5): NP-hard in general, so a few
 * orders are tried, then improved, and the smallest result is kept, the first one if they tie; one that meets
 * the lower bound ends the search. Offsets are multiples of whatever all sizes are multiples of.
 */
export function packIntervals(intervals: Intervals): Packing {
  const live = liveBytes(intervals);
  const lowerBound = live.reduce((most, bytes) => Math.max(most, bytes), 0);
  const shelves = makeShelves(intervals);
  let best: Packing | undefined;
  let work = 0;
  const attempt = (order: Int32Array): Packing => {
    const packing = { ...placeInOrder(intervals, shelves, order), lowerBound };
    if (best === undefined || packing.bytes < best.bytes) best = packing;
    work += shelves.work;
    return packing;
  };
  const done = (): boolean => best?.bytes === lowerBound || work > MAX_WORK;
  for (const order of ordersOf(intervals, live)) {
    attempt(order);
    if (done()) break;
  }
  let order = firstOrder(intervals, live);
  for (let round = 0; round < MAX_ROUNDS && !done(); round++)
    order = promote(order, intervals, attempt(order));
  invariant(best !== undefined, 'no order was tried');
  return best;
}

/** What ended highest goes first: the next attempt gives it a better place. */
function promote(order: Int32Array, { sizes }: Intervals, { offsets, bytes }: Packing): Int32Array {
  const highest = (i: number): boolean => bytes === offsets[i]! + sizes[i]!;
  const top = order.filter(highest);
  const next = order.slice();
  next.set(top);
  next.set(
    order.filter((i) => !highest(i)),
    top.length,
  );
  return next;
}

/** Bytes alive in every instruction. */
function liveBytes({ first, last, sizes }: Intervals): Float64Array {
  const end = last.reduce((most, at) => Math.max(most, at), -1) + 1;
  const live = new Float64Array(end + 1);
  sizes.forEach((size, i) => {
    live[first[i]!]! += size;
    live[last[i]! + 1]! -= size;
  });
  for (let t = 1; t <= end; t++) live[t]! += live[t - 1]!;
  return live;
}

/** Rounds of improvement when no order meets the lower bound; small programs get them all. */
const MAX_ROUNDS = 100;

const firstOrder = (intervals: Intervals, live: Float64Array): Int32Array =>
  ordersOf(intervals, live).next().value ?? new Int32Array();

/** Orders to place in, largest key first; ties go to the next key, then to the earlier. */
function* ordersOf(intervals: Intervals, live: Float64Array): Generator<Int32Array> {
  const { first, last, sizes: size } = intervals;
  const length = Float64Array.from(first, (from, i) => last[i]! - from + 1);
  const area = size.map((bytes, i) => bytes * length[i]!);
  const peak = peakOf(intervals, live);
  const by = (...keys: readonly Float64Array[]): Int32Array =>
    Int32Array.from(size, (_, i) => i).sort((a, b) => {
      for (const key of keys) if (key[a] !== key[b]) return key[b]! - key[a]!;
      return first[a]! - first[b]! || a - b;
    });
  // What is alive at the peak comes first, the long lived below: the lower bound is met there at least.
  yield by(peak, length, size);
  yield by(length, size);
  yield by(area, size);
  yield by(peak, size, length);
  yield by(size, length);
}

/** For every interval, the most bytes that are alive while it is. */
function peakOf({ first, last }: Intervals, live: Float64Array): Float64Array {
  const levels: Float64Array[] = [live];
  for (let width = 1; 2 * width <= live.length; width *= 2) {
    const below = levels.at(-1)!;
    levels.push(
      Float64Array.from({ length: live.length - 2 * width + 1 }, (_, t) =>
        Math.max(below[t]!, below[t + width]!),
      ),
    );
  }
  return Float64Array.from(first, (from, i) => {
    const length = last[i]! - from + 1;
    const level = 31 - Math.clz32(length);
    return Math.max(levels[level]![from]!, levels[level]![last[i]! + 1 - 2 ** level]!);
  });
}

/**
 * Places one interval after the other into the smallest gap, between those that are alive at the same time,
 * that holds it; the lowest of equal ones; above all of them when none does.
 */
function placeInOrder(
  intervals: Intervals,
  shelves: Shelves,
  order: Int32Array,
): Omit<Packing, 'lowerBound'> {
  const { first, last, sizes } = intervals;
  const offsets = new Float64Array(sizes.length);
  for (const shelf of shelves.all) shelf.count = 0;
  let bytes = 0;
  for (const i of order) {
    const [size, from, to] = [sizes[i]!, first[i]!, last[i]!];
    const offset = bestGap(shelves.within(from, to), size, from, to);
    offsets[i] = offset;
    bytes = Math.max(bytes, offset + size);
    shelves.covering(from, to, (shelf) => put(shelf, offset, offset + size, from, to));
  }
  return { offsets, bytes };
}

/** Placed intervals by rising offset, column by column: scanning them is the whole cost of a layout. */
interface Shelf {
  count: number;
  readonly start: Float64Array;
  readonly end: Float64Array;
  readonly from: Int32Array;
  readonly to: Int32Array;
}

/**
 * Everything is on the shelf of the whole program and on those of the sections of it that it is alive in, so
 * that the short lived, which are most, are compared with what is alive around them only.
 */
interface Shelves {
  readonly all: readonly Shelf[];
  /** Entries a placement of everything compares, about. */
  readonly work: number;
  /** One that holds whatever is alive between two instructions. */
  within(from: number, to: number): Shelf;
  covering(from: number, to: number, visit: (shelf: Shelf) => void): void;
}

const SECTIONS = 16;

function makeShelves({ first, last }: Intervals): Shelves {
  const end = last.reduce((most, at) => Math.max(most, at), 0) + 1;
  const width = Math.ceil(end / SECTIONS);
  const section = (at: number): number => Math.floor(at / width);
  const capacities = new Int32Array(SECTIONS);
  first.forEach((from, i) => {
    for (let s = section(from); s <= section(last[i]!); s++) capacities[s]!++;
  });
  const shelfOf = (capacity: number): Shelf => ({
    count: 0,
    start: new Float64Array(capacity),
    end: new Float64Array(capacity),
    from: new Int32Array(capacity),
    to: new Int32Array(capacity),
  });
  const whole = shelfOf(first.length);
  const sections = Array.from(capacities, shelfOf);
  // A shelf fills evenly while it is searched: half of it on average.
  const work = first.reduce((sum, from, i) => {
    const shelf = section(from) === section(last[i]!) ? capacities[section(from)]! : first.length;
    return sum + shelf / 2;
  }, 0);
  return {
    all: [whole, ...sections],
    work,
    within: (from, to) => (section(from) === section(to) ? sections[section(from)]! : whole),
    covering: (from, to, visit) => {
      visit(whole);
      for (let s = section(from); s <= section(to); s++) visit(sections[s]!);
    },
  };
}

function bestGap({ count, start, end, from, to }: Shelf, size: number, first: number, last: number): number {
  let best = -1;
  let smallest = Infinity;
  let top = 0;
  for (let k = 0; k < count; k++) {
    if (from[k]! > last || to[k]! < first) continue;
    const gap = start[k]! - top;
    if (gap >= size && gap < smallest) {
      if (gap === size) return top;
      best = top;
      smallest = gap;
    }
    if (end[k]! > top) top = end[k]!;
  }
  return best >= 0 ? best : top;
}

function put(shelf: Shelf, start: number, end: number, from: number, to: number): void {
  const at = firstAbove(shelf.start, shelf.count, start);
  insert(shelf.start, shelf.count, at, start);
  insert(shelf.end, shelf.count, at, end);
  insert(shelf.from, shelf.count, at, from);
  insert(shelf.to, shelf.count, at, to);
  shelf.count++;
}

/** Index of the first of `count` sorted values that is larger. */
function firstAbove(values: Float64Array, count: number, value: number): number {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle]! > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

function insert(column: Float64Array | Int32Array, count: number, at: number, value: number): void {
  column.copyWithin(at + 1, at, count);
  column[at] = value;
}
