import { describe, expect, it } from 'vitest';
import { makeInput, type Graph, type Value } from '../../src/ir/graph.js';
import { opDef } from '../../src/ir/ops/index.js';
import { cotangentType, printType } from '../../src/ir/type.js';
import { findings } from '../../src/ir/verify.js';
import { evaluateSharded, evaluateWhole, wholeShape, type Values } from '../support/mesh.js';
import { distance, randomOf, randomTensor } from '../support/random.js';
import { cotangents } from '../support/reverse.js';
import { sampleGraph, SAMPLES, sampleTitle, sampleValues, type OpSample } from '../support/samples.js';

const STEP = 1e-5;
const TOLERANCE = 1e-6;

/** Results whose cotangents an op refuses or that count rather than compute. */
const CONSTANT_RESULTS: Readonly<Record<string, number>> = {
  cross_entropy: 1,
  squared_error: 1,
  soft_cross_entropy: 1,
};

/** Operands that are given, not computed. */
const GIVEN: Readonly<Record<string, number>> = { soft_cross_entropy: 3 };

const isDifferentiable = (s: OpSample): boolean =>
  opDef(s.op).vjp !== undefined && sampleGraph(s).inputs.some((v) => v.type.dtype === 'f32');

/** All_to_all of settled copies has no cotangent; see collectives.test.ts. */
const isShared = (s: OpSample): boolean =>
  s.op === 'all_to_all' && s.operands.some((o) => /@sp\(\d+\)[^{]*$/.test(o.type));

interface Backward {
  readonly forward: Graph;
  readonly graph: Graph;
  readonly wanted: readonly Value[];
  readonly seeds: readonly (Value | undefined)[];
}

function backwardOf(sample: OpSample): Backward {
  const forward = sampleGraph(sample);
  const seeds = forward.outputs.map(({ name, value }, i) =>
    value.type.dtype !== 'f32' || i === CONSTANT_RESULTS[sample.op]
      ? undefined
      : makeInput(`d_${name}`, 'gradient', cotangentType(value.type)),
  );
  const wanted = forward.inputs.filter((v, i) => v.type.dtype === 'f32' && i !== GIVEN[sample.op]);
  const grads = cotangents(forward, seeds, wanted);
  const outputs = grads.flatMap((value, i) => (value === undefined ? [] : [{ name: `g${i}`, value }]));
  const inputs = [...forward.inputs, ...seeds.filter((s) => s !== undefined)];
  return { forward, graph: { name: 'vjp', axes: forward.axes, inputs, outputs }, wanted, seeds };
}

const nameOf = (value: Value): string => String(value.node.attrs['name']);

/** Directional derivative of Σ seed · output by central differences. */
function differenceQuotient(
  { forward, seeds }: Backward,
  tokens: number,
  values: Values,
  direction: Values,
): number {
  const at = (step: number): number => {
    const moved = new Map(
      [...values].map(([name, t]) => {
        const along = direction.get(name);
        if (along === undefined) return [name, t] as const;
        return [name, { shape: t.shape, data: t.data.map((x, i) => x + step * along.data[i]!) }] as const;
      }),
    );
    const outputs = evaluateWhole(forward, tokens, moved);
    let sum = 0;
    forward.outputs.forEach(({ name }, i) => {
      const seed = seeds[i] && values.get(nameOf(seeds[i]));
      if (seed) outputs.get(name)!.data.forEach((y, j) => (sum += y * seed.data[j]!));
    });
    return sum;
  };
  return (at(STEP) - at(-STEP)) / (2 * STEP);
}

function valuesFor(backward: Backward, sample: OpSample, tokens: number, random: () => number): Values {
  const values = sampleValues(sample, tokens, random);
  for (const seed of backward.seeds)
    if (seed !== undefined) values.set(nameOf(seed), randomTensor(random, wholeShape(seed.type, tokens)));
  return values;
}

describe.each(
  SAMPLES.filter((s) => isDifferentiable(s) && !isShared(s)).map((s) => [sampleTitle(s), s] as const),
)('the VJP of %s', (_, sample) => {
  const backward = backwardOf(sample);

  it('has the dual types', () => {
    expect(findings(backward.graph)).toEqual([]);
    expect(backward.graph.outputs.map((o) => printType(o.value.type))).toEqual(
      backward.wanted.map((v) => printType(cotangentType(v.type))),
    );
  });

  it.each([5, 1])('is the finite difference on one rank, %i tokens', (tokens) => {
    const random = randomOf(tokens);
    const values = valuesFor(backward, sample, tokens, random);
    const direction = new Map(
      backward.wanted.map((v) => [nameOf(v), randomTensor(random, wholeShape(v.type, tokens))]),
    );
    const grads = evaluateWhole(backward.graph, tokens, values);
    let predicted = 0;
    let scale = 1e-2;
    backward.wanted.forEach((v, i) =>
      grads.get(`g${i}`)!.data.forEach((g, j) => {
        const term = g * direction.get(nameOf(v))!.data[j]!;
        predicted += term;
        scale = Math.max(scale, Math.abs(term));
      }),
    );
    const measured = differenceQuotient(backward, tokens, values, direction);
    expect(Math.abs(measured - predicted) / scale).toBeLessThan(TOLERANCE);
  });

  it.each([
    [[{ degree: 3, tokens: 7 }]],
    [[{ degree: 5, tokens: 3 }]],
    [
      [
        { degree: 2, tokens: 4 },
        { degree: 1, tokens: 0 },
      ],
    ],
  ])('is the same sharded: %j', (lanes) => {
    const random = randomOf(5);
    const values = lanes.map(({ tokens }) => valuesFor(backward, sample, tokens, random));
    const sharded = evaluateSharded(backward.graph, lanes, values, random);
    lanes.forEach(({ tokens }, lane) => {
      for (const [name, expected] of evaluateWhole(backward.graph, tokens, values[lane]!))
        expect(distance(sharded[lane]!.get(name)!, expected), name).toBeLessThan(1e-12);
    });
  });
});
