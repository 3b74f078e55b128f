import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chunkItems } from '../../../src/runtime/planner/search/chunk.js';
import { shapesOf } from '../../../src/runtime/planner/search/draft.js';
import {
  balancedPlan,
  bestOfOneDegree,
  packedPlan,
} from '../../../src/runtime/planner/search/homogeneous.js';
import { allItems, makeItems, type Items } from '../../../src/runtime/planner/search/items.js';
import { createPacker, packEvenly, packWithin } from '../../../src/runtime/planner/search/pack.js';
import { searchRandom } from '../../../src/runtime/planner/search/random.js';
import { anneal, bestDraft, startSearch } from '../../../src/runtime/planner/search/search.js';
import { startPlans } from '../../../src/runtime/planner/search/start.js';
import { objectiveMs, type SearchState } from '../../../src/runtime/planner/search/state.js';
import {
  degreeTables,
  leastIncreaseMs,
  leastMs,
  loadMs,
} from '../../../src/runtime/planner/search/tables.js';
import { placeable } from '../../../src/runtime/planner/place.js';
import { anyBatch, anyModel } from './models.js';

const everything = (lengths: readonly number[], model: Parameters<typeof makeItems>[1]): Items =>
  makeItems(lengths, model, Infinity, 0);

describe('items', () => {
  it('keep every sequence with tokens, longest first, bundled or not', () => {
    fc.assert(
      fc.property(
        anyBatch(60),
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 0, max: 3000 }),
        ({ model, lengths }, most, bundle) => {
          const items = makeItems(lengths, model, most, bundle);
          const kept = Array.from({ length: items.count }, (_, i) =>
            Array.from(items.sequences.subarray(items.first[i], items.first[i + 1])),
          );
          expect(kept.flat().toSorted((a, b) => a - b)).toEqual(
            [...lengths.keys()].filter((index) => lengths[index]! > 0),
          );
          kept.forEach((sequences, i) => {
            const sum = (of: (n: number) => number): number =>
              sequences.reduce((s, q) => s + of(lengths[q]!), 0);
            expect(items.tokens[i]).toBe(sum((n) => n));
            expect(items.pairs[i]).toBeCloseTo(sum(model.pairs), 3);
            if (sequences.length > 1) expect(items.tokens[i]).toBeLessThanOrEqual(bundle);
            if (i > 0) expect(items.tokens[i]).toBeLessThanOrEqual(items.tokens[i - 1]!);
          });
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('runs of even token counts', () => {
  it('cover the list in order, the fullest as small as any cut makes it', () => {
    const list = fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 9 });
    fc.assert(
      fc.property(list, fc.integer({ min: 1, max: 6 }), (unsorted, count) => {
        const tokens = Float64Array.from(unsorted).sort().reverse();
        const all = Int32Array.from(tokens.keys());
        const runs = chunkItems(tokens, all, count);
        expect(runs.flatMap((run) => [...run])).toEqual([...all]);
        expect(runs).toHaveLength(Math.min(count, tokens.length));
        expect(runs.every((run) => run.length > 0)).toBe(true);
        const fullest = Math.max(...runs.map((run) => run.reduce((sum, i) => sum + tokens[i]!, 0)));
        expect(fullest).toBe(leastFullest([...tokens], runs.length));
      }),
      { numRuns: 300 },
    );
  });
});

/** By trying every cut. */
function leastFullest(tokens: readonly number[], runs: number): number {
  const sum = tokens.reduce((a, b) => a + b, 0);
  if (runs === 1) return sum;
  let [least, first] = [Infinity, 0];
  for (let cut = 1; cut <= tokens.length - runs + 1; cut++) {
    first += tokens[cut - 1]!;
    least = Math.min(least, Math.max(first, leastFullest(tokens.slice(cut), runs - 1)));
  }
  return least;
}

describe('prices', () => {
  it('least times are below those of any grouping', () => {
    fc.assert(
      fc.property(
        anyModel,
        fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 2, maxLength: 6 }),
        (model, list) => {
          const tables = degreeTables(model);
          model.degrees.forEach((_, k) => {
            const pairs = list.map((n) => model.pairs(n));
            const [first, ...rest] = list;
            const total = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
            const apart = list.reduce((sum, n, i) => sum + loadMs(tables, k, n, pairs[i]!), 0);
            const least = leastMs(tables, k, total(list), total(pairs));
            expect(least).toBeLessThanOrEqual(apart * (1 + 1e-9));
            const together = loadMs(tables, k, total(list), total(pairs));
            expect(least).toBeLessThanOrEqual(together * (1 + 1e-9));
            const before = loadMs(tables, k, total(rest), total(pairs.slice(1)));
            const more = leastIncreaseMs(tables, k, first!, pairs[0]!);
            expect(together - before).toBeGreaterThanOrEqual(more - 1e-9 * together);
          });
        },
      ),
    );
  });
});

describe('packing', () => {
  it('keeps to ranks, memory and the time limit, and leaves out only what it says', () => {
    fc.assert(
      fc.property(
        anyBatch(40),
        fc.double({ min: 1, max: 3, noNaN: true }),
        fc.boolean(),
        (batch, times, fillFirst) => {
          const tables = degreeTables(batch.model);
          const items = everything(batch.lengths, batch.model);
          if (items.count === 0) return;
          const packer = createPacker(tables, items);
          const limitMs = times * packer.fastestMs[0]!;
          packWithin(packer, allItems(items), { limitMs, ranks: tables.ranks, fillFirst, whole: false });
          const sums = new Map<number, { tokens: number; pairs: number }>();
          let left = 0;
          packer.placedIn.slice(0, items.count).forEach((group, item) => {
            if (group < 0) return left++;
            const sum = sums.get(group) ?? { tokens: 0, pairs: 0 };
            sums.set(group, {
              tokens: sum.tokens + items.tokens[item]!,
              pairs: sum.pairs + items.pairs[item]!,
            });
            return left;
          });
          expect(left).toBe(packer.left);
          let [ranks, groups] = [0, 0];
          tables.size.forEach((size, k) => {
            for (let g = packer.base[k]!; g < packer.base[k]! + packer.opened[k]!; g++, groups++) {
              const { tokens, pairs } = sums.get(g)!;
              ranks += size;
              expect(tokens).toBeLessThanOrEqual(tables.capacity[k]!);
              expect(loadMs(tables, k, tokens, pairs)).toBeLessThanOrEqual(limitMs * (1 + 1e-9));
            }
          });
          expect(groups).toBe(sums.size);
          expect(ranks).toBeLessThanOrEqual(tables.ranks);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('spreads a list evenly over micro-batches, or says what memory keeps out', () => {
    fc.assert(
      fc.property(anyBatch(30), fc.integer({ min: 1, max: 4 }), ({ model, lengths }, count) => {
        const items = everything(lengths, model);
        const packer = createPacker(degreeTables(model), items);
        const packing = packEvenly(packer, allItems(items), count, false, 5);
        const out = packing.placedIn.reduce((many, group) => many + (group < 0 ? 1 : 0), 0);
        expect(packing.left).toBe(out);
        const slowest = packing.loads.reduce((a, b) => Math.max(a, b), 0);
        if (packing.left === 0) expect(packing.ms).toBeLessThanOrEqual(slowest * (1 + 1e-9));
      }),
      { numRuns: 100 },
    );
  });
});

describe('plans of one degree', () => {
  it('hold everything, cost what they say, and are not built where they could not be shorter', () => {
    fc.assert(
      fc.property(anyBatch(40), ({ model, lengths }) => {
        const tables = degreeTables(model);
        const items = everything(lengths, model);
        if (items.count === 0) return;
        const known: number[] = [];
        model.degrees.forEach((_, column) => {
          for (const plan of [balancedPlan, packedPlan]) {
            const draft = plan(tables, items, column);
            if (draft === undefined) continue;
            known.push(draft.ms);
            expect(draft.ms).toBeCloseTo(priceOf(shapesOf(draft, items, model), lengths, model), 6);
            expect(plan(tables, items, column, draft.ms)).toBeUndefined();
            expect(plan(tables, items, column, draft.ms * (1 + 1e-9))?.ms).toBe(draft.ms);
          }
        });
        const best = Math.min(...known);
        expect(bestOfOneDegree(tables, items)?.ms).toBeCloseTo(best, 6);
        expect(bestOfOneDegree(tables, items, best * (1 - 1e-9))).toBeUndefined();
      }),
      { numRuns: 150 },
    );
  });
});

function priceOf(
  shapes: ReturnType<typeof shapesOf>,
  lengths: readonly number[],
  model: Parameters<typeof makeItems>[1],
): number {
  const tables = degreeTables(model);
  const column = (degree: number): number => model.degrees.findIndex((cost) => cost.degree === degree);
  return shapes.reduce((sum, groups) => {
    const ms = groups.map(({ degree, sequences }) => {
      const tokens = sequences.reduce((n, index) => n + lengths[index]!, 0);
      const pairs = sequences.reduce((n, index) => n + model.pairs(lengths[index]!), 0);
      return loadMs(tables, column(degree), tokens, pairs);
    });
    return sum + model.microBatchMs + Math.max(...ms);
  }, 0);
}

/** Everything that must be true of a search's state, counted again from its links. */
function audit(state: SearchState): void {
  const { tables, items, microBatches, members, groups, width, position } = state;
  const seen = new Set<number>();
  let listed = 0;
  for (let m = 0; m < microBatches; m++) {
    let makespan = 0;
    const sizes: number[] = [];
    for (let i = 0; i < groups[m]!; i++) {
      const slot = members[m * width + i]!;
      const k = state.column[slot]!;
      expect([state.microBatch[slot], position[slot]]).toEqual([m, i]);
      sizes.push(tables.size[k]!);
      let [tokens, pairs, held] = [0, 0, 0];
      for (let item = state.first[slot]!; item >= 0; item = state.next[item]!) {
        expect(state.slotOf[item]).toBe(slot);
        expect(seen.has(item)).toBe(false);
        seen.add(item);
        tokens += items.tokens[item]!;
        pairs += items.pairs[item]!;
        held++;
      }
      expect(state.held[slot]).toBe(held);
      expect(state.tokens[slot]).toBeCloseTo(tokens, 3);
      expect(tokens).toBeLessThanOrEqual(tables.capacity[k]!);
      expect(state.ms[slot]).toBeCloseTo(loadMs(tables, k, tokens, pairs), 3);
      makespan = Math.max(makespan, state.ms[slot]!);
    }
    listed += groups[m]!;
    expect(state.makespan[m]).toBeCloseTo(makespan, 6);
    expect(placeable(sizes, tables.ranks, tables.ranksPerNode)).toBe(true);
  }
  expect(state.frees + listed).toBe(state.column.length);
  state.slotOf.forEach((slot, item) => expect(slot >= 0).toBe(seen.has(item)));
}

describe('annealing', () => {
  it('keeps its state consistent through changes that stay and changes that are taken back', () => {
    fc.assert(
      fc.property(anyBatch(40), fc.integer({ min: 0, max: 1e6 }), ({ model, lengths }, seed) => {
        const tables = degreeTables(model);
        const items = everything(lengths, model);
        if (items.count === 0) return;
        for (const draft of startPlans(tables, items).slice(0, 2)) {
          const search = startSearch(tables, items, draft);
          audit(search.state);
          const random = searchRandom(seed, items.count);
          const options = { random, most: 12, window: 24, stop: () => false };
          for (const hot of [0.1, 0.001]) {
            anneal(search, { ...options, moves: 300, hot, cold: hot / 10 });
            audit(search.state);
            const placed = items.count - search.unplaced.length;
            expect(search.state.slotOf.reduce((n, slot) => n + (slot >= 0 ? 1 : 0), 0)).toBe(placed);
            if (search.unplaced.length === 0) expect(search.cost).toBeCloseTo(objectiveMs(search.state), 3);
          }
          if (search.bestMs === Infinity) continue;
          const shapes = shapesOf(bestDraft(search), items, model);
          expect(priceOf(shapes, lengths, model)).toBeCloseTo(search.bestMs, 3);
          expect(search.bestMs).toBeLessThanOrEqual(draft.left === 0 ? draft.ms * (1 + 1e-9) : Infinity);
        }
      }),
      { numRuns: 60 },
    );
  });
});
