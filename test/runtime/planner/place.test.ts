import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { arrange } from '../../../src/runtime/planner/arrange.js';
import { placeable, placeGroups, sideBySide } from '../../../src/runtime/planner/place.js';
import { flexSpModel } from './models.js';

describe('placing groups', () => {
  it('aligns powers of two, whatever their order', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(1, 2, 4, 8, 16, 32), { maxLength: 40 }), (sizes) => {
        const starts = placeGroups(sizes, 64, 8);
        const total = sizes.reduce((a, b) => a + b, 0);
        expect(starts === undefined).toBe(total > 64);
        starts?.forEach((start, g) => expect(start % sizes[g]!).toBe(0));
      }),
    );
  });

  it('keeps small groups inside nodes and starts large ones at a border, without overlap', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 12 });
    fc.assert(
      fc.property(
        sizes,
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 60 }),
        (groups, node, ranks) => {
          const starts = placeGroups(groups, ranks, node);
          expect(starts !== undefined).toBe(placeable(groups, ranks, node));
          const taken = new Set<number>();
          starts?.forEach((start, g) => {
            const size = groups[g]!;
            const last = start + size - 1;
            expect(last).toBeLessThan(ranks);
            expect(Math.floor(last / node) - Math.floor(start / node) + 1).toBeLessThanOrEqual(
              Math.ceil(size / node),
            );
            for (let rank = start; rank <= last; rank++) {
              expect(taken.has(rank)).toBe(false);
              taken.add(rank);
            }
          });
        },
      ),
      { numRuns: 500 },
    );
  });

  it('counts what fits side by side', () => {
    expect(sideBySide(3, 16, 8)).toBe(4);
    expect(sideBySide(2, 6, 3)).toBe(2);
    expect(sideBySide(16, 64, 8)).toBe(4);
    expect(sideBySide(5, 4, 8)).toBe(0);
  });

  it('lets ranks without work wait in small groups, and drops micro-batches without work', () => {
    const { microBatches } = arrange(
      [[{ degree: 8, sequences: [1, 0] }], [{ degree: 4, sequences: [] }]],
      flexSpModel(16),
    );
    expect(microBatches).toHaveLength(1);
    const [first, ...rest] = microBatches[0]!.groups;
    expect(first).toEqual({ degree: 8, ranks: [0, 1, 2, 3, 4, 5, 6, 7], sequences: [0, 1] });
    expect(rest.map((group) => group.degree)).toEqual(Array.from({ length: 8 }, () => 1));
  });
});
