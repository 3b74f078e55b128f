import { describe, expect, it } from 'vitest';
import { OPS } from '../../src/ir/ops/index.js';
import { findings } from '../../src/ir/verify.js';
import { evaluateSharded, evaluateWhole } from '../support/mesh.js';
import { distance, randomOf } from '../support/random.js';
import { sampleGraph, SAMPLES, sampleTitle, sampleValues, type OpSample } from '../support/samples.js';

const TOLERANCE = 1e-12;

/** Degrees, tokens: uneven shards, fewer tokens or heads than ranks, no token at all, unequal lanes. */
const LANES = [
  [{ degree: 1, tokens: 7 }],
  [{ degree: 2, tokens: 7 }],
  [{ degree: 3, tokens: 7 }],
  [{ degree: 5, tokens: 7 }],
  [{ degree: 3, tokens: 1 }],
  [{ degree: 2, tokens: 0 }],
  [
    { degree: 2, tokens: 5 },
    { degree: 3, tokens: 4 },
    { degree: 1, tokens: 0 },
  ],
];

function expectShardedIsWhole(sample: OpSample, lanes: readonly { degree: number; tokens: number }[]): void {
  const random = randomOf(17);
  const graph = sampleGraph(sample);
  const values = lanes.map(({ tokens }) => sampleValues(sample, tokens, random));
  const sharded = evaluateSharded(graph, lanes, values, random);
  lanes.forEach(({ tokens }, lane) => {
    const whole = evaluateWhole(graph, tokens, values[lane]!);
    for (const [name, expected] of whole)
      expect(distance(sharded[lane]!.get(name)!, expected), `${name} of lane ${lane}`).toBeLessThan(
        TOLERANCE,
      );
  });
}

describe('the op table', () => {
  it('names every op once and samples every op', () => {
    const sampled = new Set(SAMPLES.map((s) => s.op));
    // attention_vjp is reached through the VJP of attention (vjp.test.ts); inputs are no operation.
    const missing = Object.keys(OPS).filter((op) => !sampled.has(op as OpSample['op']));
    expect(missing).toEqual(['input', 'attention_vjp']);
    for (const [name, def] of Object.entries(OPS)) expect(def.name).toBe(name);
  });

  it.each(SAMPLES.map((s) => [sampleTitle(s), s] as const))('%s: sharded = whole', (_, sample) => {
    expect(findings(sampleGraph(sample))).toEqual([]);
    for (const lanes of LANES) expectShardedIsWhole(sample, lanes);
  });
});
