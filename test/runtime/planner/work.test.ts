import { afterAll, describe, expect, it } from 'vitest';
import { exchangesOf } from '../../../src/cli/exchanges.js';
import { followingRange } from '../../../src/ir/placement.js';
import type { Package } from '../../../src/package/read.js';
import { parseCluster } from '../../../src/runtime/planner/cluster.js';
import { documentMaker, microBatchOf } from '../../../src/runtime/planner/calibrate/documents.js';
import { kvShare, physicalCost, UNCALIBRATED } from '../../../src/runtime/planner/physical-cost.js';
import { workOf } from '../../../src/runtime/planner/work.js';
import { TrainingSession } from '../../../src/runtime/session/session.js';
import { compiledModel, packageFolder } from '../session/packages.js';

const { folder, remove } = packageFolder();
afterAll(remove);
const packages = new Map<string, Promise<Package>>();
function packageOf(name: string, zeroStage: 0 | 1 = 1): Promise<Package> {
  const key = `${name}${zeroStage}`;
  const known = packages.get(key) ?? compiledModel(folder, name, { optimizer: { zeroStage } });
  packages.set(key, known);
  return known;
}

describe('the FLOPs of a package', () => {
  it('are 6·N a token, and those of attention a pair: gpt2', async () => {
    const work = workOf(await packageOf('gpt2'), 4);
    const [layers, hidden, vocabulary] = [2, 64, 512];
    // Weights that tokens are multiplied with: q, k, v, the output, two of the MLP (4 times as wide); the head.
    const weights = layers * 12 * hidden ** 2 + hidden * vocabulary;
    expect(work.flopsPerToken).toBe(6 * weights);
    expect(work.flopsPerMicroBatch).toBe(0);
    // Two products forward, five backward (scores once more), 2 operations an element of each head.
    expect(work.flopsPerPair).toBe(layers * 2 * hidden * (2 + 5));
    expect(work).toMatchObject({ attention: 'causal', heads: 4, kvHeads: 4, exchanges: 4 * layers });
  });

  it('leave out what only travels: parameters sharded over the world are gathered in every micro-batch', async () => {
    const whole = await packageOf('gpt2');
    const chosen = whole.manifest.parameters.find(
      ({ shape, tiedTo }) => shape.length === 2 && tiedTo === undefined,
    )!;
    const pkg = await compiledModel(folder, 'gpt2', { passes: { zero: { shard: [chosen.name] } } });
    const [sharded, plain] = [workOf(pkg, 4), workOf(whole, 4)];
    expect([plain.gatherBytes, plain.gathers]).toEqual([0, 0]);
    const bytes = chosen.shape.reduce((n, d) => n * d, 4);
    expect(sharded.gathers).toBeGreaterThan(0);
    // Gathered whole for forward, perhaps again for backward; its gradient is scattered.
    expect(sharded.gatherBytes % bytes).toBe(0);
    expect(sharded.gatherBytes).toBeGreaterThanOrEqual(2 * bytes);
    expect(sharded.flopsPerToken).toBe(plain.flopsPerToken);
  });

  it('count gated MLPs and shared K/V heads: llama', async () => {
    const work = workOf(await packageOf('llama-ids'), 4);
    const [layers, hidden, inner, kv, vocabulary] = [2, 64, 128, 16, 512];
    const weights = layers * (2 * hidden ** 2 + 2 * hidden * kv + 3 * hidden * inner) + hidden * vocabulary;
    expect(work.flopsPerToken).toBe(6 * weights);
    expect(work.flopsPerPair).toBe(layers * 2 * hidden * (2 + 5));
  });
});

/**
 * Bytes of a step's collectives of the world, all ranks together: what the update settles, and three float64: the
 * loss, tokens that count, tokens predicted right.
 */
const worldBytes = (ranks: number, settleBytes: number): number =>
  (ranks - 1) * settleBytes + 3 * 8 * ranks * (ranks - 1);

