import { invariant } from '../../errors.js';
import { pairsWithin } from '../../ir/ops/attention-mask.js';
import { worldOf, type Cluster } from './cluster.js';
import type { CostModel, DegreeCost } from './cost.js';

/** Which positions attend to each other, within one sequence. Layers may differ: shares are of the work of a pair. */
export type Attention =
  | 'causal'
  | 'full'
  /** As many tokens back, the query's own included, and `ahead` (0 where absent) after it. */
  | { readonly window: number; readonly ahead?: number }
  | { readonly mixed: readonly { readonly attention: Attention; readonly share: number }[] };

/** What a compiled program does with a micro-batch, forward and backward: read off its package, not measured. */
export interface ProgramWork {
  readonly name: string;
  /** Floating-point operations a token, attention's scores left out. */
  readonly flopsPerToken: number;
  /** Floating-point operations that no token adds to. */
  readonly flopsPerMicroBatch: number;
  /** Floating-point operations a pair of positions that attend to each other, all layers and heads. */
  readonly flopsPerPair: number;
  readonly attention: Attention;
  readonly heads: number;
  readonly kvHeads: number;
  /** Instructions of a micro-batch: each is started, however few tokens it has. */
  readonly launches: number;
  /** All-to-alls of a micro-batch. */
  readonly exchanges: number;
  /** Tensors that they exchange: of each, a rank cuts every token's row into a piece for each rank. */
  readonly exchangedTensors: number;
  /** Bytes a token of everything exchanged along query heads, and along K/V heads: whole tensors, all layers. */
  readonly queryBytesPerToken: number;
  readonly kvBytesPerToken: number;
  /**
   * Bytes that collectives of the world gather or scatter: in every micro-batch (parameters under ZeRO-3), and in
   * every step (gradients, and parameters under ZeRO-1). Whole tensors; a sum over all ranks does both.
   */
  readonly gatherBytes: number;
  readonly settleBytes: number;
  /** Collectives of the world in every micro-batch, and in every step. */
  readonly gathers: number;
  readonly settles: number;
  /** Exact peak of the fullest rank of a group; does not fall when tokens are added. */
  peakBytes(degree: number, tokens: number): number;
}

/**
 * What a calibration run fits; without one, the cluster's own figures and 1. Small matrices run at a part of the
 * rate, r·t/(t + t₀) for t tokens (t₀: those of half the rate). That is t/r + t₀/r, so it is in `microBatchMs`.
 */
export interface Coefficients {
  /** Time over what FLOPs and rate say. */
  readonly compute: number;
  readonly attention: number;
  /** Time of all-to-alls over what bytes and bandwidth, messages and latency say. */
  readonly exchange: number;
  readonly latency: number;
  /** Cutting a row of a tensor for another rank, or putting it in its place there: does not shrink with the piece. */
  readonly exchangeRowUs: number;
  /** The same as `exchange`, of collectives of the world. */
  readonly settle: number;
  /** Share of the shorter of compute and exchange that is hidden: 0 … 1. */
  readonly overlap: number;
  /** What a micro-batch and a step pay once, beside what is said elsewhere. */
  readonly microBatchMs: number;
  readonly stepMs: number;
  /** See {@link CostModel.sharing}. */
  readonly sharing: number;
}

export const UNCALIBRATED: Coefficients = {
  compute: 1,
  attention: 1,
  exchange: 1,
  latency: 1,
  exchangeRowUs: 0,
  settle: 1,
  overlap: 0,
  microBatchMs: 0,
  stepMs: 0,
  sharing: 1,
};

const GIB = 2 ** 30;

/** Degrees worth choosing: every one inside a node, whole nodes beyond; at most one rank a query head. */
export function usefulDegrees(ranks: number, ranksPerNode: number, maxDegree: number): readonly number[] {
  const degrees: number[] = [];
  for (let d = 1; d <= Math.min(ranks, maxDegree); d += d < ranksPerNode ? 1 : ranksPerNode) degrees.push(d);
  return degrees;
}

/**
 * A cost model from physical terms. The slowest rank of a group of d decides: it has ⌈H/d⌉ of H heads, 1/d of the
 * tokens. An all-to-all sends (d−1)/d of a rank's share, inside its node and across nodes at the same time.
 */
