import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, type Attrs, type Graph } from '../../src/ir/graph.js';
import { TypeMismatch } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';
import { erf } from '../../src/ir/ops/erf.js';
import { parseType } from '../../src/ir/type.js';
import { evaluateWhole } from '../support/mesh.js';
import { columnRegion, lossRegion } from '../support/samples.js';

const b = builderAt(undefined);

function evaluate(
  op: string,
  operands: readonly (readonly [string, readonly number[]])[],
  attrs: Attrs,
): number[][] {
  const inputs = operands.map(([type], i) => makeInput(`x${i}`, 'data', parseType(type)));
  const results = b(op, inputs, attrs);
  const graph: Graph = {
    name: op,
    axes: ['sp'],
    inputs,
    outputs: results.map((value, i) => ({ name: `y${i}`, value })),
  };
  const values = new Map(
    operands.map(([type, data], i) => [
      `x${i}`,
      tensor(
        parseType(type).dims.map((d) => Number(d.size.key)),
        data,
      ),
    ]),
  );
  return [...evaluateWhole(graph, 1, values).values()].map((t) => [...t.data]);
}

const vector = (data: readonly number[], dtype = 'f32'): readonly [string, readonly number[]] => [
  `${dtype}[${data.length}]`,
  data,
];

/** Values by hand (or from the standard's definition), with signs and ties that a symmetric slip would hide. */
describe('ops compute what they say', () => {
  it.each([
    ['maximum', [-1, 2, -3], [-2, 3, -3], [-1, 3, -3]],
    ['minimum', [1, 2, 3], [2, 1, 3], [1, 1, 3]],
    ['add', [-1, 2, 3], [5, 6, 7], [4, 8, 10]],
    ['sub', [-1, 2, 3], [5, 6, 7], [-6, -4, -4]],
    ['mul', [-1, 2, 3], [5, 6, 7], [-5, 12, 21]],
    ['div', [-1, 2, 3], [4, 8, 2], [-0.25, 0.25, 1.5]],
    ['pow', [-2, 2, 9], [3, -1, 0.5], [-8, 0.5, 3]],
    ['equal', [1, 2, 3], [2, 2, 2], [0, 1, 0]],
    ['less', [1, 2, 3], [2, 2, 2], [1, 0, 0]],
    ['less_equal', [1, 2, 3], [2, 2, 2], [1, 1, 0]],
  ])('%s', (op, x, y, expected) => expect(evaluate(op, [vector(x), vector(y)], {})).toEqual([expected]));

  it.each([
    ['neg', [-1, 2], [1, -2]],
    ['relu', [-1, 2], [0, 2]],
    ['abs', [-1, 2], [1, 2]],
    ['sqrt', [4, 9], [2, 3]],
    ['reciprocal', [4, -2], [0.25, -0.5]],
    ['is_nan', [NaN, 1], [1, 0]],
    ['exp', [0, 1], [1, Math.E]],
    ['log', [1, Math.E], [0, 1]],
    ['tanh', [0, Infinity], [0, 1]],
    ['sigmoid', [0, -1000], [0.5, 0]],
    ['silu', [0, 1000], [0, 1000]],
  ])('%s', (op, x, expected) =>
    expect(evaluate(op, [vector(x)], {})[0]!.map((v) => v + 0)).toEqual(expected),
  );

  it('and, or, not, where, cast', () => {
    const [c, d] = [vector([0, 0, 1, 1], 'bool'), vector([0, 1, 0, 1], 'bool')];
    expect(evaluate('and', [c, d], {})).toEqual([[0, 0, 0, 1]]);
    expect(evaluate('or', [c, d], {})).toEqual([[0, 1, 1, 1]]);
    expect(evaluate('not', [d], {})).toEqual([[1, 0, 1, 0]]);
    expect(evaluate('where', [d, vector([1, 2, 3, 4]), vector([5, 6, 7, 8])], {})).toEqual([[5, 2, 7, 4]]);
    expect(evaluate('cast', [vector([-1.7, 1.7])], { to: 'i32' })).toEqual([[-1, 1]]);
  });

  it('moves data', () => {
    const x = ['f32[2, 3]', [1, 2, 3, 4, 5, 6]] as const;
    expect(evaluate('transpose', [x], { perm: [1, 0] })).toEqual([[1, 4, 2, 5, 3, 6]]);
    expect(evaluate('slice', [x], { dim: 1, start: 0, end: 3, step: 2 })).toEqual([[1, 3, 4, 6]]);
    expect(evaluate('unslice', [vector([7, 8])], { dim: 0, start: 1, end: 4, step: 2, size: 4 })).toEqual([
      [0, 7, 0, 8],
    ]);
    expect(evaluate('concat', [x, ['f32[2, 1]', [7, 8]]], { dim: -1 })).toEqual([[1, 2, 3, 7, 4, 5, 6, 8]]);
    expect(evaluate('broadcast', [['f32[2, 1]', [1, 2]]], { shape: [2, 2], axes: [] })).toEqual([
      [1, 1, 2, 2],
    ]);
    expect(evaluate('gather', [x, vector([1, 0, 1], 'i32')], {})).toEqual([[4, 5, 6, 1, 2, 3, 4, 5, 6]]);
    expect(evaluate('matmul', [x, ['f32[3, 1]', [1, 0, -1]]], {})).toEqual([[-2, -2]]);
    expect(evaluate('reduce_max', [x], { dims: [0], keep: false })).toEqual([[4, 5, 6]]);
    expect(evaluate('reduce_mean', [x], { dims: [1], keep: false })).toEqual([[2, 5]]);
  });

  it('counts no ignored label and sums to zero over none', () => {
    const logits = ['f32[2, 2]', [0, 0, 3, 5]] as const;
    const [sum, count] = evaluate('cross_entropy', [logits, vector([1, -100], 'i32')], {});
    expect(sum![0]).toBeCloseTo(Math.LN2, 14);
    expect(count).toEqual([1]);
    expect(evaluate('cross_entropy', [logits, vector([-100, -100], 'i32')], {})).toEqual([[0], [0]]);
    expect(() => evaluate('cross_entropy', [logits, vector([2, 0], 'i32')], {})).toThrow(
      /label 2 is outside/,
    );
  });

  // Abramowitz & Stegun, table 7.1.
  it.each([
    [0, 0],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [2, 0.9953222650189527],
    [3, 0.9999779095030014],
    [3.5, 0.9999992569016276],
    [7, 1],
  ])('erf(%d)', (x, expected) => {
    expect(Math.abs(erf(x) - expected)).toBeLessThan(1e-15);
    expect(erf(-x) + 0).toBe(-erf(x) + 0);
  });

  it('erf joins its two expansions', () => {
    expect(Math.abs(erf(3) - erf(3 - 1e-12))).toBeLessThan(1e-14);
  });
});

