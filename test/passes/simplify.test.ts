import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { globSync } from 'tinyglobby';
import { array, assert, nat, property } from 'fast-check';
import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { TypeMismatch } from '../../src/ir/op.js';
import { parseGraph } from '../../src/ir/text/parse.js';
import { printGraph } from '../../src/ir/text/print.js';
import { parseType, sameType } from '../../src/ir/type.js';
import { constantOf, symbolSize } from '../../src/ir/size.js';
import { verify } from '../../src/ir/verify.js';
import { simplifyGraph } from '../../src/passes/simplify.js';
import { distance, evaluateAlone } from '../support/feed.js';

const GOLDEN = fileURLToPath(new URL('../golden/', import.meta.url));
const b = builderAt(undefined);
const data = (name: string, type: string): Value => makeInput(name, 'data', parseType(type));
const literal = (value: number, shape: readonly number[] = []): Value =>
  b.one('constant', [], {
    dtype: 'f32',
    shape,
    data: Array.from({ length: shape.reduce((p, n) => p * n, 1) }, (_, i) => value + i),
  });
const graphOf = (inputs: readonly Value[], outputs: readonly Value[]): Graph => ({
  name: 'test',
  axes: [],
  inputs,
  outputs: outputs.map((value, i) => ({ name: `out${i}`, value })),
});

/** Random graphs over batched, transposed and reshaped operands; what does not type-check is left out. */
function randomGraph(choices: readonly number[]): Graph {
  const inputs = [
    data('a', 'f32[1, S, 4]'),
    data('b', 'f32[S, 4]'),
    data('c', 'f32[1, 1, S, 2, 2]'),
    data('w', 'f32[4, 4]'),
    data('d', 'f32[4]'),
    data('e', 'f32[1, 2, S, 2]'),
    data('f', 'f32[2, S, 3, 4]'),
    data('g', 'f32[3, 1, S, 4]'),
    data('h', 'f32[1, 3, 4, 4]'),
  ];
  const values = [...inputs, literal(0), literal(1), literal(-1), literal(0.5, [1, 4])];
  let at = 0;
  const pick = (n: number): number => choices[at++ % choices.length]! % n;
  /** Mostly one of the last values: ops should meet each other. */
  const any = (): Value => values.at(pick(4) === 0 ? pick(values.length) : -1 - pick(4))!;
  const numbers = values.slice(inputs.length);
  /** Symbolic sizes pass through the lists of numbers below untouched. */
  const sizes = (v: Value): number[] => v.type.dims.map((d) => (constantOf(d.size) ?? d.size) as number);
  const permutation = (n: number): number[] => {
    const left = Array.from({ length: n }, (_, i) => i);
    return Array.from({ length: n }, () => left.splice(pick(left.length), 1)[0]!);
  };
  const attempts: (() => Value)[] = [
    () => b.one(['neg', 'exp', 'tanh', 'sqrt', 'relu'][pick(5)]!, [any()]),
    () => b.one(['add', 'sub', 'mul', 'div'][pick(4)]!, [any(), any()]),
    () => b.one(['add', 'mul'][pick(2)]!, [any(), numbers[pick(numbers.length)]!]),
    () => b.one('matmul', [any(), any()]),
    () => {
      const x = any();
      return b.one('transpose', [x], { perm: permutation(x.type.dims.length) });
    },
    () => {
      const x = any();
      const moved = b.one('transpose', [x], { perm: permutation(x.type.dims.length) });
      return b.one('mul', [moved, inputs[pick(inputs.length)]!]);
    },
    () => {
      const x = any();
      const moved = b.one('transpose', [x], { perm: permutation(x.type.dims.length) });
      return b.one('add', [moved, b.one('exp', [moved])]);
    },
    () => {
      const x = any();
      const shape = sizes(x);
      const choice = pick(4);
      if (choice === 0) shape.splice(pick(shape.length + 1), 0, 1);
      else if (choice === 1) shape.splice(shape.indexOf(1), shape.includes(1) ? 1 : 0);
      else if (choice === 2)
        shape.splice(shape.indexOf(4), shape.includes(4) ? 1 : 0, ...(shape.includes(4) ? [2, 2] : []));
      else if (shape.at(-1) === 2 && shape.at(-2) === 2) shape.splice(-2, 2, 4);
      return b.one('reshape', [x], { shape });
    },
    () => b.one('matmul', [inputs[pick(inputs.length)]!, inputs[pick(inputs.length)]!]),
    () => {
      const x = any();
      const dim = x.type.dims.length - 1;
      const odd = b.one('slice', [x], { dim, start: pick(2), end: 4, step: 2 });
      return b.one('slice', [odd], { dim, start: pick(2), end: 2, step: 1 });
    },
    () => {
      const x = any();
      const dim = pick(x.type.dims.length);
      return b.one('slice', [x], { dim, start: pick(2), end: 2 + pick(3), step: 1 + pick(2) });
    },
    () => {
      const x = any();
      return b.one('concat', [x, pick(2) === 0 ? x : any()], { dim: pick(x.type.dims.length) });
    },
    () => {
      const x = any();
      const dims = [pick(x.type.dims.length)];
      return b.one(['reduce_sum', 'reduce_max', 'reduce_mean'][pick(3)]!, [x], { dims, keep: pick(2) === 0 });
    },
    () => {
      const x = any();
      return b.one('softmax', [x], { dim: pick(x.type.dims.length) - x.type.dims.length });
    },
    () => {
      const x = any();
      const shape = sizes(x).map((n) => (n === 1 && pick(2) === 0 ? 3 : n));
      return b.one('broadcast', [x], { shape: pick(3) === 0 ? [1, ...shape] : shape, axes: [] });
    },
    () => b.one('where', [b.one('less', [any(), any()]), any(), any()]),
  ];
  for (let i = 0; i < 30; i++) {
    try {
      const value = attempts[pick(attempts.length)]!();
      if (value.type.dims.length <= 6) values.push(value);
    } catch (error) {
      if (!(error instanceof TypeMismatch)) throw error;
    }
  }
  return graphOf(inputs, values.slice(-4));
}

