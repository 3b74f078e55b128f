import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, type Graph, type Value } from '../../src/ir/graph.js';
import { interpret } from '../../src/ir/interpret.js';
import { shardTensor, unshardTensor } from '../../src/ir/mesh.js';
import { TypeMismatch, type Tensor } from '../../src/ir/op.js';
import { opDef } from '../../src/ir/ops/index.js';
import { tensor } from '../../src/ir/ops/define.js';
import { cotangentType, parseType, printType, type Type } from '../../src/ir/type.js';
import { evaluateSharded, meshOfLanes, spreadTensor, wholeShape } from '../support/mesh.js';
import { distance, randomOf, randomTensor } from '../support/random.js';
import { cotangents } from '../support/reverse.js';

const b = builderAt(undefined);
const input = (type: string, name = 'x'): Value => makeInput(name, 'data', parseType(type));
const graphOf = (inputs: readonly Value[], outputs: readonly Value[]): Graph => ({
  name: 'collective',
  axes: ['sp', 'world'],
  inputs,
  outputs: outputs.map((value, i) => ({ name: `y${i}`, value })),
});

const indices = (shape: readonly number[], start = 0): Tensor => {
  const out = tensor(shape);
  out.data.forEach((_, i) => (out.data[i] = start + i));
  return out;
};

describe('an index tensor carried shard → all_to_all → all_to_all → all_gather', () => {
  const heads = 8;
  const kvHeads = 2;
  const inputs = [
    input(`i32[S, ${heads}, 3]`, 'q'),
    input(`i32[S, ${kvHeads}, 3]`, 'k'),
    input('i32[S, 16]', 'o'),
  ];
  const sharded = inputs.map((x) => b.one('shard', [x], { axis: 'sp' }));
  const there = b('all_to_all', sharded, { from: 0, to: 1, heads });
  const back = b('all_to_all', there, { from: 1, to: 0, heads });
  const gathered = b('all_gather', back, { axis: 'sp' });
  const graph = graphOf(inputs, [...there, ...gathered]);

  it('has K/V heads follow the query heads', () => {
    expect(there.map((v) => printType(v.type))).toEqual([
      'i32[S, 8@sp, 3]',
      'i32[S, 2@sp(8), 3]',
      'i32[S, 16@sp]',
    ]);
  });

  it.each([1, 2, 3, 5, 8, 11])('comes back the identity on %i ranks', (degree) => {
    const lanes = [
      { degree, tokens: 7 },
      { degree: 1, tokens: 7 },
    ];
    const values = lanes.map(
      (_, lane) =>
        new Map(
          inputs.map((x, i) => [`${'qko'[i]}`, indices(wholeShape(x.type, 7), 1000 * (lane + 1) + 100 * i)]),
        ),
    );
    evaluateSharded(graph, lanes, values, randomOf(1)).forEach((outputs, lane) =>
      inputs.forEach((_, i) => {
        const expected = values[lane]!.get('qko'[i]!)!;
        expect(distance(outputs.get(`y${i}`)!, expected)).toBe(0);
        expect(distance(outputs.get(`y${i + 3}`)!, expected)).toBe(0);
      }),
    );
  });
});

/** Evaluates one collective's VJP against the cotangents its meaning demands. */
function pullBack(
  op: string,
  attrs: Record<string, string | number>,
  operand: string,
): { graph: Graph; operandType: Type; seedType: Type } {
  const x = input(operand);
  const y = b.one(op, [x], attrs);
  const seed = makeInput('g', 'gradient', cotangentType(y.type));
  const [grad] = cotangents(graphOf([x], [y]), [seed], [x]);
  return { graph: graphOf([x, seed], [grad!]), operandType: grad!.type, seedType: seed.type };
}

