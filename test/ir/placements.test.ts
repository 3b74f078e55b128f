import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, type Attrs, type Graph } from '../../src/ir/graph.js';
import { TypeMismatch } from '../../src/ir/op.js';
import { opDef } from '../../src/ir/ops/index.js';
import {
  cotangentType,
  placementFault,
  printType,
  splitOn,
  tensorType,
  type Split,
  type Type,
} from '../../src/ir/type.js';
import { dim } from '../../src/ir/type.js';
import { symbolSize, type SizeLike } from '../../src/ir/size.js';
import { evaluateSharded, evaluateWhole, wholeShape } from '../support/mesh.js';
import { distance, randomOf, randomTensor } from '../support/random.js';
import { cotangents } from '../support/reverse.js';

const S = symbolSize('S');
const RUNS = { seed: 7, numRuns: 400 };

/** Any placement of a tensor of given dims, lawful ones only: whole, split, K/V heads, pending. */
const placementOf = (shape: readonly SizeLike[]): fc.Arbitrary<Type> =>
  fc
    .record({
      at: fc.nat(shape.length + 1),
      split: fc.constantFrom<Split>(
        splitOn('sp'),
        splitOn('sp'),
        splitOn('sp', { unit: 2 }),
        splitOn('sp', { of: 4 }),
        splitOn('sp', { unit: 2, of: 4 }),
        splitOn('sp', { of: 8 }),
      ),
      pending: fc.boolean(),
    })
    .map(({ at, split, pending }) =>
      tensorType(
        'f32',
        shape.map((size, i) => dim(size, i === at ? split : undefined)),
        pending ? 'sp' : undefined,
      ),
    )
    .filter((type) => placementFault(type) === undefined);

const placementsOf = (shapes: readonly (readonly SizeLike[])[]): fc.Arbitrary<readonly Type[]> =>
  fc.tuple(...shapes.map(placementOf));

interface Case {
  readonly op: string;
  readonly attrs: Attrs;
  readonly types: readonly Type[];
}

const typed = (op: string, shapes: readonly (readonly SizeLike[])[], attrs: Attrs = {}): fc.Arbitrary<Case> =>
  placementsOf(shapes).map((types) => ({ op, attrs, types }));

const sized = fc.constantFrom<SizeLike>(1, 2, 4, S);

const binary = fc
  .tuple(fc.constantFrom('add', 'sub', 'mul', 'div', 'maximum'), sized, sized, fc.nat(8))
  .chain(([op, m, n, form]) => {
    const whole = [m, n];
    const other = [whole, whole, [n], [1, n], [m, 1], [], [2, m, n], [1, 1, 1], [1]][form]!;
    return fc.boolean().chain((swap) => typed(op, swap ? [other, whole] : [whole, other]));
  });

const matmul = fc.tuple(sized, sized, sized, fc.nat(4)).chain(([m, k, n, form]) => {
  const [left, right] = [
    [
      [m, k],
      [k, n],
    ],
    [
      [2, m, k],
      [k, n],
    ],
    [
      [4, m, k],
      [4, k, n],
    ],
    [
      [m, k],
      [2, k, n],
    ],
    [
      [2, 1, m, k],
      [4, k, n],
    ],
  ][form]! as [SizeLike[], SizeLike[]];
  return typed('matmul', [left, right]);
});

const reshape = fc
  .constantFrom<readonly (readonly SizeLike[])[]>(
    [
      [4, 2, 3],
      [8, 3],
    ],
    [
      [8, 3],
      [4, 6],
    ],
    [
      [4, 6],
      [2, 2, 6],
    ],
    [
      [S, 4],
      [S, 2, 2],
    ],
    [
      [1, S, 4],
      [S, 4],
    ],
    [[2, 6], [12]],
    [[12], [1, 2, 6]],
    [
      [1, 4],
      [2, 2],
    ],
  )
  .chain(([from, shape]) => typed('reshape', [from!], { shape } as Attrs));

