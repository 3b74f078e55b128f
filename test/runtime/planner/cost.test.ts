import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CLUSTERS, parseCluster, readCluster, worldOf } from '../../../src/runtime/planner/cluster.js';
import { exposedExchangeMs, groupMs, restrictDegrees } from '../../../src/runtime/planner/cost.js';
import { kvShare, pairsOf, usefulDegrees } from '../../../src/runtime/planner/physical-cost.js';
import { findProblem, parseProblems, readProblems } from '../../../src/runtime/planner/problem.js';
import { flexSpModel, physicalModel } from './models.js';

const shape = { nodes: 2, ranksPerNode: 4, heads: 6, overlap: 0, tokensPerRank: 1000 };

describe('the physical model', () => {
  const model = physicalModel(shape);
  const cost = (degree: number): (typeof model.degrees)[number] =>
    model.degrees.find((one) => one.degree === degree)!;

  it('divides tokens by ranks and attention by whole heads', () => {
    expect(cost(1).msPerToken / cost(4).msPerToken).toBeCloseTo(4, 12);
    expect(cost(1).msPerPair / cost(4).msPerPair).toBeCloseTo(3, 12);
    expect(cost(1).msPerPair / cost(3).msPerPair).toBeCloseTo(3, 12);
  });

  it('pays latency by messages and bandwidth by what leaves the rank, more across nodes', () => {
    expect(cost(1).exchangeMs + cost(1).exchangeMsPerToken).toBe(0);
    expect(cost(4).exchangeMs).toBeCloseTo((4 * 3 * 10) / 1000, 12);
    const usual = model.degrees.map((one) => one.degree);
    expect(usual).toEqual([1, 2, 3, 4]);
    const wide = physicalModel({ ...shape, heads: 8 }).degrees.at(-1)!;
    expect(wide.degree).toBe(8);
    expect(wide.exchangeMs).toBeCloseTo((4 * (3 * 10 + 4 * 20)) / 1000, 12);
    expect(wide.exchangeMsPerToken).toBeGreaterThan(cost(4).exchangeMsPerToken);
  });

  it('finds the most tokens that the exact peak allows', () => {
    expect(model.degrees.map((one) => one.capacity)).toEqual([1000, 2000, 3000, 4000]);
    expect(model.memoryBytes(4, 4000)).toBeLessThanOrEqual(model.memoryLimitBytes);
    expect(model.memoryBytes(4, 4001)).toBeGreaterThan(model.memoryLimitBytes);
  });

  it('hides the shorter of compute and exchange', () => {
    const [none, half, all] = [0, 0.5, 1].map((overlap) => physicalModel({ ...shape, overlap }).degrees[1]!);
    const exchange = none!.exchangeMs + 500 * none!.exchangeMsPerToken;
    expect(exposedExchangeMs(none!, 500, 1000)).toBeCloseTo(exchange, 9);
    expect(exposedExchangeMs(half!, 500, 1000)).toBeCloseTo(exchange / 2, 9);
    expect(exposedExchangeMs(all!, 500, 1000)).toBeCloseTo(0, 9);
    expect(groupMs(none!, 0, 0)).toBe(0);
  });

  it('counts attended pairs', () => {
    const count = (length: number, sees: (row: number) => number): number =>
      Array.from({ length }, (_, row) => sees(row)).reduce((a, b) => a + b, 0);
    for (const length of [0, 1, 7, 40]) {
      expect(pairsOf('causal')(length)).toBe(count(length, (row) => row + 1));
      expect(pairsOf('full')(length)).toBe(count(length, () => length));
      expect(pairsOf({ window: 7 })(length)).toBe(count(length, (row) => Math.min(row + 1, 7)));
    }
  });

  it('sends K/V heads to every rank that reads them', () => {
    expect(kvShare(8, 2, 2)).toBe(1 / 2);
    expect(kvShare(8, 2, 4)).toBe(1 / 2);
    expect(kvShare(8, 2, 3)).toBe(1);
    expect(kvShare(8, 8, 4)).toBe(1 / 4);
  });

  it('offers every degree inside a node, whole nodes beyond, at most a rank a head', () => {
    expect(usefulDegrees(32, 8, 20)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 16]);
    expect(usefulDegrees(4, 8, 64)).toEqual([1, 2, 3, 4]);
  });
});