describe('the VJP of a collective', () => {
  it.each([3, 5, 8])('all_to_all with overlaps: pending K/V gradients add up (P = %i)', (degree) => {
    const { graph, operandType, seedType } = pullBack(
      'all_to_all',
      { from: 0, to: 1, heads: 8 },
      'f32[S@sp, 2, 3]',
    );
    expect([printType(seedType), printType(operandType)]).toEqual([
      'f32[S, 2@sp(8), 3]{U:sp}',
      'f32[S@sp, 2, 3]',
    ]);
    const random = randomOf(degree);
    const g = randomTensor(random, [7, 2, 3]);
    const values = new Map([
      ['x', randomTensor(random, [7, 2, 3])],
      ['g', g],
    ]);
    const [outputs] = evaluateSharded(graph, [{ degree, tokens: 7 }], [values], random);
    expect(distance(outputs!.get('y0')!, g)).toBeLessThan(1e-12);
  });

  it('of a reverse exchange of pending K/V heads gives every holder the whole', () => {
    const { graph, operandType } = pullBack('all_to_all', { from: 1, to: 0 }, 'f32[S, 2@sp(8), 3]{U:sp}');
    expect(printType(operandType)).toBe('f32[S, 2@sp(8), 3]');
    const g = indices([7, 2, 3]);
    const values = new Map([
      ['x', tensor([7, 2, 3])],
      ['g', g],
    ]);
    const [outputs] = evaluateSharded(graph, [{ degree: 5, tokens: 7 }], [values], randomOf(1));
    expect(distance(outputs!.get('y0')!, g)).toBe(0);
  });

  it('refuses settled copies of K/V heads, which no one cotangent fits', () => {
    expect(() => pullBack('all_to_all', { from: 1, to: 0 }, 'f32[S, 2@sp(8), 3]')).toThrow(TypeMismatch);
  });

  it.each(['sp', 'world'])('all_reduce, reduce_scatter and all_gather are dual over %s', (axis) => {
    const whole = (op: string, operand: string): string[] => {
      const { operandType, seedType } = pullBack(op, { axis }, operand);
      return [printType(seedType), printType(operandType)];
    };
    expect(whole('all_reduce', 'f32[5]{U:sp}')).toEqual(['f32[5]{U:sp}', 'f32[5]']);
    expect(whole('reduce_scatter', 'f32[5]{U:sp}')).toEqual([`f32[5@${axis}]`, 'f32[5]']);
    expect(whole('all_gather', `f32[5@${axis}]`)).toEqual(['f32[5]{U:sp}', `f32[5@${axis}]`]);
  });

  it('leaves out operands without a cotangent', () => {
    const [x, y] = [input('f32[5]{U:sp}', 'x'), input('f32[2]{U:sp}', 'y')];
    const results = b('all_reduce', [x, y], { axis: 'sp' });
    const seed = makeInput('g', 'gradient', cotangentType(results[1]!.type));
    const [dx, dy] = cotangents(graphOf([x, y], results), [undefined, seed], [x, y]);
    expect(dx).toBeUndefined();
    expect(dy!.node.operands).toEqual([seed]);
  });

  it('does not differentiate shard', () => {
    expect(opDef('shard').vjp).toBeUndefined();
  });
});