describe.each([
  ['gpt2', 1],
  ['gpt2', 0],
  ['llama-ids', 1],
] as const)('%s at ZeRO stage %i', (name, zeroStage) => {
  it('exchanges what the model says, to the byte', async () => {
    const pkg = await packageOf(name, zeroStage);
    const work = workOf(pkg, 4);
    const program = pkg.program('train');
    const session = await TrainingSession.open(pkg, { ranks: 4 });
    try {
      const document = documentMaker(pkg.manifest);
      for (const [groups, even] of [
        [
          [
            { degree: 2, lengths: [24, 40] },
            { degree: 2, lengths: [8] },
          ],
          true,
        ],
        [[{ degree: 4, lengths: [100] }], name === 'gpt2'],
        [
          [
            { degree: 3, lengths: [37, 5] },
            { degree: 1, lengths: [50] },
          ],
          false,
        ],
      ] as const) {
        const plan = [0, 1].map(() => microBatchOf({ groups }, 4, 4, document));
        const { kinds } = await session.step(plan, { lr: 0, step: 0 });
        const sent = groups.reduce((sum, { degree, lengths }) => {
          const tokens = lengths.reduce<number>((a, b) => a + b, 0);
          const exact = exchangesOf(program, { tokens, degree }).reduce((bytes, one) => bytes + one.bytes, 0);
          if (even) expect(modelBytes(work, tokens, degree)).toBe(exact);
          else expect(modelBytes(work, tokens, degree)).toBeGreaterThanOrEqual(exact * (1 - 1 / tokens));
          return sum + exact;
        }, 0);
        expect(kinds['all-to-all']).toEqual({ exchanges: 2 * work.exchanges, bytesSent: 2 * sent });
        const world = (['all-reduce', 'reduce-scatter', 'all-gather'] as const).map((kind) => kinds[kind]);
        expect(world.reduce((sum, { bytesSent }) => sum + bytesSent, 0)).toBe(
          worldBytes(4, work.settleBytes),
        );
        expect(world.reduce((sum, { exchanges }) => sum + exchanges, 0)).toBe(work.settles + 1);
      }
    } finally {
      await session.close();
    }
  });
});

/** What all ranks of a group send if each sends what the fullest does. */
function modelBytes(work: ReturnType<typeof workOf>, tokens: number, degree: number): number {
  const query = (work.queryBytesPerToken * Math.ceil(work.heads / degree)) / work.heads;
  const kv = work.kvBytesPerToken * kvShare(work.heads, work.kvHeads, degree);
  return ((degree - 1) / degree) * degree * tokens * (query + kv);
}

