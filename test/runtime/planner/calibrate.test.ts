import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Package } from '../../../src/package/read.js';
import { calibrate, degreesOf } from '../../../src/runtime/planner/calibrate/calibrate.js';
import { collectiveTerms } from '../../../src/runtime/planner/calibrate/collectives.js';
import { cutTokens, microBatchOf } from '../../../src/runtime/planner/calibrate/documents.js';
import { longTailed } from '../../../src/runtime/planner/calibrate/held-out.js';
import {
  costOf,
  loadCalibration,
  saveCalibration,
  type Calibration,
} from '../../../src/runtime/planner/calibration.js';
import { CLUSTERS } from '../../../src/runtime/planner/cluster.js';
import { localCluster } from '../../../src/runtime/planner/machine.js';
import { checkPlan } from '../../../src/runtime/session/plan.js';
import { compiledModel, packageFolder } from '../session/packages.js';

const { folder, remove } = packageFolder();
afterAll(remove);
let pkg: Package;
let calibration: Calibration;
const shares: number[] = [];
beforeAll(async () => {
  pkg = await compiledModel(folder, 'gpt2');
  const found = await calibrate(pkg, { ranks: 2, seconds: 1, onProgress: (_, share) => shares.push(share) });
  calibration = found!;
});

describe('two ranks of this machine', () => {
  it('are measured: collectives, micro-batches and plans of every kind', () => {
    const { measured, ranks, coefficients, cluster } = calibration;
    expect(ranks).toBe(2);
    expect(measured?.collectives.map(({ kind }) => kind)).toEqual([
      'all-to-all',
      'all-reduce',
      'reduce-scatter',
      'all-gather',
    ]);
    for (const { samples, gibPerSecond } of measured!.collectives) {
      expect(samples.length).toBeGreaterThanOrEqual(4);
      expect(gibPerSecond).toBeGreaterThan(0);
    }
    expect(new Set(measured?.samples.map(({ degree }) => degree))).toEqual(new Set([1, 2]));
    expect(measured?.heldOut.map(({ what }) => what)).toEqual([
      'groups of 1',
      'groups of 2',
      'as planned',
      'a group of 1 beside a single rank',
      'one rank works, others wait',
    ]);
    for (const { predictedMs, measuredMs } of measured!.heldOut)
      expect(Math.min(predictedMs, measuredMs)).toBeGreaterThan(0);
    expect(coefficients.microBatchMs + coefficients.stepMs).toBeGreaterThan(0);
    expect(cluster).toMatchObject({ nodes: 1, ranksPerNode: 2, launchUs: 0 });
    expect([...shares].sort((a, b) => a - b)).toEqual(shares);
    expect(shares.at(-1)).toBeLessThanOrEqual(1);
  });

  it('are priced as they were measured, in proportion on whatever machine this is', () => {
    // Work on a core is what other processes disturb least; a wide bar all the same, for machines that are busy.
    expect(calibration.measured!.microBatches.mean).toBeLessThan(0.5);
    const cost = costOf(pkg, 2, calibration);
    expect(cost).toMatchObject({ ranks: 2, sharing: calibration.coefficients.sharing });
    expect(cost.degrees.map(({ degree }) => degree)).toEqual([1, 2]);
    expect(cost.microBatchMs).toBeGreaterThanOrEqual(calibration.coefficients.microBatchMs);
  });

  it('come back from a file as they were', async () => {
    const file = path.join(folder, 'calibration.json');
    await saveCalibration(file, calibration);
    expect(loadCalibration(file)).toEqual(calibration);
  });

  it('stop when they are asked to', async () => {
    let asked = 0;
    const stopped = await calibrate(pkg, { ranks: 2, seconds: 60, isStopped: () => ++asked > 3 });
    expect(stopped).toBeUndefined();
  });

  it('must be a node of the cluster, or all of it', async () => {
    const cluster = CLUSTERS.get('a100x64')!;
    await expect(calibrate(pkg, { ranks: 2, seconds: 1, cluster })).rejects.toThrow(
      '2 ranks are neither a node of a100x64 (8) nor all of it (64)',
    );
    const small = { ...localCluster(2), memoryGibPerRank: 1e-6 };
    await expect(calibrate(pkg, { ranks: 2, seconds: 1, cluster: small })).rejects.toThrow(
      'GiB on a rank for a single token',
    );
  });
});

type Json = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