describe('inference refuses', () => {
  it.each<[string, string[], Attrs]>([
    ['add', ['f32[4@sp]', 'f32[4]'], {}],
    ['add', ['f32[4]{U:sp}', 'f32[4]'], {}],
    ['add', ['f32[4]', 'i32[4]'], {}],
    ['add', ['f32[4@sp, 1]', 'f32[1, 4@sp]'], {}],
    ['mul', ['f32[4]{U:sp}', 'f32[4]{U:sp}'], {}],
    ['mul', ['f32[4@sp]', 'f32[]{U:sp}'], {}],
    ['mul', ['f32[2@sp(4)]', 'f32[]{U:sp}'], {}],
    ['div', ['f32[4]', 'f32[4]{U:sp}'], {}],
    ['exp', ['f32[4]{U:sp}'], {}],
    ['and', ['f32[4]', 'f32[4]'], {}],
    ['matmul', ['i32[4, 4]', 'f32[4, 4]'], {}],
    ['matmul', ['f32[4, 4@sp]', 'f32[4, 4]'], {}],
    ['matmul', ['f32[4, 2@sp(4)]', 'f32[2@sp(4), 4]'], {}],
    ['matmul', ['f32[4@sp, 4]', 'f32[4, 4@sp]'], {}],
    ['reduce_sum', ['f32[2@sp(4)]'], { dims: [0] }],
    ['reduce_sum', ['f32[4]'], { dims: [1] }],
    ['reduce_mean', ['f32[S]'], { dims: [0] }],
    ['sum_squares', ['f32[2@sp(4)]'], {}],
    ['transpose', ['f32[2, 3]'], { perm: [1, -1] }],
    ['slice', ['f32[4]'], { dim: 0, start: 0, end: 5, step: 1 }],
    ['slice', ['f32[4]'], { dim: 0, start: 0, end: 4, step: 0 }],
    ['unslice', ['f32[4]'], { dim: 0, start: 0, end: 3, step: 1, size: 6 }],
    ['concat', ['f32[2, 3]', 'f32[2]'], { dim: 1 }],
    ['concat', ['f32[2, 3]', 'f32[1, 3]'], { dim: 1 }],
    ['concat', ['f32[2]', 'i32[2]'], { dim: 0 }],
    ['broadcast', ['f32[2, 3]'], { shape: [3], axes: [] }],
    ['broadcast', ['f32[3]'], { shape: [4, 3], axes: ['tp', ''] }],
    ['constant', [], { dtype: 'f32', shape: [-1, -2], data: [1, 2] }],
    ['constant', [], { dtype: 'f64', shape: [1], data: [1] }],
    ['gather', ['f32[4, 3@sp]', 'i32[S@sp]'], {}],
    ['gather_vjp', ['i32[S@sp]', 'f32[S, 3]'], { rows: 4 }],
    ['rms_norm', ['f32[S@sp, 4]', 'f32[3]'], { eps: 1e-5 }],
    ['rms_norm_vjp', ['f32[4]', 'f32[4]', 'f32[S@sp, 4]'], { eps: 1e-5 }],
    ['gelu_vjp', ['f32[S@sp, 4]', 'f32[4]'], {}],
    ['silu', ['i32[4]'], {}],
  ])('%s %j %j', (op, types, attrs) => {
    const inputs = types.map((t, i) => makeInput(`x${i}`, 'data', parseType(t)));
    expect(() => b(op, inputs, attrs)).toThrow(TypeMismatch);
  });

  const tiled = (types: readonly string[], attrs: Attrs, region = lossRegion()): unknown =>
    b(
      'tiled',
      types.map((t, i) => makeInput(`x${i}`, 'data', parseType(t))),
      { tile: 2, slice: [0, -1, 0], results: ['sum', 'sum'], ...attrs },
      region,
    );
  const lawful = ['f32[S@sp, 4]', 'f32[4, 5]', 'i32[S@sp]'];

  it('tiled ops whose tiles do not fit', () => {
    expect(() => tiled(lawful, {})).not.toThrow();
    for (const attrs of [
      { tile: 0 },
      { slice: [0, -1] },
      { slice: [-1, -1, -1] },
      { slice: [5, -1, 0] },
      { results: ['sum'] },
      { results: ['sum', 'concat'] },
      { results: ['sum', 'mean'] },
    ])
      expect(() => tiled(lawful, attrs)).toThrow(TypeMismatch);
    expect(() => tiled(['f32[S@sp, 4]', 'f32[4, 5]', 'i32[R@sp]'], {})).toThrow(
      /sliced dims of tiled differ/,
    );
    expect(() => tiled(['f32[12@sp/3, 4]', 'f32[4, 5]', 'i32[12@sp/3]'], {})).toThrow(/pieces of one/);
    const settled: Graph = {
      ...columnRegion(),
      outputs: [{ name: 'y', value: b.one('constant', [], { dtype: 'f32', shape: [], data: [1] }) }],
    };
    expect(() => tiled(['f32[3, S@sp]'], { slice: [1], results: ['sum'] }, settled)).toThrow(
      /numbers of tiles/,
    );
  });
});
