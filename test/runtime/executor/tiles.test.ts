import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { visible } from '../../../src/ir/ops/attention-mask.js';
import {
  attentionTiles,
  documentLengths,
  queryRows,
  SCORE_BYTES,
} from '../../../src/runtime/executor/tiles.js';

const masks = fc.oneof(
  fc.constant({ mask: 'full' as const }),
  fc.constant({ mask: 'causal' as const }),
  fc.integer({ min: 1, max: 300 }).map((window) => ({ mask: 'window' as const, window })),
  fc
    .tuple(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 300 }))
    .map(([window, ahead]) => ({ mask: 'window' as const, window, ahead })),
);

describe('attention tiles', () => {
  it('hold every query once, with all keys it sees and none of another document', () => {
    fc.assert(
      fc.property(
        masks,
        fc.integer({ min: 1, max: 64 }),
        fc.array(fc.integer({ min: 1, max: 400 }), { maxLength: 4 }),
        (mask, heads, lengths) => {
          const tiles = attentionTiles(mask, heads, lengths);
          let start = 0;
          let next = 0;
          for (const length of lengths) {
            const end = start + length;
            for (; tiles[next] !== undefined && tiles[next]!.row < end; next++) {
              const { row, rows, key, keys } = tiles[next]!;
              expect(row).toBe(next === 0 ? 0 : tiles[next - 1]!.row + tiles[next - 1]!.rows);
              expect(key >= start && key + keys <= end && row + rows <= end).toBe(true);
              const reaches = (i: number, j: number): boolean => visible(mask, i - start, j - start);
              // Nothing visible is left out on either side, and every query sees a key.
              for (const i of [row, row + rows - 1]) {
                if (key > start) expect(reaches(i, key - 1)).toBe(false);
                if (key + keys < end) expect(reaches(i, key + keys)).toBe(false);
              }
              expect(keys).toBeGreaterThan(0);
            }
            start = end;
          }
          expect(next).toBe(tiles.length);
          expect(tiles.reduce((sum, tile) => sum + tile.rows, 0)).toBe(start);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('bound the scores of a call, down to sixteen rows', () => {
    for (const length of [1, 100, 5_000, 60_000])
      for (const heads of [1, 8, 32]) {
        const rows = queryRows({ mask: 'full' }, heads, length);
        expect(rows <= 16 || 4 * heads * rows * length <= SCORE_BYTES).toBe(true);
        expect(queryRows({ mask: 'window', window: 32 }, heads, length)).toBeGreaterThanOrEqual(
          queryRows({ mask: 'causal' }, heads, length),
        );
      }
    expect(queryRows({ mask: 'causal' }, 8, 0)).toBe(0);
  });

  it('follow runs of equal document numbers', () => {
    expect(documentLengths(Int32Array.of())).toEqual([]);
    expect(documentLengths(Int32Array.of(4))).toEqual([1]);
    expect(documentLengths(Int32Array.of(0, 0, 1, 2, 2, 2, 0))).toEqual([2, 1, 3, 1]);
  });
});