const others = fc.oneof(
  typed('reduce_sum', [[2, S, 4]], { dims: [0, 2], keep: true }),
  typed('reduce_sum', [[4, 2]], { dims: [0], keep: false }),
  typed('reduce_max', [[4, 2]], { dims: [0], keep: false }),
  typed('reduce_mean', [[2, S, 4]], { dims: [2], keep: false }),
  typed('softmax', [[4, 4]], { dim: 1 }),
  typed(
    'concat',
    [
      [2, 4],
      [1, 4],
    ],
    { dim: 0 },
  ),
  typed(
    'concat',
    [
      [2, 4],
      [2, 1],
    ],
    { dim: 1 },
  ),
  typed('slice', [[4, 4]], { dim: 0, start: 1, end: 4, step: 2 }),
  typed('transpose', [[2, 4, S]], { perm: [2, 0, 1] }),
  typed('broadcast', [[1, 4]], { shape: [2, 2, 4], axes: ['', 'sp(4)', ''] }),
  typed('broadcast', [[4, 1]], { shape: [4, 3], axes: [] }),
  typed('rms_norm', [[2, S, 4], [4]], { eps: 1e-5 }),
  typed('layer_norm', [[2, 4], [4], [4]], { eps: 1e-5 }),
  typed('rms_norm_vjp', [[2, 4], [4], [2, 4]], { eps: 1e-5 }),
  typed('gelu', [[2, 4]]),
  typed('gelu_vjp', [
    [2, 4],
    [2, 4],
  ]),
  typed('silu_vjp', [
    [2, 4],
    [1, 4],
  ]),
  typed('sum_squares', [[2, 4]]),
  typed('all_to_all', [[S, 4, 2]], { from: 0, to: 1, heads: 8 }),
  typed('all_to_all', [[S, 4, 2]], { from: 1, to: 0 }),
  typed('all_reduce', [[4]], { axis: 'sp' }),
  typed('reduce_scatter', [[4]], { axis: 'sp' }),
  typed('all_gather', [[4]], { axis: 'sp' }),
  typed('shard', [[4]], { axis: 'sp' }),
);

/** The graph of a case, or undefined when inference refuses it, which it may do by `TypeMismatch` only. */
function graphOf({ op, attrs, types }: Case): Graph | undefined {
  const inputs = types.map((type, i) => makeInput(`x${i}`, 'data', type));
  try {
    const results = builderAt(undefined)(op, inputs, attrs);
    const outputs = results.map((value, i) => ({ name: `y${i}`, value }));
    return { name: op, axes: ['sp'], inputs, outputs };
  } catch (error) {
    if (!(error instanceof TypeMismatch)) throw error;
    return undefined;
  }
}

/** The graph of the cotangents, or undefined when there are none or the op refuses. */
function backward(graph: Graph): Graph | undefined {
  const { node } = graph.outputs[0]!.value;
  if (opDef(node.op).vjp === undefined) return undefined;
  const seeds = graph.outputs.map(({ name, value }) =>
    makeInput(`d${name}`, 'gradient', cotangentType(value.type)),
  );
  let grads;
  try {
    grads = cotangents(graph, seeds, graph.inputs);
  } catch (error) {
    // Copies of K/V heads that an exchange takes one of have no shared cotangent.
    if (node.op === 'all_to_all' && error instanceof TypeMismatch) return undefined;
    throw error;
  }
  expect(grads.map((g) => printType(g!.type))).toEqual(
    graph.inputs.map((v) => printType(cotangentType(v.type))),
  );
  return {
    ...graph,
    inputs: [...graph.inputs, ...seeds],
    outputs: grads.map((value, i) => ({ name: `g${i}`, value: value! })),
  };
}

function expectShardedIsWhole(graph: Graph): void {
  for (const lane of [
    { degree: 2, tokens: 3 },
    { degree: 3, tokens: 1 },
    { degree: 5, tokens: 4 },
  ]) {
    const random = randomOf(lane.degree);
    const values = new Map(
      graph.inputs.map((v) => [
        String(v.node.attrs['name']),
        randomTensor(random, wholeShape(v.type, lane.tokens), [0.5, 1.5]),
      ]),
    );
    const whole = evaluateWhole(graph, lane.tokens, values);
    const [sharded] = evaluateSharded(graph, [lane], [values], random);
    for (const [name, expected] of whole)
      expect(distance(sharded!.get(name)!, expected), name).toBeLessThan(1e-12);
  }
}

describe('any placement that inference accepts is right, forward and backward', () => {
  it.each([
    ['elementwise', binary, 60],
    ['matmul', matmul, 40],
    ['reshape', reshape, 100],
    ['reductions, norms, data movement, collectives', others, 80],
  ] as const)('%s', (_, cases, least) => {
    let accepted = 0;
    fc.assert(
      fc.property(cases, (c) => {
        const graph = graphOf(c);
        if (graph === undefined) return;
        accepted++;
        expectShardedIsWhole(graph);
        const vjp = backward(graph);
        if (vjp !== undefined) expectShardedIsWhole(vjp);
      }),
      RUNS,
    );
    expect(accepted).toBeGreaterThan(least);
  });
});
