import { beforeAll, describe, expect, test } from 'vitest';
import type { Lowered } from '../../src/compile/compile.js';
import { topologicalOrder, type Graph } from '../../src/ir/graph.js';
import { forwardNodes } from '../../src/passes/dataflow.js';
import { boundariesOf } from '../../src/passes/checkpoint/boundaries.js';
import { POLICIES, type Policy } from '../../src/passes/checkpoint/policies.js';
import { layoutArena } from '../../src/runtime/memory/arena.js';
import { bindProgram } from '../../src/runtime/memory/bind.js';
import { lowered, weightsOf } from '../support/lowered.js';
import { randomRow, runLanes } from '../support/tiny.js';

describe.each(['test/models/gpt2', 'test/models/llama'])('%s', (folder) => {
  const compiled = new Map<Policy, Lowered>();
  const trainOf = (policy: Policy): Graph => compiled.get(policy)!.graphs.get('train')!;
  const count = (policy: Policy, op: string): number =>
    topologicalOrder(trainOf(policy)).filter((node) => node.op === op).length;

  beforeAll(async () => {
    for (const policy of POLICIES)
      compiled.set(policy, await lowered(folder, { passes: { checkpoint: { policy } } }));
  });

  test('residual sums are boundaries, and a layer starts at each that attention follows', () => {
    const graph = trainOf('none');
    const order = topologicalOrder(graph);
    const boundaries = boundariesOf(order, forwardNodes(graph, order));
    const layers = count('none', 'attention');
    expect(boundaries).toHaveLength(1 + 2 * layers);
    expect(boundaries.map(({ beforeAttention }) => beforeAttention)).toEqual(
      Array.from({ length: 1 + 2 * layers }, (_, i) => i % 2 === 0 && i < 2 * layers),
    );
  });

  test('each policy runs again what it says, and no more', () => {
    const forward = (op: string): number => count('none', op);
    for (const policy of POLICIES) {
      expect(count(policy, 'attention')).toBe(forward('attention') * (policy === 'layers' ? 2 : 1));
      expect(count(policy, 'tiled')).toBe(forward('tiled'));
      expect(count(policy, 'attention_vjp')).toBe(forward('attention_vjp'));
    }
    expect(count('cheap', 'matmul')).toBe(forward('matmul'));
    expect(count('products', 'matmul')).toBeGreaterThan(forward('matmul'));
    expect(count('products', 'all_to_all')).toBe(forward('all_to_all'));
    // Half of all exchanges are the forward's.
    expect(count('exchanges', 'all_to_all')).toBe(1.5 * forward('all_to_all'));
    expect(count('layers', 'all_to_all')).toBe(1.5 * forward('all_to_all'));
  });

  test('no policy needs more memory than the one before, whole layers far less than none', () => {
    const bytes = POLICIES.map((policy) => {
      const rank = { sp: { index: 0, degree: 2 }, world: { index: 0, degree: 2 } };
      const bound = bindProgram(compiled.get(policy)!.programs.get('train')!, {
        ...rank,
        symbols: new Map([['S', 512]]),
      });
      return layoutArena(bound).bytes;
    });
    for (const [i, arena] of bytes.slice(1).entries()) expect(arena).toBeLessThanOrEqual(bytes[i]!);
    expect(bytes.at(-1)).toBeLessThan(0.6 * bytes[0]!);
  });

  test('gradients are the same, bit for bit', () => {
    const graph = trainOf('none');
    const row = randomRow([2, 1], 40);
    const lanes = [{ degree: 2, row }];
    const parameters = weightsOf(folder, graph);
    const expected = runLanes(graph, parameters, lanes);
    for (const policy of ['products', 'layers'] as const)
      expect(runLanes(trainOf(policy), parameters, lanes)).toEqual(expected);
  });
});
