/** Index values that depend on the offset between key and query alone: relative position biases and their buckets. */
import type { TensorValue } from '../model.js';
import { HIDDEN_SCORE } from '../../ops/attention.js';
import { numbersOf, type Numbers } from './distance.js';

/**
 * Over two dims of S, queries then keys, for each element of the dims before: row h of `table`, at j − i + `before`,
 * held at its ends. Rows of `table` follow one another, `count` elements each.
 */
export interface RelativeForm {
  readonly kind: 'relative';
  readonly before: number;
  readonly count: number;
  readonly table: readonly number[];
}

/** Leading elements that may differ; more are no heads. */
const MAX_LEADING = 256;

/** The table of a value at length n ≥ 3; undefined where it does not depend on the offset alone, or hides keys as masks do. */
export function deriveRelative(value: TensorValue, n: number): RelativeForm | undefined {
  const elements = numbersOf(value.data);
  const leading = elements.length / (n * n);
  if (n < 3 || !Number.isInteger(leading) || leading < 1 || leading > MAX_LEADING) return undefined;
  const wide = 2 * n - 1;
  const table = new Float64Array(leading * wide);
  for (let h = 0; h < leading; h++)
    for (let r = 0; r < wide; r++) {
      const offset = r - (n - 1);
      const [i, j] = offset < 0 ? [-offset, 0] : [0, offset];
      table[h * wide + r] = elements[(h * n + i) * n + j]!;
    }
  if (!table.every((x) => Math.abs(x) < -HIDDEN_SCORE)) return undefined;
  const { start, end } = bends(table, leading, wide);
  const count = end - start + 1;
  return {
    kind: 'relative',
    before: n - 1 - start,
    count,
    table: Array.from({ length: leading * count }, (_, at) => {
      const h = Math.floor(at / count);
      return table[h * wide + start + (at % count)]!;
    }),
  };
}

/** Where a table stops being the same at both ends, in all its rows; both sides of offset 0 are kept. */
function bends(table: Float64Array, leading: number, wide: number): { start: number; end: number } {
  const middle = (wide - 1) / 2;
  const rows = Array.from({ length: leading }, (_, h) => h * wide);
  let [start, end] = [0, wide - 1];
  while (start < middle && rows.every((at) => table[at + start] === table[at + start + 1])) start++;
  while (end > middle && rows.every((at) => table[at + end] === table[at + end - 1])) end--;
  return { start, end };
}

/** Whether a value at length n is of the form, up to the rounding of float32. */
export function fitsRelative({ before, count, table }: RelativeForm, elements: Numbers, n: number): boolean {
  const leading = table.length / count;
  if (elements.length !== leading * n * n) return false;
  for (let h = 0; h < leading; h++)
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        const row = Math.min(Math.max(j - i + before, 0), count - 1);
        const expected = table[h * count + row]!;
        if (!(Math.abs(elements[(h * n + i) * n + j]! - expected) <= 1e-6 * Math.abs(expected))) return false;
      }
  return true;
}
