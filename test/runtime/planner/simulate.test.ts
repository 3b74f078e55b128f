import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { UserError } from '../../../src/errors.js';
import {
  flexSpCluster,
  FLEXSP_MODELS,
  flexSpModelCost,
  flexSpModelWork,
} from '../../../src/runtime/planner/flexsp-models.js';
import { groupMs } from '../../../src/runtime/planner/cost.js';
import { physicalCost } from '../../../src/runtime/planner/physical-cost.js';
import { drawBatches } from '../../../src/runtime/planner/simulate/draw.js';
import { simulate } from '../../../src/runtime/planner/simulate/run.js';
import { drawLengths } from '../../bench/planner-lengths.js';

const ascending = (list: readonly number[]): number[] => list.toSorted((a, b) => a - b);

describe('batches of a distribution', () => {
  const lengths = fc.array(fc.integer({ min: 0, max: 500 }), { minLength: 1, maxLength: 60 });
  const sizes = fc.record({ size: fc.integer({ min: 1, max: 20 }), count: fc.integer({ min: 1, max: 9 }) });

  test('every sequence comes once before any comes again', () => {
    fc.assert(
      fc.property(lengths, sizes, fc.nat(), (list, { size, count }, seed) => {
        const { batches, kept, dropped, repeats } = drawBatches(list, { size, count, seed });
        const drawn = batches.flat();
        expect([batches.length, drawn.length, kept, dropped]).toEqual([count, size * count, list.length, 0]);
        expect(repeats).toBe(drawn.length > list.length);
        for (let from = 0; from + kept <= drawn.length; from += kept)
          expect(ascending(drawn.slice(from, from + kept))).toEqual(ascending(list));
        expect(drawBatches(list, { size, count, seed }).batches).toEqual(batches);
      }),
    );
  });

  test('without a seed they are runs of the file, padded, longer ones left out', () => {
    const { batches, kept, dropped, longest } = drawBatches([5, 9, 300, 17, 0, 8], {
      context: 24,
      pad: 8,
      size: 2,
      count: 3,
    });
    expect(batches).toEqual([
      [8, 16],
      [24, 0],
      [8, 8],
    ]);
    expect({ kept, dropped, longest }).toEqual({ kept: 5, dropped: 1, longest: 24 });
    expect(() => drawBatches([5], { context: 4, size: 1, count: 1 })).toThrow(UserError);
  });
});

describe("FlexSP's models", () => {
  test('hold the tokens that its planner allows', () => {
    const tokens = (name: string, ranks: number, context: number): number =>
      flexSpModelCost(name, { ranks, context }).degrees[0]!.capacity;
    expect(tokens('7b', 64, 192_000)).toBe(5992);
    expect(tokens('7b', 64, 384_000)).toBe(5950);
    expect(tokens('7b', 1024, 384_000)).toBe(6371);
    expect(tokens('30b', 64, 192_000)).toBe(6028);
    expect(() => flexSpModelCost('30b', { ranks: 8, context: 192_000 })).toThrow(/needs 6\d\.\d GiB/);
    expect(() => flexSpModelCost('70b', { ranks: 8, context: 1 })).toThrow(UserError);
  });

  test.each(FLEXSP_MODELS)(
    '%s by physical terms: the same without exchanges, any degree with them',
    (name) => {
      const setting = { ranks: 64, context: 192_000 };
      const cluster = flexSpCluster();
      const published = flexSpModelCost(name, setting);
      const own = physicalCost(flexSpModelWork(name, setting, cluster), cluster);
      const [first, alone] = [published.degrees[0]!, own.degrees[0]!];
      expect(groupMs(alone, 5000, own.pairs(5000))).toBeCloseTo(
        groupMs(first, 5000, published.pairs(5000)),
        6,
      );
      expect(alone.capacity).toBe(first.capacity);
      expect(own.microBatchMs).toBeCloseTo(published.microBatchMs, 6);
      expect(own.degrees.map(({ degree }) => degree)).toEqual([
        1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 40, 48, 56, 64,
      ]);
    },
  );
});

describe('solvers on the same batches', () => {
  const model = flexSpModelCost('7b', { ranks: 16, context: 64_000 });
  const lengths = drawLengths('github', 400, 60_000, 128, 1);
  const { batches, longest } = drawBatches(lengths, { size: 64, count: 3, seed: 1 });

  test('static has one degree for the run, the others are no slower, no plan is below the bound', async () => {
    const solvers = ['static', 'adaptive', 'ithaca'];
    const { batches: done, solvers: rows, boundMs } = await simulate(batches, model, { solvers, longest });
    expect(done).toBe(3);
    const [one, adaptive, ithaca] = rows;
    expect(model.degrees.find(({ degree }) => degree === one?.degree)?.capacity).toBeGreaterThanOrEqual(
      longest,
    );
    expect(one?.speedUp).toBe(1);
    expect(adaptive?.speedUp).toBeGreaterThanOrEqual(1);
    expect(ithaca?.stepMs).toBeLessThanOrEqual(adaptive!.stepMs);
    for (const { solver, stepMs, idle, exchange, gap, solveMs } of rows) {
      expect(solver, 'in the order asked for').toBe(solvers.shift());
      expect(stepMs).toBeGreaterThanOrEqual(boundMs);
      expect(gap).toBeCloseTo(stepMs / boundMs - 1, 12);
      expect(Math.min(idle, exchange)).toBeGreaterThanOrEqual(0);
      expect(Math.max(idle, exchange)).toBeLessThan(1);
      expect(solveMs.max).toBeGreaterThanOrEqual(solveMs.median);
    }
  });

  test('flexsp plans with its own degrees, inside its limit', async () => {
    const solvers = ['flexsp', 'ithaca'];
    const few = batches.map((batch) => batch.slice(0, 12));
    const { solvers: rows } = await simulate(few.slice(0, 1), model, { solvers, longest, flexSpMs: 50 });
    expect(rows.map(({ solver, speedUp }) => [solver, speedUp])).toEqual([
      ['flexsp', undefined],
      ['ithaca', undefined],
    ]);
    expect(rows[0]!.stepMs).toBeGreaterThan(0);
  });

  test('a signal ends it, and what is done counts', async () => {
    const stop = new AbortController();
    const solvers = ['adaptive', 'ithaca'];
    const onSolve = (batch: number): void => void (batch === 1 && stop.abort());
    const { batches: done, solvers: rows } = await simulate(batches, model, {
      solvers,
      longest,
      onSolve,
      signal: stop.signal,
    });
    expect(done).toBe(1);
    expect(rows.map(({ solver }) => solver)).toEqual(solvers);
    const early = await simulate(batches, model, {
      solvers: ['adaptive', 'flexsp'],
      longest,
      signal: stop.signal,
    });
    expect(early).toMatchObject({ batches: 0, solvers: [] });
  });

  test('sequences that no group holds are an error before anything is planned', async () => {
    await expect(simulate([[200_000]], model, { solvers: ['ithaca'], longest: 200_000 })).rejects.toThrow(
      /groups of 16 ranks hold at most \d+ tokens, the longest sequence has 200000/,
    );
  });
});
