import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { quickBound } from '../../../src/runtime/planner/bound/quick.js';
import { checkPlan } from '../../../src/runtime/planner/check.js';
import { groupMs, levelOf, type CostModel } from '../../../src/runtime/planner/cost.js';
import { levelModels, mergeLevels } from '../../../src/runtime/planner/levels.js';
import { planTimes, type StepPlan } from '../../../src/runtime/planner/plan.js';
import { adaptiveSolver, staticSolver } from '../../../src/runtime/planner/solvers/homogeneous.js';
import { ithacaSolver } from '../../../src/runtime/planner/solvers/ithaca.js';
import { flexSpModel } from './models.js';

/** FlexSP's 7B model, and the same with all layers run again: a third slower, four times the tokens. */
function leveled(ranks: number, { tokensPerRank = 6000, fixedMs = 629 } = {}): CostModel {
  const kept = flexSpModel(ranks, { tokensPerRank, fixedMs });
  const again = flexSpModel(ranks, { tokensPerRank: 4 * tokensPerRank, fixedMs });
  return mergeLevels([
    { program: 'train', model: kept },
    {
      program: 'train_layers',
      model: {
        ...again,
        degrees: again.degrees.map((cost) => ({ ...cost, msPerToken: 1.33 * cost.msPerToken })),
        memoryBytes: (degree, tokens) => again.memoryBytes(degree, tokens) / 4,
        memoryLimitBytes: kept.memoryLimitBytes,
      },
    },
  ]);
}

describe('a model of several checkpointing policies', () => {
  const model = leveled(8);
  const cost = model.degrees[1]!;

  it('has the rates of the fastest that holds a group, and the capacity of the last', () => {
    const [first, last] = cost.levels!;
    expect(cost.capacity).toBe(last!.capacity);
    expect(cost.msPerToken).toBe(first!.msPerToken);
    expect(levelOf(cost, first!.capacity)!.program).toBe('train');
    expect(levelOf(cost, first!.capacity + 1)!.program).toBe('train_layers');
    const [under, over] = [first!.capacity, first!.capacity + 1].map((n) => groupMs(cost, n, 0));
    expect(over! - under!).toBeGreaterThan(0.3 * first!.msPerToken * first!.capacity);
  });

  it('stays in memory at any level', () => {
    for (const { degree, capacity, levels } of model.degrees)
      for (const tokens of [1, levels![0]!.capacity, levels![0]!.capacity + 1, capacity])
        expect(model.memoryBytes(degree, tokens)).toBeLessThanOrEqual(model.memoryLimitBytes + 1);
  });

  it('is one model a policy for a solver', () => {
    const [kept, again] = levelModels(model);
    expect(kept!.degrees.map(({ capacity }) => 4 * capacity)).toEqual(
      again!.degrees.map(({ capacity }) => capacity),
    );
    expect(levelModels(flexSpModel(8))).toHaveLength(1);
  });
});

describe('solvers', () => {
  it('take a slower policy only where it is needed', () => {
    // More micro-batches cost nothing here.
    const model = leveled(4, { fixedMs: 0 });
    const short = Array.from({ length: 12 }, (_, i) => 5000 - 100 * i);
    const programs = [short, [90_000, ...short]].map((lengths) => {
      const { plan } = ithacaSolver.solve(lengths, model) as { plan: StepPlan };
      return programsOf(plan, lengths, model);
    });
    expect(programs[0]).toEqual(new Set(['train']));
    expect(programs[1]).toEqual(new Set(['train', 'train_layers']));
  });

  it('plan legally, above the bound, and no worse than with any policy alone', () => {
    const lengths = fc.array(
      fc.oneof(fc.integer({ min: 0, max: 4000 }), fc.integer({ min: 0, max: 90_000 })),
      {
        minLength: 1,
        maxLength: 24,
      },
    );
    fc.assert(
      fc.property(lengths, (batch) => {
        const model = leveled(4);
        for (const solver of [ithacaSolver, adaptiveSolver, staticSolver]) {
          const { plan, times } = solver.solve(batch, model, { moves: 300 }) as {
            plan: StepPlan;
            times: { stepMs: number };
          };
          expect(checkPlan(plan, batch, model)).toEqual([]);
          expect(times.stepMs).toBeGreaterThanOrEqual(quickBound(batch, model) - 1e-6);
          for (const level of levelModels(model)) {
            if (level.degrees.every(({ capacity }) => capacity < Math.max(...batch))) continue;
            const alone = solver.solve(batch, level, { moves: 300 }) as { plan: StepPlan };
            expect(times.stepMs).toBeLessThanOrEqual(planTimes(alone.plan, batch, level).stepMs + 1e-6);
          }
        }
      }),
      { numRuns: 40 },
    );
  });
});

const programsOf = (plan: StepPlan, lengths: readonly number[], model: CostModel): Set<string> =>
  new Set(
    plan.microBatches.flatMap(({ groups }) =>
      groups.flatMap(({ degree, sequences }) => {
        const tokens = sequences.reduce((sum, index) => sum + lengths[index]!, 0);
        const cost = model.degrees.find((one) => one.degree === degree)!;
        return tokens === 0 ? [] : [levelOf(cost, tokens)!.program];
      }),
    ),
  );
