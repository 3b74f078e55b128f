import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { quickBound } from '../../../src/runtime/planner/bound/quick.js';
import { checkPlan } from '../../../src/runtime/planner/check.js';
import { withEveryDegree } from '../../../src/runtime/planner/every-degree.js';
import type { Solution } from '../../../src/runtime/planner/solver.js';
import { adaptiveSolver, staticSolver } from '../../../src/runtime/planner/solvers/homogeneous.js';
import { ithacaSolver } from '../../../src/runtime/planner/solvers/ithaca.js';
import { shortestStepMs } from './brute.js';
import { anyBatch, flexSpModel, longTailed, physicalModel } from './models.js';

const solve = (
  lengths: readonly number[],
  model = flexSpModel(64),
  moves?: number,
  seed?: number,
): Solution => ithacaSolver.solve(lengths, model, { moves, seed }) as Solution;

describe('every solver', () => {
  it('finds legal plans, none shorter than the bound, ithaca none longer than one degree', () => {
    fc.assert(
      fc.property(anyBatch(40), fc.integer({ min: 0, max: 3000 }), ({ model, lengths }, moves) => {
        const bound = quickBound(lengths, model);
        const others = [staticSolver, adaptiveSolver].map(
          (solver) => solver.solve(lengths, model) as Solution,
        );
        const ours = solve(lengths, model, moves);
        for (const { plan, times } of [...others, ours]) {
          expect(checkPlan(plan, lengths, model)).toEqual([]);
          expect(times.stepMs).toBeGreaterThanOrEqual(bound * (1 - 1e-9));
        }
        for (const { times } of others)
          expect(ours.times.stepMs).toBeLessThanOrEqual(times.stepMs * (1 + 1e-9));
      }),
      { numRuns: 80 },
    );
  });

  it('lies between the bound and the best there is, whatever degrees there are', () => {
    const tiny = fc.record({
      lengths: fc.array(fc.integer({ min: 0, max: 4000 }), { minLength: 1, maxLength: 5 }),
      ranksPerNode: fc.integer({ min: 1, max: 4 }),
      overlap: fc.constantFrom(0, 0.5, 1),
      every: fc.boolean(),
    });
    fc.assert(
      fc.property(tiny, ({ lengths, ranksPerNode, overlap, every }) => {
        const physical = physicalModel({ nodes: 1, ranksPerNode, heads: 4, overlap, tokensPerRank: 2000 });
        const model = every ? withEveryDegree(flexSpModel(4, { tokensPerRank: 2000 })) : physical;
        const widest = Math.max(...model.degrees.map((cost) => cost.capacity));
        const batch = lengths.map((length) => Math.min(length, widest));
        const best = shortestStepMs(batch, model);
        expect(quickBound(batch, model)).toBeLessThanOrEqual(best * (1 + 1e-9));
        for (const solver of [staticSolver, adaptiveSolver, ithacaSolver]) {
          const { plan, times } = solver.solve(batch, model, { moves: 1000 }) as Solution;
          expect(checkPlan(plan, batch, model)).toEqual([]);
          expect(times.stepMs).toBeGreaterThanOrEqual(best * (1 - 1e-9));
        }
      }),
      { numRuns: 80 },
    );
  });

  it('answers in time it does not have, no longer than the best plan of one degree', () => {
    fc.assert(
      fc.property(anyBatch(60), ({ model, lengths }) => {
        const rushed = ithacaSolver.solve(lengths, model, { limitMs: 0 }) as Solution;
        expect(checkPlan(rushed.plan, lengths, model)).toEqual([]);
        for (const solver of [staticSolver, adaptiveSolver]) {
          const { times } = solver.solve(lengths, model) as Solution;
          expect(rushed.times.stepMs).toBeLessThanOrEqual(times.stepMs * (1 + 1e-9));
        }
      }),
      { numRuns: 60 },
    );
  });

  it('repeats itself for the same seed', () => {
    const lengths = longTailed(200, 60_000);
    expect(solve(lengths, undefined, 4000, 7).plan).toEqual(solve(lengths, undefined, 4000, 7).plan);
  });
});

describe('static', () => {
  const model = flexSpModel(64);
  const degreesOf = ({ plan }: Solution): Set<number> =>
    new Set(
      plan.microBatches.flatMap(({ groups }) =>
        groups.filter((group) => group.sequences.length > 0).map((group) => group.degree),
      ),
    );

  it('takes the fastest degree for the batch that holds the longest sequence of the run', () => {
    const lengths = longTailed(300, 30_000);
    const free = staticSolver.solve(lengths, model) as Solution;
    const ready = staticSolver.solve(lengths, model, { longest: 150_000 }) as Solution;
    expect(Math.min(...degreesOf(free))).toBeLessThan(32);
    expect([...degreesOf(ready)].every((degree) => degree >= 32)).toBe(true);
    expect(free.times.stepMs).toBeLessThan(ready.times.stepMs);
    for (const { degree } of model.degrees.filter(({ capacity }) => capacity >= 150_000)) {
      const { times } = staticSolver.solve(lengths, model, { degree }) as Solution;
      expect(ready.times.stepMs).toBeLessThanOrEqual(times.stepMs);
    }
    expect(degreesOf(staticSolver.solve(lengths, model, { longest: 10 ** 9 }) as Solution)).toEqual(
      new Set([64]),
    );
  });
});

