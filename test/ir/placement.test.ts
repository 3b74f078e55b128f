import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.js';
import {
  followingRange,
  localElements,
  localShape,
  shardRange,
  splitRange,
  type RankBinding,
} from '../../src/ir/placement.js';
import { cotangentType, parseType, printType, sameType } from '../../src/ir/type.js';

const RUNS = { seed: 5, numRuns: 500 };
const rankOf = (index: number, degree: number, tokens: number, tile?: number): RankBinding => ({
  sp: { index, degree },
  world: { index, degree },
  symbols: new Map([['S', tokens]]),
  ...(tile === undefined ? {} : { tile }),
});

describe('shards', () => {
  it('partition the pieces, the first ranks holding one more', () => {
    fc.assert(
      fc.property(fc.nat(100), fc.integer({ min: 1, max: 20 }), (pieces, degree) => {
        const ranges = Array.from({ length: degree }, (_, r) => shardRange(pieces, degree, r));
        expect(ranges[0]!.start).toBe(0);
        expect(ranges[degree - 1]!.end).toBe(pieces);
        ranges.slice(1).forEach((range, i) => expect(range.start).toBe(ranges[i]!.end));
        const lengths = ranges.map((r) => r.end - r.start);
        expect([...lengths].sort((a, b) => b - a)).toEqual(lengths);
        expect(lengths[0]! - lengths[degree - 1]!).toBeLessThanOrEqual(1);
      }),
      RUNS,
    );
  });

  it('of K/V heads cover what the rank’s query heads read, and no more', () => {
    fc.assert(
      fc.property(
        fc.nat(5),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 20 }),
        (k, per, degree) => {
          const kvHeads = k + 1;
          const heads = kvHeads * per;
          for (let rank = 0; rank < degree; rank++) {
            const queries = shardRange(heads, degree, rank);
            const read = new Set<number>();
            for (let h = queries.start; h < queries.end; h++) read.add(Math.floor((h * kvHeads) / heads));
            const { start, end } = followingRange(kvHeads, heads, degree, rank);
            expect([...read]).toEqual(Array.from({ length: end - start }, (_, i) => start + i));
          }
        },
      ),
      RUNS,
    );
  });

  it('hold whole units', () => {
    expect(splitRange(24, { axis: 'sp', unit: 6 }, { index: 1, degree: 3 })).toEqual({ start: 12, end: 18 });
    expect(splitRange(12, { axis: 'sp', unit: 6, of: 8 }, { index: 1, degree: 3 })).toEqual({
      start: 0,
      end: 12,
    });
  });

  it('have local shapes; inside a tile, T is the tile’s length', () => {
    expect(localShape(parseType('f32[S@sp, 2*S, 3]'), rankOf(1, 3, 7))).toEqual([2, 14, 3]);
    expect(localShape(parseType('f32[T@sp]'), rankOf(2, 3, 7, 4))).toEqual([4]);
    expect(localShape(parseType('f32[12*T@sp/12]'), rankOf(2, 3, 7, 4))).toEqual([48]);
    expect(localShape(parseType('f32[T, 5@sp]'), rankOf(2, 3, 7, 4))).toEqual([4, 1]);
  });

  it('do not overflow silently', () => {
    expect(() => localElements(parseType('f32[9007199254740991, 4]'), rankOf(0, 1, 1))).toThrow(/2\^53/);
  });
});

describe('types', () => {
  it.each([
    'f32[]',
    'i32[S@sp]',
    'f32[S@sp, 64]',
    'f32[768, 3072]{U:sp}',
    'f32[768]{U:world}',
    'f32[S, 2@sp(8), 64]{U:sp}',
    'f32[(2*S + 1)@sp, 3]',
    'f32[S, 768@sp/64]',
    'f32[S, 128@sp/64(8)]',
    'bool[S, S]',
  ])('%s prints and parses', (text) => {
    expect(printType(parseType(text))).toBe(text);
    expect(printType(cotangentType(cotangentType(parseType('f32[S@sp, 4]'))))).toBe('f32[S@sp, 4]');
  });

  it.each([
    ['f32[4]', 'f32[4]{U:sp}'],
    ['f32[4]{U:world}', 'f32[4]'],
    ['f32[S@sp]', 'f32[S@sp]'],
    ['f32[4@world]', 'f32[4@world]'],
    ['f32[2@sp(8)]', 'f32[2@sp(8)]{U:sp}'],
    ['f32[2@sp(8)]{U:sp}', 'f32[2@sp(8)]'],
  ])('the cotangent of %s is %s', (type, dual) => {
    expect(printType(cotangentType(parseType(type)))).toBe(dual);
    const pending = parseType(type).pending === 'world';
    if (!pending) expect(sameType(cotangentType(parseType(dual)), parseType(type))).toBe(true);
  });

  it.each([
    'f32',
    'f64[3]',
    'f32[3',
    'f32[-3]',
    'f32[,]',
    'f32[S@tp]',
    'f32[S@sp/0]',
    'f32[4@sp/3]',
    'f32[S@sp/2]',
    'f32[3@sp(8)]',
    'f32[2@sp(0)]',
    'f32[2@sp(2)]',
    'f32[S@sp(8)]',
    'f32[2@world(8)]',
    'f32[4@sp, 4@sp]',
    'f32[4@sp, 4@world]',
    'f32[S@sp]{U:sp}',
    'f32[S@sp]{U:world}',
    'f32[2@sp(8)]{U:world}',
    'f32[3]{U:tp}',
    'f32[9007199254740993]',
  ])('%s is none', (text) => {
    expect(() => parseType(text)).toThrow(UserError);
  });
});
