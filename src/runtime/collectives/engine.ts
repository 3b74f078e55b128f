/**
 * What every collectives engine offers (local worker threads, MPI, NCCL).
 *
 * Every call is synchronous: it returns when this rank's part is done and its sources may be overwritten.
 * All members of the group make the same sequence of calls with each other; a group exists only for the
 * length of a call, so the next call may name any other group. Groups of one rank copy locally and count
 * no bytes.
 */

/** `rows` runs of `cols` contiguous elements, `rowStride` elements apart, starting at element `offset`. */
export interface Block {
  readonly offset: number;
  readonly rows: number;
  readonly rowStride: number;
  readonly cols: number;
}

/** The ranks of one call: world ranks, ascending, the calling rank among them. */
export interface Group {
  readonly ranks: readonly number[];
}

/** What travels: anything of four bytes an element. Copies keep every bit; sums take Float32Array only. */
export type Elements = Float32Array | Int32Array;

/**
 * One tensor of an all-to-all. `sends[i]` and `recvs[i]` belong to the i-th rank of the group; the elements of
 * `sends[i]` are laid end to end, in order, and delivered to the blocks that rank i has under this rank's index.
 * Block shapes may differ on the two sides, element counts may not. No destination block may overlap a source
 * block of the same call.
 */
export interface AllToAllPart {
  readonly src: Elements;
  readonly dst: Elements;
  readonly sends: readonly (readonly Block[])[];
  readonly recvs: readonly (readonly Block[])[];
  /**
   * Add to the destination (Float32Array only) instead of overwriting it; the same on all members. Elements at
   * the same position of the peers' payloads are added in group order, others in an order fixed by the sizes.
   */
  readonly accumulate: boolean;
}

/** One flat buffer in uneven contiguous shards: `counts[i]` elements belong to the i-th rank of the group. */
export interface ReduceScatterPart {
  /** All shards, end to end. */
  readonly src: Float32Array;
  /** This rank's shard of the sum; may be that very range of `src`. */
  readonly dst: Float32Array;
  readonly counts: readonly number[];
}

export interface AllGatherPart {
  /** This rank's shard. */
  readonly src: Elements;
  /** All shards, end to end; `src` may be this rank's range of it. */
  readonly dst: Elements;
  readonly counts: readonly number[];
}

export const collectiveKinds = [
  'all-to-all',
  'all-reduce',
  'reduce-scatter',
  'all-gather',
  'barrier',
] as const;
export type CollectiveKind = (typeof collectiveKinds)[number];

export interface KindCounter {
  /** Calls among two ranks or more. */
  readonly exchanges: number;
  /** Bytes that left this rank; what a rank keeps for itself counts nothing. */
  readonly bytesSent: number;
}

/**
 * Live counters of one rank.
 *
 * Bytes by kind, with P ranks: all-to-all, what is addressed to others; reduce-scatter, every shard but one's own;
 * all-gather, P−1 times one's own shard; all-reduce, the sum of those two over even shards, so 2·(P−1)/P of
 * the buffers on average.
 */
export interface Counters extends KindCounter {
  readonly kinds: Readonly<Record<CollectiveKind, KindCounter>>;
  /** Milliseconds blocked on other ranks. */
  readonly waitMs: number;
}

export interface Collectives {
  readonly rank: number;
  readonly world: number;
  readonly counters: Counters;

  /** One exchange of several tensors. Accumulated sums repeat bit for bit from run to run. */
  allToAll(group: Group, parts: readonly AllToAllPart[]): void;
  /** Sums in place, in group order: the same bits on every rank and in every run. All buffers travel together. */
  allReduce(group: Group, buffers: readonly Float32Array[]): void;
  /** Sums in group order, each rank keeping its shard. */
  reduceScatter(group: Group, parts: readonly ReduceScatterPart[]): void;
  allGather(group: Group, parts: readonly AllGatherPart[]): void;
  /** Returns once every member has called it. */
  barrier(group: Group): void;
}

/**
 * Sums float64 values over the group in group order (losses, token counts, squared norms): few values, sent
 * whole to everyone. Returns the same bits on every rank.
 */
export function sumFloat64(collectives: Collectives, group: Group, values: Float64Array): Float64Array {
  const { length } = values;
  const gathered = new Float64Array(length * group.ranks.length);
  const src = new Int32Array(Float64Array.from(values).buffer);
  collectives.allGather(group, [
    { src, dst: new Int32Array(gathered.buffer), counts: group.ranks.map(() => 2 * length) },
  ]);
  return values.map((_, k) =>
    group.ranks.reduce((sum, _rank, i) => sum + (gathered[i * length + k] ?? 0), 0),
  );
}

/** Sizes of `parts` contiguous shards of `total` elements: the first `total mod parts` hold one more. */
export function evenShards(total: number, parts: number): number[] {
  const base = Math.floor(total / parts);
  return Array.from({ length: parts }, (_, i) => base + (i < total % parts ? 1 : 0));
}
