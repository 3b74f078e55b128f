/** What each query head of attention reads: its K/V head, its slope and its row of the relative bias. */
import { TypeMismatch } from '../op.js';
import { followingRange, shardRange } from '../placement.js';
import { constantOf } from '../size.js';
import type { Type } from '../type.js';

/** Heads of q, k or v. Throws TypeMismatch. */
export const headsOf = (type: Type): number => {
  const heads = constantOf(type.dims[1]!.size);
  if (heads === undefined) throw new TypeMismatch('the number of heads must be constant');
  return heads;
};

/** Row of a relative bias of `rows` for query i and key j: `before` is that of i = j. */
export const biasRow = (before: number, rows: number, i: number, j: number): number =>
  Math.min(Math.max(before + j - i, 0), rows - 1);

/** The slopes of the query heads that a rank holds. */
export function localSlopes(slopes: readonly number[], degree: number, rank: number): readonly number[] {
  const { start, end } = shardRange(slopes.length, degree, rank);
  return slopes.slice(start, end);
}

/** For each local query head, the local K/V head it reads. */
export function localHeadMap(heads: number, kvHeads: number, degree: number, rank: number): number[] {
  const range = shardRange(heads, degree, rank);
  const { start } = followingRange(kvHeads, heads, degree, rank);
  return Array.from(
    { length: range.end - range.start },
    (_, h) => Math.floor(((range.start + h) * kvHeads) / heads) - start,
  );
}