describe('collectives over the world', () => {
  /** Lanes of unequal degree, one without tokens. */
  const mesh = meshOfLanes([
    { degree: 2, tokens: 4 },
    { degree: 3, tokens: 5 },
    { degree: 1, tokens: 0 },
  ]);
  const random = randomOf(3);
  const run = (graph: Graph, parts: readonly Tensor[]): readonly Tensor[] =>
    interpret(graph, mesh, (_, rank) => parts[rank]!).get('y0')!;
  const one = (op: string, type: string): Graph => {
    const x = input(type);
    return graphOf([x], [b.one(op, [x], { axis: 'world' })]);
  };
  const total = (parts: readonly Tensor[]): Tensor => {
    const sum = tensor(parts[0]!.shape);
    for (const part of parts) part.data.forEach((v, i) => (sum.data[i]! += v));
    return sum;
  };

  it.each(['f32[7, 2]{U:sp}', 'f32[7, 2]{U:world}'])('all_reduce and reduce_scatter of %s', (type) => {
    const parts = mesh.ranks.map(() => randomTensor(random, [7, 2]));
    const sum = total(parts);
    for (const part of run(one('all_reduce', type), parts)) expect(distance(part, sum)).toBeLessThan(1e-12);
    const shards = run(one('reduce_scatter', type), parts);
    expect(shards.map((s) => s.shape[0])).toEqual([2, 1, 1, 1, 1, 1]);
    expect(
      distance(unshardTensor(shards, parseType('f32[7@world, 2]'), [7, 2], mesh.ranks), sum),
    ).toBeLessThan(1e-12);
  });

  it('all_gather undoes shard, with fewer rows than ranks', () => {
    const x = input('f32[4, 2]');
    const shards = b.one('shard', [x], { axis: 'world' });
    const whole = indices([4, 2]);
    const outputs = interpret(
      graphOf([x], [shards, b.one('all_gather', [shards], { axis: 'world' })]),
      mesh,
      () => whole,
    );
    outputs.get('y0')!.forEach((part, r) => {
      expect(distance(part, shardTensor(whole, parseType('f32[4@world, 2]'), mesh.ranks[r]!))).toBe(0);
    });
    for (const part of outputs.get('y1')!) expect(distance(part, whole)).toBe(0);
  });

  it('settles a lane’s sum over sp inside the lane only', () => {
    const x = input('f32[2]{U:sp}');
    const lanes = [2, 3, 1].map((degree) => ({ degree, tokens: 1 }));
    const values = lanes.map((_, lane) => new Map([['x', indices([2], 10 * lane)]]));
    const outputs = evaluateSharded(
      graphOf([x], [b.one('all_reduce', [x], { axis: 'sp' })]),
      lanes,
      values,
      random,
    );
    outputs.forEach((o, lane) => expect(distance(o.get('y0')!, indices([2], 10 * lane))).toBeLessThan(1e-12));
  });

  it('spreads pending sums of K/V heads over their holders only', () => {
    const type = parseType('f32[2@sp(8)]{U:sp}');
    const ranks = meshOfLanes([{ degree: 3, tokens: 0 }]).ranks;
    const parts = spreadTensor(indices([2], 1), type, ranks, random);
    expect(parts.map((p) => p.shape[0])).toEqual([1, 2, 1]);
    expect(distance(unshardTensor(parts, type, [2], ranks), indices([2], 1))).toBeLessThan(1e-12);
  });
});

describe('collectives refuse', () => {
  it.each([
    ['all_to_all', 'f32[S, 4]', { from: 0, to: 1 }],
    ['all_to_all', 'f32[S@sp, 4]', { from: 0, to: 0 }],
    ['all_to_all', 'f32[S@sp, 4]', { from: 0, to: 2 }],
    ['all_to_all', 'f32[S@sp, 3]', { from: 0, to: 1, heads: 8 }],
    ['all_to_all', 'f32[S@sp, S]', { from: 0, to: 1, heads: 0.5 }],
    ['all_to_all', 'f32[12@sp/3, 4]', { from: 0, to: 1 }],
    ['all_to_all', 'f32[S@world, 4]', { from: 0, to: 1 }],
    ['all_to_all', 'f32[S, 4]{U:sp}', { from: 0, to: 1 }],
    ['all_reduce', 'f32[4]', { axis: 'sp' }],
    ['all_reduce', 'f32[4]{U:world}', { axis: 'sp' }],
    ['all_reduce', 'f32[4]{U:sp}', {}],
    ['all_reduce', 'f32[2@sp(4)]{U:sp}', { axis: 'sp' }],
    ['reduce_scatter', 'f32[]{U:sp}', { axis: 'sp' }],
    ['all_gather', 'f32[]', { axis: 'sp' }],
    ['all_gather', 'f32[4@sp]', { axis: 'world' }],
    ['all_gather', 'f32[4@sp/2]', { axis: 'sp' }],
    ['all_gather', 'f32[2@sp(4)]', { axis: 'sp' }],
    ['shard', 'f32[]', { axis: 'sp' }],
    ['shard', 'f32[4]', { axis: 'tp' }],
    ['shard', 'f32[4]{U:sp}', { axis: 'sp' }],
  ])('%s of %s %j', (op, type, attrs) => {
    expect(() => b(op, [input(type)], attrs)).toThrow(TypeMismatch);
  });
});
