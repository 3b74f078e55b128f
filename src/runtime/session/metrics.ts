import { collectiveKinds, type CollectiveKind, type KindCounter } from '../collectives/engine.js';
import type { Made, MicroBatchTime, RankCounters, RankReply } from './protocol.js';

export interface ExchangeMetrics {
  /** Bytes that left ranks, summed over all. */
  readonly bytesExchanged: number;
  /** Collective calls of the rank that made most. */
  readonly exchanges: number;
  /** The same by kind of collective. */
  readonly kinds: Readonly<Record<CollectiveKind, KindCounter>>;
  /** Milliseconds blocked on other ranks, of the rank that waited longest. */
  readonly waitMs: number;
}

export function mergeCounters(counters: readonly RankCounters[]): ExchangeMetrics {
  const merge = (own: readonly KindCounter[]): KindCounter => ({
    exchanges: Math.max(...own.map((c) => c.exchanges)),
    bytesSent: own.reduce((sum, c) => sum + c.bytesSent, 0),
  });
  const kinds = Object.fromEntries(
    collectiveKinds.map((kind) => [kind, merge(counters.map((c) => c.kinds[kind]))]),
  );
  const all = merge(counters);
  return {
    bytesExchanged: all.bytesSent,
    exchanges: all.exchanges,
    kinds: kinds as ExchangeMetrics['kinds'],
    waitMs: Math.max(...counters.map((c) => c.waitMs)),
  };
}

/** The longest of each, by rank: the rank that waited longest need not be the one that worked longest. */
export const slowestOf = (times: readonly MicroBatchTime[]): MicroBatchTime => ({
  ms: Math.max(...times.map(({ ms }) => ms)),
  cpuMs: times.some(({ cpuMs }) => cpuMs === undefined)
    ? undefined
    : Math.max(...times.map(({ cpuMs }) => cpuMs!)),
});

export const madeBy = (replies: readonly RankReply[]): Made => ({
  groups: replies.reduce((sum, { made }) => sum + made.groups, 0),
  programs: replies.reduce((sum, { made }) => sum + made.programs, 0),
  models: replies.reduce((sum, { made }) => sum + made.models, 0),
});