describe('the model on a cluster, by hand', () => {
  const cluster = parseCluster({
    name: 'hand',
    nodes: 2,
    ranksPerNode: 2,
    memoryGibPerRank: 1,
    teraflopsPerRank: 0.001,
    launchUs: 50,
    links: { node: { gibPerSecond: 2, latencyUs: 10 }, network: { gibPerSecond: 0.5, latencyUs: 100 } },
  });

  it('adds up compute, attention, exchanges, launches and ZeRO', async () => {
    const pkg = await packageOf('gpt2');
    const work = workOf(pkg, 4);
    const model = physicalCost(work, cluster, UNCALIBRATED);
    const bytes = work.queryBytesPerToken + work.kvBytesPerToken;
    const gib = 2 ** 30;
    const at = (degree: number) => model.degrees.find((one) => one.degree === degree)!;
    expect(model.degrees.map(({ degree }) => degree)).toEqual([1, 2, 4]);
    // 10⁶ operations a millisecond.
    expect(at(1).msPerToken).toBeCloseTo(work.flopsPerToken / 1e6, 12);
    expect(at(2).msPerToken).toBeCloseTo(work.flopsPerToken / 2e6, 12);
    expect(at(4).msPerPair).toBeCloseTo(work.flopsPerPair / 4e6, 12);
    expect([at(1).exchangeMs, at(1).exchangeMsPerToken]).toEqual([0, 0]);
    // Two ranks of a node: half of half the bytes a token, at 2 GiB/s; one message of 10 µs each.
    expect(at(2).exchangeMsPerToken).toBeCloseTo((1000 * bytes * 0.5 * 0.5) / (2 * gib), 12);
    expect(at(2).exchangeMs).toBeCloseTo(work.exchanges * 0.01, 12);
    // Two nodes: a quarter of the share stays in the node, a half crosses at 0.5 GiB/s, which takes longer.
    expect(at(4).exchangeMsPerToken).toBeCloseTo((1000 * bytes * 0.25 * 0.5) / (0.5 * gib), 12);
    expect(at(4).exchangeMs).toBeCloseTo(work.exchanges * (0.01 + 2 * 0.1), 12);
    expect(model.microBatchMs).toBeCloseTo(0.05 * pkg.program('train').instructions.length, 9);
    // Gradients scattered and parameters gathered: three quarters cross, and three messages each time.
    const settle = (1000 * work.settleBytes * 0.75) / (0.5 * gib) + work.settles * (0.01 + 2 * 0.1);
    expect(model.stepMs).toBeCloseTo(settle, 9);
    expect(model.lockstep).toBe(false);
    const parameters = pkg.manifest.parameters.filter(
      ({ trainable, tiedTo }) => trainable && tiedTo === undefined,
    );
    const elements = parameters.reduce((sum, { shape }) => sum + shape.reduce((n, d) => n * d, 1), 0);
    expect(work.settleBytes).toBeGreaterThanOrEqual(8 * elements);
    expect(work.settleBytes).toBeLessThan(8 * elements + 64);
  });

  it('scales terms by coefficients, and knows uneven heads', async () => {
    const work = workOf(await packageOf('llama-ids'), 4);
    const plain = physicalCost(work, cluster, UNCALIBRATED, { degrees: [3] }).degrees[0]!;
    const factors = { ...UNCALIBRATED, compute: 2, attention: 3, exchange: 5, latency: 7, exchangeRowUs: 2 };
    const scaled = physicalCost(work, cluster, factors, { degrees: [3] }).degrees[0]!;
    expect(scaled.msPerToken).toBeCloseTo(2 * plain.msPerToken, 12);
    expect(scaled.msPerPair).toBeCloseTo(3 * plain.msPerPair, 12);
    // A layer exchanges q, k, v and the output, and their gradients: two rows of three go to others, 2 µs each.
    expect(work.exchangedTensors).toBe(2 * 8);
    expect(scaled.exchangeMsPerToken).toBeCloseTo(5 * plain.exchangeMsPerToken + (0.002 * 16 * 2) / 3, 12);
    expect(scaled.exchangeMs).toBeCloseTo(7 * plain.exchangeMs, 12);
    // 8 heads on 3 ranks: 3, 3, 2; of 2 K/V heads the middle rank needs both.
    expect(plain.msPerPair).toBeCloseTo((work.flopsPerPair * 3) / 8 / 1e6, 12);
    expect(followingRange(2, 8, 3, 1)).toEqual({ start: 0, end: 2 });
    expect(kvShare(8, 2, 3)).toBe(1);
  });

  it('gathers parameters in every micro-batch under ZeRO-3, in lockstep', () => {
    const work = {
      name: 'by hand',
      flopsPerToken: 0,
      flopsPerMicroBatch: 3e6,
      flopsPerPair: 0,
      attention: 'full',
      heads: 4,
      kvHeads: 4,
      launches: 10,
      exchanges: 0,
      exchangedTensors: 0,
      queryBytesPerToken: 0,
      kvBytesPerToken: 0,
      gatherBytes: 2 ** 30,
      gathers: 2,
      settleBytes: 2 ** 29,
      settles: 1,
      peakBytes: () => 0,
    } as const;
    const model = physicalCost(work, cluster, { ...UNCALIBRATED, settle: 2, microBatchMs: 1, stepMs: 4 });
    // 3 ms of compute, 10 launches of 50 µs, ¾ GiB at 0.5 GiB/s twice as slow, 2 × 0.21 ms.
    expect(model.microBatchMs).toBeCloseTo(1 + 3 + 0.5 + 2 * 1500 + 0.42, 9);
    expect(model.stepMs).toBeCloseTo(4 + 2 * 750 + 0.21, 9);
    expect(model.lockstep).toBe(true);
  });
});
