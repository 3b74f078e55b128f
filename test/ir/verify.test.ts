import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, makeNode, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { parseType, tensorType, dim, splitOn } from '../../src/ir/type.js';
import { findings, verify } from '../../src/ir/verify.js';
import { lossRegion } from '../support/samples.js';

const b = builderAt('/layer');
const x = makeInput('x', 'data', parseType('f32[S@sp, 4]'));
const y = b.one('exp', [x]);
const graph: Graph = { name: 'g', axes: ['sp'], inputs: [x], outputs: [{ name: 'y', value: y }] };

const rules = (g: Graph): string[] => findings(g).map((f) => `${f.rule}: ${f.message}`);
const raw = (op: string, operands: readonly Value[], type: string, region?: Graph): Value =>
  makeNode({ op, operands, attrs: {}, types: [parseType(type)], loc: '/layer', region }).results[0]!;
const returning = (value: Value): Graph => ({ ...graph, outputs: [{ name: 'y', value }] });

describe('the verifier', () => {
  it('finds nothing in a sound graph', () => {
    expect(findings(graph)).toEqual([]);
    expect(findings({ ...graph, order: topologicalOrder(graph) })).toEqual([]);
  });

  it('rule 1: every op exists, inputs and outputs have one name each', () => {
    expect(rules(returning(raw('nonsense', [x], 'f32[3]')))).toEqual(["1: there is no op 'nonsense'"]);
    expect(rules(returning(raw('__proto__', [x], 'f32[3]')))).toEqual(["1: there is no op '__proto__'"]);
    const twin = makeInput('x', 'data', parseType('f32[3]'));
    expect(rules({ ...graph, inputs: [x, twin] })).toEqual(["1: input 'x' is named twice"]);
    expect(rules({ ...graph, outputs: [...graph.outputs, ...graph.outputs] })).toEqual([
      "1: output 'y' is named twice",
    ]);
  });

  it('rule 2: operands come first, each node once, inputs are listed', () => {
    const z = b.one('neg', [y]);
    const order = (nodes: readonly Value[]): Graph => ({ ...returning(z), order: nodes.map((v) => v.node) });
    expect(rules(order([x, y, z]))).toEqual([]);
    expect(rules(order([x, z, y]))).toEqual(['2: neg uses a result of exp before it is defined']);
    expect(rules(order([x, y, y, z]))).toEqual(['2: exp stands twice in the schedule']);
    expect(rules(order([x, y]))).toEqual(["2: output 'y' is not scheduled"]);
    expect(rules({ ...graph, inputs: [] })).toContain("2: input 'x' is not among the inputs of the graph");
  });

  it('rule 3: types are those the operands give', () => {
    expect(rules(returning(raw('exp', [x], 'f32[S, 4]')))).toEqual([
      '3: exp has type f32[S, 4], its operands give f32[S@sp, 4]',
    ]);
    expect(rules(returning(raw('add', [x], 'f32[S@sp, 4]')))[0]).toMatch(/^3: add: add takes \(a, b\)/);
    expect(rules(returning(raw('softmax', [x], 'f32[S@sp, 4]')))[0]).toMatch(/^3: softmax: .*dim is missing/);
    const two = makeNode({ op: 'exp', operands: [x], attrs: {}, types: [x.type, x.type] }).results[1]!;
    expect(rules(returning(two))).toEqual(['3: exp has type f32[S@sp, 4], its operands give nothing']);
    const diagonal = tensorType('f32', [dim(4, splitOn('sp')), dim(4, splitOn('sp'))]);
    expect(rules({ ...graph, inputs: [x, makeInput('d', 'data', diagonal)] })[0]).toMatch(
      /^3: input 'd': two dims/,
    );
  });

  it('rule 4: bodies obey the rules and hold no collectives', () => {
    const t = makeInput('t', 'data', parseType('f32[T@sp, 4]'));
    const tiled = (value: Value): Value =>
      makeNode({
        op: 'tiled',
        operands: [x],
        attrs: { tile: 2, slice: [0], results: [value.type.pending === undefined ? 'concat' : 'sum'] },
        types: [parseType('f32[S@sp, 4]')],
        region: { name: 'r', axes: ['sp'], inputs: [t], outputs: [{ name: 'o', value }] },
      }).results[0]!;
    expect(rules(returning(tiled(b.one('exp', [t]))))).toEqual([]);
    expect(rules(returning(tiled(raw('nonsense', [t], 'f32[T@sp, 4]'))))).toContain(
      "4: in the body of tiled: there is no op 'nonsense'",
    );
    const exchanged = b.one('all_to_all', b('all_to_all', [t], { from: 0, to: 1 }), { from: 1, to: 0 });
    expect(rules(returning(tiled(exchanged)))).toContain(
      '4: the body of tiled holds the collective all_to_all',
    );
    expect(
      rules({ ...lossRegion(), inputs: lossRegion().inputs.slice(0, 1) }).every((r) => r.startsWith('2')),
    ).toBe(true);
  });

  it('rule 5: axes are those of the mesh', () => {
    expect(rules({ ...graph, axes: [] })).toContain('5: f32[S@sp, 4] uses axis sp, the mesh has {}');
    const pending = b.one('reduce_sum', [x], { dims: [0, 1], keep: false });
    expect(rules({ ...returning(b.one('all_reduce', [pending], { axis: 'world' })) })).toEqual([]);
    const sharded = makeInput('w', 'state', parseType('f32[4@world]'));
    expect(rules({ ...graph, inputs: [x, sharded] })).toEqual([
      '5: f32[4@world] uses axis world, the mesh has {sp}',
    ]);
  });

  it('throws with the rules, the messages and the ONNX nodes', () => {
    expect(() => verify(graph)).not.toThrow();
    expect(() => verify(returning(raw('exp', [x], 'f32[S, 4]')))).toThrow(
      /the graph g is not well formed:\n {2}rule 3: exp has type .* \(ONNX node \/layer\)/,
    );
  });
});
