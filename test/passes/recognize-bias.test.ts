/** What is added to scores as a function of positions, or subtracted. */
import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { parseType } from '../../src/ir/type.js';
import { TOKENS } from '../../src/passes/recognize/attention.js';
import { recognizeGraph } from '../../src/passes/recognize.js';
import { simplifyGraph } from '../../src/passes/simplify.js';
import { distance, evaluateAlone } from '../support/feed.js';

const b = builderAt('/attention');
const SLOPES = [0.5, 0.25, 2];

/** Three heads of width 4 with a bias between scores and softmax, behind a causal mask. */
function attention(biased: (scores: Value, between: Value, slopes: Value) => Value): Graph {
  const [q, k, v] = ['q', 'k', 'v'].map((name) => makeInput(name, 'data', parseType('f32[3, S, 4]')));
  const positions = makeInput('positions', 'data', parseType('i32[S]'));
  const form = { form: 'mask', kind: 'causal', additive: true };
  const mask = makeInput('mask:causal', 'data', parseType('f32[S, S]'), form);
  const counted = b.one('cast', [positions], { to: 'f32' });
  const [row, column] = [
    [TOKENS, 1],
    [1, TOKENS],
  ].map((shape) => b.one('reshape', [counted], { shape }));
  const slopes = b.one('constant', [], { dtype: 'f32', shape: [3, 1, 1], data: SLOPES });
  const product = b.one('matmul', [q!, b.one('transpose', [k!], { perm: [0, 2, 1] })]);
  const scores = biased(product, b.one('sub', [row!, column!]), slopes);
  const weights = b.one('softmax', [b.one('add', [scores, mask])], { dim: 2 });
  const inputs = [q!, k!, v!, positions, mask];
  return simplifyGraph({
    name: 'bias',
    axes: [],
    inputs,
    outputs: [{ name: 'out', value: b.one('matmul', [weights, v!]) }],
  });
}

const times = (x: Value, y: Value): Value => b.one('mul', [x, y]);

describe('a bias by the distance of query and key', () => {
  it.each<[string, (scores: Value, between: Value, slopes: Value) => Value]>([
    ['added', (scores, between, slopes) => b.one('add', [scores, times(b.one('neg', [between]), slopes)])],
    ['subtracted', (scores, between, slopes) => b.one('sub', [scores, times(slopes, between)])],
  ])('%s', (_, biased) => {
    const before = attention(biased);
    const { graph } = recognizeGraph(before);
    const found = topologicalOrder(graph).find(({ op }) => op === 'attention');
    expect(found?.attrs['slopes']).toEqual(SLOPES);
    const [a, z] = [evaluateAlone(before, 6), evaluateAlone(graph, 6)];
    expect(distance(a.get('out')!, z.get('out')!)).toBeLessThan(1e-12);
  });

  it('is not what scores are subtracted from', () => {
    const before = attention((scores, between, slopes) => b.one('sub', [times(slopes, between), scores]));
    expect(() => recognizeGraph(before)).toThrow(/nearly attention/);
  });
});
