/** Worker entry of the collectives benchmark. */
import type { Block, Collectives, Group } from '../../src/runtime/collectives/engine.js';
import { serveRank } from '../../src/runtime/ranks/worker.js';

export interface ExchangeOrder {
  /** Tokens on this rank; heads of the whole model; elements of a head. */
  readonly tokens: number;
  readonly heads: number;
  readonly headSize: number;
  readonly repeats: number;
}

export interface ExchangeTimes {
  readonly bytesSent: number;
  readonly allToAllMs: number;
  /** A plain copy of as many bytes, on all ranks at once. */
  readonly copyMs: number;
}

serveRank<ExchangeOrder, ExchangeTimes>((order, { collectives }) => {
  const group = { ranks: Array.from({ length: collectives.world }, (_, rank) => rank) };
  const exchange = headsForTokens(order, collectives, group);
  const bytes = bytesOf(collectives, exchange);
  const src = new Float32Array(bytes / 4);
  const dst = new Float32Array(bytes / 4);
  return {
    bytesSent: bytes,
    allToAllMs: timed(order.repeats, collectives, group, exchange),
    copyMs: timed(order.repeats, collectives, group, () => dst.set(src)),
  };
});

/** The exchange in front of attention: q of all heads for my tokens becomes q of my heads for all tokens. */
function headsForTokens(order: ExchangeOrder, collectives: Collectives, group: Group): () => void {
  const { tokens, heads, headSize } = order;
  const degree = group.ranks.length;
  const width = (heads / degree) * headSize;
  const src = new Float32Array(tokens * heads * headSize).fill(collectives.rank);
  const dst = new Float32Array(tokens * heads * headSize);
  const sends = group.ranks.map((_, i): Block[] => [
    { offset: i * width, rows: tokens, rowStride: heads * headSize, cols: width },
  ]);
  const recvs = group.ranks.map((_, i): Block[] => [
    { offset: i * tokens * width, rows: 1, rowStride: 0, cols: tokens * width },
  ]);
  return () => collectives.allToAll(group, [{ src, dst, sends, recvs, accumulate: false }]);
}

function bytesOf(collectives: Collectives, exchange: () => void): number {
  const before = collectives.counters.bytesSent;
  exchange();
  return collectives.counters.bytesSent - before;
}

/** @returns the median of the repeats, in milliseconds */
function timed(repeats: number, collectives: Collectives, group: Group, work: () => void): number {
  const times = Array.from({ length: repeats }, () => {
    collectives.barrier(group);
    const start = performance.now();
    work();
    return performance.now() - start;
  });
  return times.toSorted((a, b) => a - b)[repeats >> 1] ?? NaN;
}
