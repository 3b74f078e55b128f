/** Attention sinks, in the two ways that models spell them. */
import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { parseType } from '../../src/ir/type.js';
import { verify } from '../../src/ir/verify.js';
import { recognizeGraph } from '../../src/passes/recognize.js';
import { simplifyGraph } from '../../src/passes/simplify.js';
import { distance, evaluateAlone } from '../support/feed.js';

const b = builderAt('/attention');
const data = (name: string, type: string): Value => makeInput(name, 'data', parseType(type));
const number = (value: number): Value => b.one('constant', [], { dtype: 'f32', shape: [], data: [value] });
const turned = (x: Value): Value => b.one('transpose', [x], { perm: [0, 2, 1] });

/** Three heads of [S, 4]: the scores, and what the values are multiplied by. */
function heads(
  layers: number,
  attend: (scores: Value, v: Value, sink: Value) => Value,
  sinkType = 'f32[3, 1, 1]',
): Graph {
  const sink = makeInput('sink', 'parameter', parseType(sinkType), { trainable: true });
  const inputs = [...['q', 'k', 'v'].map((name) => data(name, 'f32[3, S, 4]')), sink];
  let [q, , v] = inputs as [Value, Value, Value];
  for (let i = 0; i < layers; i++) {
    v = attend(b.one('matmul', [q, turned(inputs[1]!)]), v, sink);
    q = b.one('add', [q, v]);
  }
  return simplifyGraph({ name: 'sinks', axes: [], inputs, outputs: [{ name: 'out', value: q }] });
}

/** A column beside the keys, shifted by the largest score, cut off after softmax. */
const column = (scores: Value, v: Value, sink: Value): Value => {
  const rows = b.one('broadcast', [sink], { shape: [3, scores.type.dims[1]!.size, 1], axes: [] });
  const joined = b.one('concat', [scores, rows], { dim: 2 });
  const most = b.one('reduce_max', [joined], { dims: [2], keep: true });
  const weights = b.one('softmax', [b.one('sub', [joined, most])], { dim: 2 });
  return b.one('matmul', [b.one('drop_last', [weights], { dim: 2, count: 1 }), v]);
};

/** The output, scaled by the share that the keys have. */
const scaled = (scores: Value, v: Value, sink: Value): Value => {
  const sum = b.one('log_sum_exp', [scores], { dims: [2], keep: true });
  const share = b.one('sigmoid', [b.one('sub', [sum, sink])]);
  return b.one('mul', [b.one('matmul', [b.one('softmax', [scores], { dim: 2 }), v]), share]);
};

describe('attention sinks', () => {
  it.each(Object.entries({ column, scaled }))('spelled as a %s', (_, attend) => {
    for (const layers of [1, 2]) {
      const before = heads(layers, attend);
      const { graph, counts } = recognizeGraph(before);
      verify(graph);
      expect(counts.get('attention')).toBe(layers);
      const ops = topologicalOrder(graph).map(({ op }) => op);
      for (const op of ['softmax', 'log_sum_exp', 'concat', 'drop_last']) expect(ops).not.toContain(op);
      const [a, z] = [evaluateAlone(before, 7), evaluateAlone(graph, 7)];
      expect(distance(a.get('out')!, z.get('out')!)).toBeLessThan(1e-12);
    }
  });

  it('differ between queries as well', () => {
    const before = heads(1, scaled, 'f32[3, S, 1]');
    const { graph } = recognizeGraph(before);
    const [a, z] = [evaluateAlone(before, 5), evaluateAlone(graph, 5)];
    expect(distance(a.get('out')!, z.get('out')!)).toBeLessThan(1e-12);
  });

  it.each<[string, (scores: Value, v: Value, sink: Value) => Value]>([
    [
      'that keep their column',
      (scores, v, sink) => {
        const rows = b.one('broadcast', [sink], { shape: [3, scores.type.dims[1]!.size, 1], axes: [] });
        const weights = b.one('softmax', [b.one('concat', [scores, rows], { dim: 2 })], { dim: 2 });
        return b.one('mul', [v, b.one('reduce_sum', [weights], { dims: [2], keep: true })]);
      },
    ],
    [
      'of two columns of which one is cut off',
      (scores, v, sink) => {
        const rows = b.one('broadcast', [sink], { shape: [3, scores.type.dims[1]!.size, 2], axes: [] });
        const weights = b.one('softmax', [b.one('concat', [scores, rows], { dim: 2 })], { dim: 2 });
        return b.one('matmul', [b.one('drop_last', [weights], { dim: 2, count: 2 }), v]);
      },
    ],
    [
      'whose log-sum-exp the values need',
      (scores, v, sink) => {
        const sum = b.one('log_sum_exp', [scores], { dims: [2], keep: true });
        const values = b.one('mul', [v, b.one('sigmoid', [b.one('sub', [sum, sink])])]);
        return b.one('matmul', [b.one('softmax', [scores], { dim: 2 }), values]);
      },
    ],
    [
      'without attention',
      (scores, v) => b.one('add', [v, b.one('log_sum_exp', [scores], { dims: [2], keep: true })]),
    ],
  ])('%s are refused by name', (_, attend) => {
    expect(() => recognizeGraph(heads(1, attend))).toThrow(
      /at \/attention (runs over the keys of attention and is not part of one|runs over tokens and is nearly attention)/,
    );
  });

  it('do not hide a number that scales scores', () => {
    const { graph } = recognizeGraph(
      heads(1, (scores, v, sink) => scaled(b.one('mul', [scores, number(0.5)]), v, sink)),
    );
    expect(topologicalOrder(graph).find(({ op }) => op === 'attention')?.attrs['scale']).toBe(0.5);
  });
});
