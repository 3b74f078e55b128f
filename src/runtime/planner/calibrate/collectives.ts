import { RankPool } from '../../ranks/pool.js';
import type { CollectiveKind } from '../../collectives/engine.js';
import type { CollectiveTime, TimeCollective } from './collectives-rank.js';
import { dot, errorOf, fitFactors, median, type FitError } from './fit.js';

export type TimedKind = Exclude<CollectiveKind, 'barrier'>;

const KINDS: readonly TimedKind[] = ['all-to-all', 'all-reduce', 'reduce-scatter', 'all-gather'];

/** One kind of collective at one degree and size, every rank in a group of that degree. */
export interface CollectiveSample {
  readonly degree: number;
  /** What a rank holds: of all-to-all its share, of others the whole. */
  readonly bytes: number;
  /** Of one call, of the rank that took longest: on a core, or on the clock where the system does not say. */
  readonly ms: number;
}

/** `ms = call + messages · latency + volume / bandwidth`, see {@link collectiveTerms}. */
export interface CollectiveFit {
  readonly kind: TimedKind;
  readonly callUs: number;
  readonly latencyUs: number;
  /** 2³⁰ bytes a second that a rank sends. */
  readonly gibPerSecond: number;
  readonly error: FitError;
  readonly samples: readonly CollectiveSample[];
}

/** The call, messages a rank sends, and bytes: all but what it keeps, twice where sums are scattered and then gathered. */
export function collectiveTerms(kind: TimedKind, degree: number, bytes: number): [number, number, number] {
  const times = kind === 'all-reduce' ? 2 : 1;
  return [1, times * (degree - 1), (times * bytes * (degree - 1)) / degree];
}

const SIZES_BYTES = [2 ** 10, 2 ** 15, 2 ** 18, 2 ** 21];
const REPEATS = 3;
/** A thread's time on its core is known to a few ms only. */
const BATCH_MS = 30;
const MOST_CALLS = 2000;
const GIB = 2 ** 30;

export interface CollectivesOptions {
  readonly ranks: number;
  /** Degrees of all-to-alls, 1 left out; the others are timed at the smallest and the largest of them. */
  readonly degrees: readonly number[];
  /** Measuring ends soon after; every kind is measured once in any case. */
  readonly limitMs: number;
  onSample?(done: number, of: number): void;
  isStopped?(): boolean;
}

/** Times collectives among local ranks, all groups at the same time, and fits latency and bandwidth to each kind. */
export async function measureCollectives(options: CollectivesOptions): Promise<readonly CollectiveFit[]> {
  const { ranks, limitMs } = options;
  const cells = cellsOf(options);
  if (cells.length === 0) return [];
  // `.js`, or `.ts` where tests run on sources.
  const entry = new URL(`./collectives-rank${import.meta.url.slice(-3)}`, import.meta.url);
  const pool = await RankPool.start<TimeCollective, CollectiveTime>({ world: ranks, entry });
  const times = new Map<Cell, number[]>(cells.map((cell) => [cell, []]));
  const end = performance.now() + limitMs;
  try {
    let done = 0;
    for (let repeat = 0; repeat < REPEATS; repeat++)
      for (const cell of cells) {
        if (options.isStopped?.() === true || (repeat > 0 && performance.now() > end)) break;
        const share = (end - performance.now()) / (REPEATS * cells.length - done);
        times.get(cell)!.push(await timeCell(pool, cell, Math.min(BATCH_MS, Math.max(1, share / 2))));
        options.onSample?.(++done, REPEATS * cells.length);
      }
  } finally {
    await pool.close();
  }
  return KINDS.map((kind) =>
    fitKind(
      kind,
      cells.flatMap((cell) =>
        cell.kind === kind && times.get(cell)!.length > 0
          ? [{ degree: cell.degree, bytes: cell.bytes, ms: median(times.get(cell)!) }]
          : [],
      ),
    ),
  );
}

interface Cell {
  readonly kind: TimedKind;
  readonly degree: number;
  readonly bytes: number;
  readonly groups: readonly (readonly number[])[];
}

function cellsOf({ ranks, degrees }: CollectivesOptions): readonly Cell[] {
  const wide = degrees.filter((degree) => degree > 1 && degree <= ranks);
  return KINDS.flatMap((kind) => {
    const own = kind === 'all-to-all' ? wide : wide.filter((_, i) => i === 0 || i === wide.length - 1);
    return own.flatMap((degree) => {
      const groups = Array.from({ length: Math.floor(ranks / degree) }, (_, g) =>
        Array.from({ length: degree }, (__, i) => g * degree + i),
      );
      return SIZES_BYTES.map((bytes): Cell => ({ kind, degree, bytes, groups }));
    });
  });
}

/** Time of a call, from as many as take about `batchMs`. */
async function timeCell(
  pool: RankPool<TimeCollective, CollectiveTime>,
  { kind, groups, bytes }: Cell,
  batchMs: number,
): Promise<number> {
  const run = (calls: number): Promise<CollectiveTime[]> =>
    pool.broadcast({ kind, groups, elements: bytes / 4, calls });
  const slowest = (times: readonly CollectiveTime[], key: 'ms' | 'cpuMs'): number =>
    times.reduce((most, time) => Math.max(most, time[key] ?? time.ms), 0);
  const probe = slowest(await run(2), 'ms');
  const calls = Math.min(MOST_CALLS, Math.max(2, Math.ceil(batchMs / Math.max(probe, 1e-3))));
  return slowest(await run(calls), 'cpuMs');
}

function fitKind(kind: TimedKind, samples: readonly CollectiveSample[]): CollectiveFit {
  const rows = samples.map(({ degree, bytes, ms }) => ({
    terms: collectiveTerms(kind, degree, bytes),
    measured: ms,
  }));
  const factors = fitFactors(rows);
  const [callMs = 0, latencyMs = 0, msPerByte = 0] = factors;
  return {
    kind,
    callUs: 1000 * callMs,
    latencyUs: 1000 * latencyMs,
    gibPerSecond: 1000 / Math.max(msPerByte, 1e-12) / GIB,
    error: errorOf(rows.map(({ terms, measured }) => [dot(terms, factors), measured])),
    samples,
  };
}