export function physicalCost(
  work: ProgramWork,
  cluster: Cluster,
  coefficients: Coefficients = UNCALIBRATED,
  options: { readonly ranks?: number; readonly degrees?: readonly number[] } = {},
): CostModel {
  const { ranks = worldOf(cluster) } = options;
  const { ranksPerNode } = cluster;
  const degrees = options.degrees ?? usefulDegrees(ranks, ranksPerNode, work.heads);
  const memoryLimitBytes = cluster.memoryGibPerRank * GIB;
  const flopsPerMs = cluster.teraflopsPerRank * 1e9;
  const world = (bytes: number, calls: number): number =>
    coefficients.settle * worldCollectiveMs(cluster, ranks, bytes) +
    coefficients.latency * calls * latencyMs(cluster, ranks);
  return {
    name: work.name,
    ranks,
    ranksPerNode,
    degrees: degrees
      .map((degree): DegreeCost => {
        const slowest = Math.ceil(work.heads / degree) / work.heads;
        const bytes =
          work.queryBytesPerToken * slowest +
          work.kvBytesPerToken * kvShare(work.heads, work.kvHeads, degree);
        return {
          degree,
          capacity: mostTokens((tokens) => work.peakBytes(degree, tokens), memoryLimitBytes),
          msPerToken: (coefficients.compute * work.flopsPerToken) / degree / flopsPerMs,
          msPerPair: (coefficients.attention * work.flopsPerPair * slowest) / flopsPerMs,
          exchangeMs: coefficients.latency * work.exchanges * latencyMs(cluster, degree),
          exchangeMsPerToken:
            coefficients.exchange * bytes * msPerByte(cluster, degree) +
            (coefficients.exchangeRowUs / 1000) * rowsPerToken(work, degree),
          overlap: coefficients.overlap,
        };
      })
      .filter(({ capacity }) => capacity > 0),
    microBatchMs:
      coefficients.microBatchMs +
      (work.launches * cluster.launchUs) / 1000 +
      (coefficients.compute * work.flopsPerMicroBatch) / flopsPerMs +
      world(work.gatherBytes, work.gathers),
    stepMs: coefficients.stepMs + world(work.settleBytes, work.settles),
    sharing: coefficients.sharing,
    lockstep: work.gathers > 0,
    pairs: pairsOf(work.attention),
    memoryBytes: (degree, tokens) => work.peakBytes(degree, tokens),
    memoryLimitBytes,
  };
}

/** Attended pairs of one sequence. */
export function pairsOf(attention: Attention): (length: number) => number {
  if (attention === 'full') return (s) => s * s;
  if (attention === 'causal') return (s) => (s * (s + 1)) / 2;
  if ('mixed' in attention) {
    const parts = attention.mixed.map((part) => ({ share: part.share, pairs: pairsOf(part.attention) }));
    return (s) => parts.reduce((sum, { share, pairs }) => sum + share * pairs(s), 0);
  }
  const { window, ahead = 0 } = attention;
  return (s) => pairsWithin({ window, ahead }, s);
}

/**
 * Largest share of all K/V heads that one rank receives: those its ⌈H/d⌉ query heads read, so more than 1/d where
 * several ranks need the same one.
 */
export function kvShare(heads: number, kvHeads: number, degree: number): number {
  let most = 0;
  const perKv = heads / kvHeads;
  for (let rank = 0; rank < degree; rank++) {
    const start = rank * Math.floor(heads / degree) + Math.min(rank, heads % degree);
    const end = start + Math.floor(heads / degree) + (rank < heads % degree ? 1 : 0);
    if (end > start) most = Math.max(most, Math.floor((end - 1) / perKv) - Math.floor(start / perKv) + 1);
  }
  return most / kvHeads;
}

/** Time a byte of a rank's share takes to reach its group: none of it stays, the two levels run side by side. */
function msPerByte({ ranksPerNode, links }: Cluster, degree: number): number {
  if (degree === 1) return 0;
  const inside = (Math.min(degree, ranksPerNode) - 1) / degree;
  const across = Math.max(0, degree - ranksPerNode) / degree;
  const seconds = Math.max(inside / links.node.gibPerSecond, across / links.network.gibPerSecond) / GIB;
  return seconds * 1000;
}

/** Pieces of rows that a rank sends, a token of its group: of each of its rows, one to every other rank. */
export const rowsPerToken = ({ exchangedTensors }: ProgramWork, degree: number): number =>
  (exchangedTensors * (degree - 1)) / degree;

/** One collective: a message to every other rank of the group. */
function latencyMs({ ranksPerNode, links, collectiveUs }: Cluster, degree: number): number {
  if (degree === 1) return 0;
  const inside = Math.min(degree, ranksPerNode) - 1;
  const across = Math.max(0, degree - ranksPerNode);
  return (collectiveUs + inside * links.node.latencyUs + across * links.network.latencyUs) / 1000;
}

/** Gathering or scattering so many bytes over all ranks: the slowest link passes (N−1)/N of them. */
function worldCollectiveMs({ ranksPerNode, links }: Cluster, ranks: number, bytes: number): number {
  const { gibPerSecond } = ranks > ranksPerNode ? links.network : links.node;
  return ((bytes * (ranks - 1)) / ranks / gibPerSecond / GIB) * 1000;
}

/** Most tokens whose peak stays in the limit, by doubling and bisection; 0 if not even one does. */
function mostTokens(peakBytes: (tokens: number) => number, limit: number): number {
  if (!(peakBytes(1) <= limit)) return 0;
  let low = 1;
  let high = 2;
  while (peakBytes(high) <= limit) {
    low = high;
    high *= 2;
    if (high > 2 ** 40) return low;
  }
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (peakBytes(middle) <= limit) low = middle;
    else high = middle;
  }
  invariant(peakBytes(low) <= limit, 'peak memory falls as tokens are added');
  return low;
}