describe('simplify', () => {
  it('keeps what random graphs compute and the types of their outputs, and leaves nothing to do', () => {
    assert(
      property(array(nat(1000), { minLength: 120, maxLength: 240 }), (choices) => {
        const graph = randomGraph(choices);
        const simple = simplifyGraph(graph);
        verify(simple);
        graph.outputs.forEach(({ value }, i) =>
          expect(sameType(value.type, simple.outputs[i]!.value.type)).toBe(true),
        );
        expect(printGraph(simplifyGraph(simple))).toBe(printGraph(simple));
        const [before, after] = [evaluateAlone(graph, 5), evaluateAlone(simple, 5)];
        for (const [name, value] of before) expect(distance(value, after.get(name)!)).toBeLessThan(1e-9);
      }),
      { numRuns: 250, seed: 7 },
    );
  });

  it.each(globSync('{simplify,recognize}/*.ir', { cwd: GOLDEN }).sort())(
    'leaves nothing to do on %s',
    (name) => {
      const [input] = readFileSync(GOLDEN + name, 'utf8').split('\n// ---\n');
      const once = simplifyGraph(parseGraph(input!));
      expect(printGraph(simplifyGraph(once))).toBe(printGraph(once));
    },
  );

  it('folds constants up to its budget of bytes', () => {
    const fold = (n: number): Graph => {
      const x = data('x', `f32[${n}]`);
      return simplifyGraph(graphOf([x], [b.one('add', [x, b.one('exp', [literal(1, [n])])])]));
    };
    const ops = (graph: Graph): string[] => topologicalOrder(graph).map((n) => n.op);
    expect(ops(fold(16384))).not.toContain('exp');
    expect(ops(fold(16385))).toContain('exp');
  });

  it('does not print what it cannot parse: a NaN stays computed', () => {
    const x = data('x', 'f32[S]');
    const zero = literal(0);
    const simple = simplifyGraph(graphOf([x], [b.one('mul', [x, b.one('div', [zero, zero])])]));
    expect(() => parseGraph(printGraph(simple))).not.toThrow();
    expect(evaluateAlone(simple, 2).get('out0')!.data.every(Number.isNaN)).toBe(true);
  });

  it('does not recurse as deep as the graph', () => {
    const input = data('x', 'f32[1, S, 4]');
    let x = input;
    const swapped = { perm: [0, 2, 1, 3] };
    for (let i = 0; i < 2000; i++) {
      const four = b.one('reshape', [x], { shape: [1, symbolSize('S'), 4, 1] });
      const exp = b.one('exp', [b.one('transpose', [four], swapped)]);
      x = b.one('reshape', [b.one('transpose', [exp], swapped)], { shape: [1, symbolSize('S'), 4] });
    }
    const simple = simplifyGraph(graphOf([input], [x]));
    expect(topologicalOrder(simple).length).toBe(2000 + 3);
  });

  it('drops unused masks and keeps other unused inputs', () => {
    const mask = makeInput('mask:m', 'data', parseType('f32[1, 1, S, S]'), { form: 'mask', kind: 'causal' });
    const [x, unused] = [data('x', 'f32[S]'), data('unused', 'i32[S]')];
    expect(simplifyGraph(graphOf([mask, x, unused], [x])).inputs).toEqual([x, unused]);
  });
});