describe('ithaca', () => {
  it('finds what trying everything finds on tiny batches', () => {
    const tiny = fc.record({
      lengths: fc.array(fc.integer({ min: 1, max: 9000 }), { minLength: 1, maxLength: 5 }),
      ranks: fc.constantFrom(1, 2, 4),
    });
    let [hits, runs] = [0, 0];
    fc.assert(
      fc.property(tiny, ({ lengths, ranks }) => {
        const fitting = lengths.map((length) => Math.min(length, 3000 * ranks));
        const model = flexSpModel(ranks, { tokensPerRank: 3000, fixedMs: 100 });
        const best = shortestStepMs(fitting, model);
        const found = solve(fitting, model, 4000).times.stepMs;
        expect(found).toBeGreaterThanOrEqual(best * (1 - 1e-9));
        expect(found).toBeLessThanOrEqual(best * 1.05);
        runs++;
        if (found <= best * (1 + 1e-9)) hits++;
      }),
      { numRuns: 60, seed: 4 },
    );
    expect(hits / runs).toBeGreaterThan(0.9);
  });

  it('beats one degree on long-tailed batches', () => {
    const lengths = longTailed(512, 190_000);
    const ours = solve(lengths);
    const one = adaptiveSolver.solve(lengths, flexSpModel(64)) as Solution;
    expect(ours.times.stepMs).toBeLessThan(0.9 * one.times.stepMs);
    expect(ours.cutShort).toBe(false);
  });

  it('uses degrees that are not powers of two, inside nodes', () => {
    const model = physicalModel({ nodes: 2, ranksPerNode: 6, heads: 12, overlap: 0.5, tokensPerRank: 4000 });
    const lengths = [...longTailed(60, 20_000), 11_500, 11_800];
    const { plan } = solve(lengths, model);
    expect(checkPlan(plan, lengths, model)).toEqual([]);
    const degrees = plan.microBatches.flatMap((m) =>
      m.groups.filter((g) => g.sequences.length > 0).map((g) => g.degree),
    );
    expect(degrees.some((degree) => !Number.isInteger(Math.log2(degree)))).toBe(true);
  });

  it('says when the clock cut it short, and still has a plan', () => {
    const lengths = longTailed(512, 100_000);
    const { plan, cutShort } = ithacaSolver.solve(lengths, flexSpModel(64), { limitMs: 0 }) as Solution;
    expect(cutShort).toBe(true);
    expect(checkPlan(plan, lengths, flexSpModel(64))).toEqual([]);
  });
});

describe('degenerate batches', () => {
  const model = flexSpModel(64);
  const legal = (lengths: readonly number[]): Solution => {
    const solution = solve(lengths, model);
    expect(checkPlan(solution.plan, lengths, model)).toEqual([]);
    return solution;
  };

  it('plans nothing for nothing', () => {
    expect(legal([]).plan.microBatches).toEqual([]);
  });

  it('places one sequence, sequences of no tokens, equal ones', () => {
    expect(legal([5]).plan.microBatches).toHaveLength(1);
    expect(legal([0, 0]).plan.microBatches).toHaveLength(1);
    expect(legal([0, 7, 0]).plan.microBatches).toHaveLength(1);
    expect(legal(Array.from({ length: 300 }, () => 1024)).times.idle).toBeLessThan(0.2);
  });

  it('gives the largest group to a sequence that fits nowhere else', () => {
    const { plan } = legal([64 * 6000, 100]);
    expect(plan.microBatches.some((m) => m.groups.some((g) => g.degree === 64))).toBe(true);
  });

  it('packs memory that is full to the last token', () => {
    const lengths = Array.from({ length: 64 }, (_, i) => [5999 - 7 * i, 1 + 7 * i]).flat();
    expect(legal(lengths).plan.microBatches.length).toBeLessThanOrEqual(2);
  });

  it('plans 100,000 tiny sequences, with every solver, in seconds', () => {
    const lengths = Array.from({ length: 100_000 }, (_, i) => 1 + (i % 7));
    const start = performance.now();
    expect(legal(lengths).times.idle).toBeLessThan(0.1);
    for (const solver of [staticSolver, adaptiveSolver]) {
      const { plan } = solver.solve(lengths, model) as Solution;
      expect(checkPlan(plan, lengths, model)).toEqual([]);
    }
    expect(quickBound(lengths, model)).toBeGreaterThan(0);
    expect(performance.now() - start).toBeLessThan(20_000);
  });

  it('plans many sequences that each fill a group', () => {
    const lengths = Array.from({ length: 3000 }, () => 6000);
    const { plan } = solve(lengths, flexSpModel(4), 2000);
    expect(checkPlan(plan, lengths, flexSpModel(4))).toEqual([]);
    expect(plan.microBatches).toHaveLength(750);
  });

  it('refuses a sequence that fits no group, with the numbers and what would help', () => {
    expect(() => solve([10, 64 * 6000 + 1])).toThrow(UserError);
    expect(() => solve([10, 64 * 6000 + 1])).toThrow(
      'sequence 1 has 384001 tokens, the largest group (degree 64) holds 384000',
    );
    try {
      solve([500_000]);
    } catch (error) {
      expect((error as UserError).hint).toContain('a degree of 84');
    }
  });

  it('refuses lengths that are none, and a machine without degrees', () => {
    expect(() => solve([1.5])).toThrow('sequence 0: 1.5 is not a length');
    expect(() => solve([-1])).toThrow(UserError);
    expect(() => solve([1], { ...model, degrees: [] })).toThrow('no degree is allowed');
  });
});
