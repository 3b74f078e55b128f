import type { CostModel, DegreeCost } from './cost.js';

/** Constants of FlexSP's cost model (arXiv 2412.01523, section 4), as its authors fitted and published them. */
export interface FlexSpConstants {
  readonly name: string;
  readonly ranks: number;
  readonly ranksPerNode: number;
  readonly degrees: readonly number[];
  readonly attentionMsPerToken2: number;
  readonly linearMsPerToken: number;
  readonly microBatchMs: number;
  /** 2²⁰ bytes that all exchanges of a step move per token, before dividing by the degree. */
  readonly exchangeMibPerToken: number;
  /** 2³⁰ bytes a second and rank, by degree. */
  readonly bandwidth: ReadonlyMap<number, number>;
  /** Tokens a rank holds. */
  readonly tokensPerRank: number;
  readonly stateBytes: number;
  readonly activationBytesPerToken: number;
  readonly memoryLimitBytes: number;
}

/**
 * time of a sequence of s tokens on d ranks = (attention·s² + linear·s)/d + exchange·s/d/bandwidth[d]; a group adds
 * up its sequences, a micro-batch pays a fixed cost. No latency, no (d−1)/d, no overlap: as published.
 */
export function flexSpCost(constants: FlexSpConstants): CostModel {
  const { attentionMsPerToken2, linearMsPerToken, exchangeMibPerToken, bandwidth, tokensPerRank } = constants;
  const degrees = constants.degrees
    .filter((degree) => degree === 1 || bandwidth.has(degree))
    .sort((a, b) => a - b)
    .map((degree): DegreeCost => {
      const gibPerSecond = bandwidth.get(degree);
      return {
        degree,
        capacity: degree * tokensPerRank,
        msPerToken: linearMsPerToken / degree,
        msPerPair: attentionMsPerToken2 / degree,
        exchangeMs: 0,
        exchangeMsPerToken: gibPerSecond === undefined ? 0 : exchangeMibPerToken / degree / gibPerSecond,
        overlap: 0,
      };
    });
  return {
    name: constants.name,
    ranks: constants.ranks,
    ranksPerNode: constants.ranksPerNode,
    degrees,
    microBatchMs: constants.microBatchMs,
    stepMs: 0,
    pairs: (length) => length * length,
    memoryBytes: (degree, tokens) =>
      constants.stateBytes + (constants.activationBytesPerToken * tokens) / degree,
    memoryLimitBytes: constants.memoryLimitBytes,
  };
}
