import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { searchBound } from '../../../src/runtime/planner/bound/bound.js';
import { quickBound } from '../../../src/runtime/planner/bound/quick.js';
import { solveProgram } from '../../../src/runtime/planner/highs/solve.js';
import type { Solution } from '../../../src/runtime/planner/solver.js';
import { ithacaSolver } from '../../../src/runtime/planner/solvers/ithaca.js';
import { shortestStepMs } from './brute.js';
import { flexSpModel, physicalModel } from './models.js';

const solver = { solve: solveProgram };

const tiny = fc.record({
  lengths: fc.array(fc.integer({ min: 0, max: 6000 }), { minLength: 1, maxLength: 5 }),
  model: fc.oneof(
    fc.constantFrom(1, 2, 4).map((ranks) => flexSpModel(ranks, { tokensPerRank: 2000, fixedMs: 50 })),
    fc
      .record({ ranksPerNode: fc.integer({ min: 1, max: 4 }), overlap: fc.constantFrom(0, 0.6, 1) })
      .map(({ ranksPerNode, overlap }) =>
        physicalModel({ nodes: 1, ranksPerNode, heads: 5, overlap, tokensPerRank: 2500 }),
      ),
  ),
});

const fitting = (lengths: readonly number[], widest: number): number[] =>
  lengths.map((s) => Math.min(s, widest));

describe('bounds', () => {
  it('quick: never above the shortest step there is', () => {
    fc.assert(
      fc.property(tiny, ({ lengths, model }) => {
        const batch = fitting(lengths, Math.max(...model.degrees.map((cost) => cost.capacity)));
        expect(quickBound(batch, model)).toBeLessThanOrEqual(shortestStepMs(batch, model) * (1 + 1e-9));
      }),
      { numRuns: 300 },
    );
  });

  it('searched: between the quick one and the shortest step there is', async () => {
    await fc.assert(
      fc.asyncProperty(tiny, async ({ lengths, model }) => {
        const batch = fitting(lengths, Math.max(...model.degrees.map((cost) => cost.capacity)));
        const best = shortestStepMs(batch, model);
        const { times } = ithacaSolver.solve(batch, model, { moves: 500 }) as Solution;
        const bound = await searchBound(batch, model, solver, { limitMs: 1500, knownMs: times.stepMs });
        expect(bound.ms).toBeLessThanOrEqual(best * (1 + 1e-9));
        expect(bound.ms).toBeGreaterThanOrEqual(quickBound(batch, model) * (1 - 1e-9));
      }),
      { numRuns: 12 },
    );
  });

  it('searched: closes most of the gap that one long sequence opens', async () => {
    const model = flexSpModel(8, { tokensPerRank: 8000 });
    const lengths = [40_000, ...Array.from({ length: 60 }, (_, i) => 200 + 310 * (i % 6))];
    const { times } = ithacaSolver.solve(lengths, model) as Solution;
    const known = { limitMs: 30_000, knownMs: times.stepMs, gap: 0.05 };
    const bound = await searchBound(lengths, model, solver, known);
    expect(bound.ms).toBeGreaterThanOrEqual(quickBound(lengths, model));
    expect(times.stepMs / bound.ms).toBeLessThan(1.05);
  });

  it('quick: costs of nothing', () => {
    const model = physicalModel({ nodes: 1, ranksPerNode: 2, heads: 2, overlap: 0, tokensPerRank: 100 });
    expect(quickBound([], model)).toBe(model.stepMs);
    expect(quickBound([0], model)).toBe(model.stepMs + model.microBatchMs);
  });
});