describe('rules of comparison', () => {
  it('drops degrees', () => {
    const degrees = (options: object): number[] =>
      restrictDegrees(physicalModel(shape), options).degrees.map((d) => d.degree);
    expect(degrees({ minDegree: 2 })).toEqual([2, 3, 4]);
    expect(degrees({ powersOfTwo: true })).toEqual([1, 2, 4]);
    expect(restrictDegrees(flexSpModel(4), {}).degrees).toHaveLength(3);
  });
});

describe('clusters', () => {
  it('has presets of 8, 64 and 1,024 ranks that fit the format', () => {
    expect([...CLUSTERS.values()].map(worldOf)).toEqual([8, 64, 1024]);
    for (const cluster of CLUSTERS.values()) expect(parseCluster(cluster)).toEqual(cluster);
    expect(readCluster('h100x8').ranksPerNode).toBe(8);
  });

  it('names the file and the key that do not fit', () => {
    expect(() => readCluster('nowhere.json')).toThrow('nowhere.json: cannot be read as a cluster');
    const { nodes: _, ...without } = CLUSTERS.get('a100x64')!;
    expect(() => parseCluster(without, 'c.json')).toThrow('c.json: nodes');
    expect(() => parseCluster({ ...CLUSTERS.get('a100x64'), node: 8 }, 'c.json')).toThrow('c.json');
    expect(() => parseCluster({ ...CLUSTERS.get('a100x64'), nodes: 0 })).toThrow('nodes');
  });
});

const problem = {
  bandwidth: { 1: null, 2: 100, 4: 90 },
  settings: {
    small: {
      gpus: 4,
      degrees: [4, 1, 2],
      device_token_capacity: 100,
      attn_ms_per_token2: 1e-6,
      linear_ms_per_token: 0.1,
      microbatch_fixed_ms: 50,
      a2a_mb_per_token: 2,
    },
  },
  batches: [{ id: 'a', setting: 'small', lengths: [10, 400] }],
};

describe('problem files', () => {
  it('reads the constants of FlexSP’s model', () => {
    const [one] = parseProblems(JSON.stringify(problem));
    expect(one?.lengths).toEqual([10, 400]);
    expect(one?.cost.degrees.map((cost) => cost.degree)).toEqual([1, 2, 4]);
    const two = one!.cost.degrees[1]!;
    expect(two.capacity).toBe(200);
    expect(groupMs(two, 10, 100)).toBeCloseTo((1e-6 * 100 + 0.1 * 10) / 2 + (2 * 10) / 2 / 100, 12);
    expect(findProblem([one!], 'a')).toBe(one);
    expect(() => findProblem([one!], 'b')).toThrow('there is no batch "b"');
  });

  it('refuses what does not fit the format, by file and key', () => {
    const parse = (change: object): unknown =>
      parseProblems(JSON.stringify({ ...problem, ...change }), 'p.json');
    expect(() => parseProblems('{', 'p.json')).toThrow('p.json: is not JSON');
    expect(() => parse({ batches: [{ id: 'a', setting: 'small', lengths: [-1] }] })).toThrow(
      'p.json: batches.0.lengths.0',
    );
    expect(() => parse({ batches: [{ id: 'a', setting: 'large', lengths: [] }] })).toThrow(
      'names the setting "large"',
    );
    expect(() => parse({ settings: { small: { ...problem.settings.small, gpus: 0 } } })).toThrow(
      'settings.small.gpus',
    );
    expect(() => parse({ batches: [{ id: 'a', setting: '__proto__', lengths: [] }] })).toThrow('"__proto__"');
  });

  it('reads them from disk', () => {
    const folder = mkdtempSync(join(tmpdir(), 'ithaca-planner-'));
    const file = join(folder, 'p.json');
    writeFileSync(file, JSON.stringify(problem));
    expect(readProblems(file)).toHaveLength(1);
    rmSync(folder, { recursive: true });
    expect(() => readProblems(file)).toThrow('p.json: cannot be read');
  });
});
