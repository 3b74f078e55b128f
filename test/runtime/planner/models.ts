import * as fc from 'fast-check';
import type { CostModel } from '../../../src/runtime/planner/cost.js';
import { flexSpCost } from '../../../src/runtime/planner/flexsp-cost.js';
import { parseCluster } from '../../../src/runtime/planner/cluster.js';
import { physicalCost, UNCALIBRATED } from '../../../src/runtime/planner/physical-cost.js';

/** FlexSP's 7B constants on some ranks, powers of two from `minDegree` on. */
export function flexSpModel(
  ranks: number,
  { minDegree = 1, tokensPerRank = 6000, fixedMs = 629 } = {},
): CostModel {
  return flexSpCost({
    name: 'flexsp 7b',
    ranks,
    ranksPerNode: 8,
    degrees: [1, 2, 4, 8, 16, 32, 64].filter((d) => d >= minDegree && d <= ranks),
    attentionMsPerToken2: 5.128e-6,
    linearMsPerToken: 0.18396,
    microBatchMs: fixedMs,
    exchangeMibPerToken: 2,
    bandwidth: new Map([
      [2, 119.54],
      [4, 104.07],
      [8, 96.5],
      [16, 10.33],
      [32, 5.94],
      [64, 4.87],
    ]),
    tokensPerRank,
    stateBytes: 0,
    activationBytesPerToken: 1,
    memoryLimitBytes: tokensPerRank,
  });
}

export interface PhysicalShape {
  readonly nodes: number;
  readonly ranksPerNode: number;
  readonly heads: number;
  readonly overlap: number;
  readonly tokensPerRank: number;
}

/** A model with latency, overlap, uneven heads and degrees of every size. */
export function physicalModel({
  nodes,
  ranksPerNode,
  heads,
  overlap,
  tokensPerRank,
}: PhysicalShape): CostModel {
  const cluster = parseCluster({
    name: 'test',
    nodes,
    ranksPerNode,
    memoryGibPerRank: tokensPerRank / 2 ** 30,
    teraflopsPerRank: 100,
    links: { node: { gibPerSecond: 100, latencyUs: 10 }, network: { gibPerSecond: 10, latencyUs: 20 } },
  });
  return physicalCost(
    {
      name: 'test',
      flopsPerToken: 4e10,
      flopsPerMicroBatch: 0,
      flopsPerPair: 5e5,
      attention: 'causal',
      heads,
      kvHeads: Math.max(1, Math.floor(heads / 4)),
      launches: 100,
      exchanges: 4,
      exchangedTensors: 8,
      queryBytesPerToken: 2 ** 20,
      kvBytesPerToken: 2 ** 18,
      gatherBytes: 2 ** 28,
      settleBytes: 2 ** 30,
      gathers: 1,
      settles: 2,
      peakBytes: (degree, tokens) => Math.ceil(tokens / degree),
    },
    cluster,
    {
      ...UNCALIBRATED,
      compute: 1.1,
      attention: 1.3,
      exchange: 1.2,
      overlap,
      microBatchMs: 40,
      stepMs: 25,
    },
  );
}

/** Lengths with the quantiles of a web corpus: p50 1,600, p90 7,300, p99 39,000 tokens. */
export function longTailed(count: number, most: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const z = Math.sin(i * 12.9898) * 43758.5453;
    const u = z - Math.floor(z);
    return Math.min(most, Math.max(16, Math.round(1600 * (u / (1 - u)) ** 0.69)));
  });
}

/** Cost models of both kinds. */
export const anyModel: fc.Arbitrary<CostModel> = fc.oneof(
  fc
    .record({
      ranks: fc.constantFrom(1, 2, 4, 8, 16),
      tokensPerRank: fc.integer({ min: 50, max: 8000 }),
      fixedMs: fc.constantFrom(0, 100, 629),
    })
    .map(({ ranks, ...options }) => flexSpModel(ranks, options)),
  fc
    .record({
      nodes: fc.integer({ min: 1, max: 3 }),
      ranksPerNode: fc.integer({ min: 1, max: 6 }),
      heads: fc.integer({ min: 1, max: 12 }),
      overlap: fc.constantFrom(0, 0.5, 1),
      tokensPerRank: fc.integer({ min: 50, max: 8000 }),
    })
    .map(physicalModel),
);

/** A model and a batch whose sequences all fit its largest group; long tails, equal lengths and zeros included. */
export const anyBatch = (most: number): fc.Arbitrary<{ model: CostModel; lengths: number[] }> =>
  anyModel.chain((model) => {
    const widest = Math.max(...model.degrees.map((cost) => cost.capacity));
    const length = fc.oneof(
      { weight: 4, arbitrary: fc.integer({ min: 1, max: Math.max(1, Math.floor(widest / 20)) }) },
      { weight: 2, arbitrary: fc.integer({ min: 1, max: widest }) },
      { weight: 1, arbitrary: fc.constantFrom(0, 1, widest, Math.max(1, Math.floor(widest / 2))) },
    );
    return fc.array(length, { maxLength: most }).map((lengths) => ({ model, lengths }));
  });
