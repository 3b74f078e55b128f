import { describe, expect, it } from 'vitest';
import { groupMs, type CostModel } from '../../../src/runtime/planner/cost.js';
import { planTimes } from '../../../src/runtime/planner/plan.js';
import { loadsOf, predictStepMs, type Load } from '../../../src/runtime/planner/predict.js';
import { ithacaSolver } from '../../../src/runtime/planner/solvers/ithaca.js';
import type { Solution } from '../../../src/runtime/planner/solver.js';
import { physicalModel } from './models.js';

/** Work of 1 ms a token at any degree; nothing else costs anything. */
const model: CostModel = {
  ...physicalModel({ nodes: 1, ranksPerNode: 4, heads: 4, overlap: 0, tokensPerRank: 1000 }),
  degrees: [1, 2, 3, 4].map((degree) => ({
    degree,
    capacity: 1000,
    msPerToken: 1,
    msPerPair: 0,
    exchangeMs: 0,
    exchangeMsPerToken: 0,
    overlap: 0,
  })),
  microBatchMs: 0,
  stepMs: 0,
  lockstep: false,
};

const group = (ranks: readonly number[], tokens: number): Load => ({ ranks, tokens, pairs: 0 });
const singles = (...tokens: number[]): Load[] => tokens.map((n, rank) => group([rank], n));

describe('the time of a step', () => {
  it('is that of the slowest group, of micro-batches one after the other', () => {
    expect(predictStepMs([singles(5, 1, 2, 3)], model)).toBe(5);
    expect(
      predictStepMs([[group([0, 1], 7), group([2, 3], 4)]], { ...model, microBatchMs: 2, stepMs: 10 }),
    ).toBe(19);
    expect(predictStepMs([], { ...model, stepMs: 10 })).toBe(10);
  });

  it('lets ranks go on without waiting for those of other groups, unless the world meets in every micro-batch', () => {
    const plan = [singles(5, 1, 1, 1), singles(1, 5, 1, 1)];
    expect(predictStepMs(plan, model)).toBe(6);
    expect(predictStepMs(plan, { ...model, lockstep: true })).toBe(10);
    // Ranks 0 and 1 meet in the second micro-batch.
    expect(predictStepMs([singles(5, 1, 1, 1), [group([0, 1], 4), group([2, 3], 1)]], model)).toBe(9);
    expect(predictStepMs([singles(5, 1, 6, 1), [group([0, 1], 4), group([2, 3], 4)]], model)).toBe(10);
  });

  it('is shorter where ranks that share cores leave them to others', () => {
    const shared = { ...model, sharing: 2 };
    expect(predictStepMs([singles(8, 8, 8, 8)], shared)).toBe(8);
    // One at work: twice as fast. Two: the same. Three: 4/3.
    expect(predictStepMs([singles(8, 0, 0, 0)], shared)).toBe(4);
    expect(predictStepMs([singles(8, 8, 0, 0)], shared)).toBe(4);
    expect(predictStepMs([singles(8, 8, 8, 0)], shared)).toBeCloseTo(6, 12);
    // All work for 2, then one alone for 6.
    expect(predictStepMs([singles(8, 2, 2, 2)], shared)).toBe(2 + 3);
  });

  it('is never more than what solvers minimise', () => {
    const real = physicalModel({ nodes: 2, ranksPerNode: 4, heads: 6, overlap: 0.5, tokensPerRank: 1000 });
    const lengths = Array.from({ length: 60 }, (_, i) => 20 + ((i * i * 37) % 900));
    const { plan } = ithacaSolver.solve(lengths, real, { moves: 2000 }) as Solution;
    const loads = loadsOf(plan, lengths, real);
    const { stepMs } = planTimes(plan, lengths, real);
    expect(predictStepMs(loads, { ...real, lockstep: false })).toBeLessThanOrEqual(stepMs + 1e-9);
    expect(predictStepMs(loads, { ...real, lockstep: true })).toBeCloseTo(stepMs, 9);
    expect(loads.flat().reduce((sum, { tokens }) => sum + tokens, 0)).toBe(
      lengths.reduce((a, b) => a + b, 0),
    );
    expect(groupMs(real.degrees[0]!, 0, 0)).toBe(0);
  });
});