describe('a calibration', () => {
  it('is for its package and its ranks, or whole nodes of its cluster', () => {
    expect(() => costOf({ ...pkg, hash: '0'.repeat(64) }, 2, calibration)).toThrow(
      'the calibration is of package model',
    );
    expect(() => costOf(pkg, 3, calibration)).toThrow('measured with 2 ranks, it says nothing of 3');
    const nodes = { ...calibration, cluster: { ...calibration.cluster, nodes: 2 } };
    expect(costOf(pkg, 4, nodes).ranks).toBe(4);
    expect(() => costOf(pkg, 6, nodes)).toThrow('it says nothing of 6');
    expect(costOf(pkg, 3, undefined).ranks).toBe(3);
  });

  const own = mkdtempSync(path.join(tmpdir(), 'ithaca-calibration-'));
  afterAll(() => rmSync(own, { recursive: true, force: true }));
  const load = (text: string): Calibration => {
    const file = path.join(own, 'c.json');
    writeFileSync(file, text);
    return loadCalibration(file);
  };
  it.each<[string, (json: Json) => unknown, string]>([
    [
      'no number',
      (c) => ({ ...c, coefficients: { ...c['coefficients'], compute: 'fast' } }),
      'c.json: coefficients.compute',
    ],
    [
      'a negative time',
      (c) => ({ ...c, coefficients: { ...c['coefficients'], stepMs: -1 } }),
      'c.json: coefficients.stepMs',
    ],
    ['a later version', (c) => ({ ...c, version: 2 }), 'c.json: version'],
    ['another format', () => ({ format: 'ithaca-package' }), 'c.json: format'],
    ['a key too many', (c) => ({ ...c, extra: 1 }), 'c.json'],
    [
      'a cluster of no ranks',
      (c) => ({ ...c, cluster: { ...c['cluster'], ranksPerNode: 0 } }),
      'c.json: cluster.ranksPerNode',
    ],
    [
      'a hash that is none',
      (c) => ({ ...c, package: { name: 'x', hash: '__proto__' } }),
      'c.json: package.hash',
    ],
  ])('with %s is refused by key', (_, change, message) => {
    const json = JSON.parse(JSON.stringify(calibration)) as Json;
    expect(() => load(JSON.stringify(change(json)))).toThrow(message);
  });

  it('that is no JSON, or not there, is refused', () => {
    expect(() => load('{')).toThrow('c.json: cannot be read as a calibration');
    expect(() => loadCalibration(path.join(own, 'none.json'))).toThrow('none.json: cannot be read');
    expect(() => load('null')).toThrow('c.json');
  });

  it('of an earlier program lacks what is 1 by default', () => {
    const { compute, attention, exchange, overlap, microBatchMs, stepMs } = calibration.coefficients;
    const old = {
      ...calibration,
      coefficients: { compute, attention, exchange, overlap, microBatchMs, stepMs },
    };
    expect(load(JSON.stringify(old)).coefficients).toMatchObject({ latency: 1, settle: 1, sharing: 1 });
  });
});

describe('what is run', () => {
  it('has few degrees, one of them uneven', () => {
    expect(degreesOf(1, 12)).toEqual([1]);
    expect(degreesOf(2, 12)).toEqual([1, 2]);
    expect(degreesOf(8, 8)).toEqual([1, 2, 3, 4, 8]);
    expect(degreesOf(8, 4)).toEqual([1, 2, 3, 4]);
    expect(degreesOf(64, 64)).toHaveLength(5);
    expect(degreesOf(64, 64).at(-1)).toBe(64);
  });

  it('are micro-batches that fill the world', () => {
    const document = (length: number) => ({
      ids: new Int32Array(length),
      labels: new Int32Array(length),
      origin: '',
    });
    const plan = microBatchOf({ groups: [{ degree: 3, lengths: [5, 1] }] }, 8, 4, document);
    expect(plan.lanes.map(({ ranks }) => ranks.length)).toEqual([3, 4, 1]);
    expect(() => checkPlan(plan, 8, { ...pkg.manifest, maxDegree: 4 })).not.toThrow();
    expect(cutTokens(10, 4)).toEqual([3, 3, 4]);
    expect(cutTokens(3, 100)).toEqual([3]);
  });

  it('are documents with a long tail, the same for the same seed', () => {
    const lengths = longTailed(500, 100, 3000, 1);
    expect(lengths).toEqual(longTailed(500, 100, 3000, 1));
    const sorted = lengths.toSorted((a, b) => a - b);
    expect(sorted[250]).toBeGreaterThan(80);
    expect(sorted[250]).toBeLessThan(125);
    expect(sorted[499]! / sorted[250]!).toBeGreaterThan(8);
    expect(Math.max(...longTailed(500, 100, 200, 2))).toBe(200);
  });

  it('sends all but what a rank keeps, twice for a sum that everyone gets', () => {
    expect(collectiveTerms('all-to-all', 4, 100)).toEqual([1, 3, 75]);
    expect(collectiveTerms('all-reduce', 4, 100)).toEqual([1, 6, 150]);
    expect(collectiveTerms('all-gather', 1, 100)).toEqual([1, 0, 0]);
  });
});
