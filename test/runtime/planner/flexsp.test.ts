import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkPlan } from '../../../src/runtime/planner/check.js';
import { solveProgram } from '../../../src/runtime/planner/highs/solve.js';
import { buildProgram } from '../../../src/runtime/planner/highs/program.js';
import { makeItems } from '../../../src/runtime/planner/search/items.js';
import { bucketItems } from '../../../src/runtime/planner/solvers/buckets.js';
import { createFlexSpSolver } from '../../../src/runtime/planner/solvers/flexsp.js';
import { findSolver } from '../../../src/runtime/planner/solvers/index.js';
import type { Solution } from '../../../src/runtime/planner/solver.js';
import { shortestStepMs } from './brute.js';
import { flexSpModel } from './models.js';

const solver = createFlexSpSolver(() => ({ solve: solveProgram, close: async () => {} }));

describe('FlexSP’s formulation', () => {
  it('plans legally, as short as one micro-batch of few lengths can be', async () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 2500 }), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(lengths, async (batch) => {
        // A fixed cost so high that one micro-batch is always best: the programme is then exact.
        const model = flexSpModel(4, { tokensPerRank: 10_000, fixedMs: 50_000 });
        const { plan, times } = await solver.solve(batch, model, { limitMs: 1000 });
        expect(checkPlan(plan, batch, model)).toEqual([]);
        expect(times.stepMs).toBeCloseTo(shortestStepMs(batch, model), 2);
      }),
      { numRuns: 6 },
    );
  });

  it('falls back to one degree where the time is up before it begins', async () => {
    const model = flexSpModel(8, { tokensPerRank: 3000 });
    const lengths = Array.from({ length: 40 }, (_, i) => 100 + 61 * i);
    const { plan, times } = await solver.solve(lengths, model, { limitMs: 1 });
    expect(checkPlan(plan, lengths, model)).toEqual([]);
    const adaptive = findSolver('adaptive').solve(lengths, model) as Solution;
    expect(times.stepMs).toBeLessThan(1.3 * adaptive.times.stepMs);
  });

  it('refuses solvers that there are not', () => {
    expect(() => findSolver('magic')).toThrow('there is no solver "magic"');
  });
});

describe('buckets', () => {
  it('keep every item, cover its length, and are exact for few lengths', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 9 }),
        (lengths, count) => {
          const items = makeItems(lengths, flexSpModel(1), Infinity, 0);
          const list = Array.from({ length: items.count }, (_, i) => i);
          const buckets = bucketItems(items, list, count);
          expect(buckets.flatMap((bucket) => bucket.items)).toEqual(list);
          for (const bucket of buckets)
            for (const item of bucket.items) expect(items.tokens[item]).toBeLessThanOrEqual(bucket.tokens);
          const distinct = new Set(lengths).size;
          expect(buckets).toHaveLength(Math.min(distinct, count));
        },
      ),
    );
  });
});

describe('programmes', () => {
  it('are minimised, proven, and found infeasible', async () => {
    const knapsack = (most: number): ReturnType<typeof solveProgram> => {
      const builder = buildProgram();
      const [a, b] = [
        builder.column({ cost: -5, upper: 1, integer: true }),
        builder.column({ cost: -4, upper: 1, integer: true }),
      ];
      builder.row(1, most, [
        [a, 3],
        [b, 2],
      ]);
      return solveProgram(builder.build(), { limitMs: 5000 });
    };
    expect(await knapsack(4)).toMatchObject({ status: 'optimal', objective: -5, bound: -5, values: [1, 0] });
    expect(await knapsack(5)).toMatchObject({ status: 'optimal', objective: -9 });
    expect(await knapsack(0.5)).toMatchObject({ status: 'infeasible', objective: undefined, values: [] });
  });
});
