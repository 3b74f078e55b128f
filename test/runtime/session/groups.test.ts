import { afterAll, expect, it } from 'vitest';
import { groupPool } from '../../../src/runtime/collectives/groups.js';
import type { MicroBatchPlan } from '../../../src/runtime/session/plan.js';
import { TrainingSession } from '../../../src/runtime/session/session.js';
import { randomParameters } from '../../support/tiny.js';
import { documentsOf, packageFolder, tinyGraph, writeGraph } from './packages.js';

const { folder, remove } = packageFolder();
afterAll(remove);

it('one handle for each set of ranks', () => {
  const pool = groupPool();
  const first = pool.get([0, 1]);
  expect([pool.get([0, 1]) === first, pool.get([0, 2]) === first, pool.made]).toEqual([true, false, 2]);
  expect(first.ranks).toEqual([0, 1]);
});

it('groups that change from micro-batch to micro-batch set up nothing after their first use', async () => {
  const graph = tinyGraph();
  const pkg = await writeGraph(folder, graph, randomParameters(graph));
  const documents = documentsOf(
    [5, 9, 3, 2].map((n) => ({
      ids: Array.from({ length: n }, (_, i) => i),
      labels: Array.from({ length: n }, () => 1),
    })),
  );
  /** Consecutive groups, each with the documents of these numbers. */
  const lanes = (
    ...parts: readonly (readonly [degree: number, ...documents: number[]])[]
  ): MicroBatchPlan => {
    let next = 0;
    return {
      lanes: parts.map(([degree, ...own]) => ({
        ranks: Array.from({ length: degree }, () => next++),
        documents: own.map((index) => documents[index]!),
      })),
    };
  };
  const plans: MicroBatchPlan[][] = [
    [lanes([4, 0, 1], [1, 2]), lanes([2, 3], [3])],
    [lanes([1, 0], [1, 1], [3, 2, 3])],
    [lanes([3, 1], [1, 0], [1]), lanes([1], [4, 2, 3])],
  ];
  const session = await TrainingSession.open(pkg, { ranks: 5 });
  try {
    // An arena that grows unbinds what was bound, so what came before it is bound once more.
    for (const plan of [...plans, ...plans]) await session.gradients(plan);
    const { made, arenaBytes } = await session.gradients(plans[0]!);
    for (const index of [2, 0, 1, 1, 2, 0, 2]) {
      const again = await session.gradients(plans[index]!);
      expect([again.made, again.arenaBytes]).toEqual([made, arenaBytes]);
    }
    expect(made.groups).toBeLessThanOrEqual(5 + 5 * 5);
  } finally {
    await session.close();
  }
});
