/** Index values that are a multiple of a distance between tokens: the stuff of linear position biases. */
import type { TensorData, TensorValue } from '../model.js';

/**
 * factor · distance + offset, whatever the sequence length, for each element of the dims before those that are S.
 * `end`: over one dim of S, t − (S − 1). Over two, queries then keys, `signed`: j − i, `absolute`: |i − j|.
 */
export interface DistanceForm {
  readonly kind: 'distance';
  readonly of: 'end' | 'signed' | 'absolute';
  readonly factors: readonly number[];
  readonly offsets: readonly number[];
}

export type Numbers = Exclude<TensorData, BigInt64Array | BigUint64Array>;

const converted = new WeakMap<TensorData, Numbers>();

/**
 * Elements as numbers; converted once, for a value is compared with several forms. By a loop, since
 * `Float64Array.from` would go through a list of boxed elements: seconds for a large mask.
 */
export function numbersOf(data: TensorData): Numbers {
  if (!(data instanceof BigInt64Array) && !(data instanceof BigUint64Array)) return data;
  const known = converted.get(data);
  if (known !== undefined) return known;
  const numbers = new Float64Array(data.length);
  for (let i = 0; i < data.length; i++) numbers[i] = Number(data[i]);
  converted.set(data, numbers);
  return numbers;
}

/** Leading elements of a value that differ; more are no heads. */
const MAX_LEADING = 1024;

const distanceOf = (of: DistanceForm['of'], i: number, j: number, n: number): number =>
  of === 'end' ? j - (n - 1) : of === 'signed' ? j - i : Math.abs(i - j);

/**
 * The distance that a value at length n may be a multiple of.
 * @param lengths its dims that are S, the last ones
 * @param rows of two such dims, where not all rows were evaluated: their numbers
 */
export function deriveDistance(
  lengths: number,
  { data }: TensorValue,
  n: number,
  rows?: readonly number[],
): DistanceForm | undefined {
  const count = lengths === 2 ? (rows?.length ?? n) : 1;
  const leading = data.length / (count * n);
  if (lengths < 1 || n < 3 || !Number.isInteger(leading) || leading > MAX_LEADING) return undefined;
  const at = (head: number, row: number, column: number): number =>
    Number(data[(head * count + row) * n + column]);
  const [last, i] = [count - 1, rows?.at(-1) ?? n - 1];
  // Before the diagonal both distances fall towards it; the first row tells them apart.
  const rising = at(0, last, 1) - at(0, last, 0);
  const of = lengths === 1 ? 'end' : (at(0, 0, 1) - at(0, 0, 0)) * rising < 0 ? 'absolute' : 'signed';
  const heads = Array.from({ length: leading }, (_, head) => head);
  const factors = heads.map((head) => {
    const step = at(head, last, 1) - at(head, last, 0);
    return of === 'absolute' ? 0 - step : step;
  });
  if (factors.every((factor) => factor === 0) || !factors.every(Number.isFinite)) return undefined;
  const offsets = heads.map((head, h) => at(head, last, n - 1) - factors[h]! * distanceOf(of, i, n - 1, n));
  return { kind: 'distance', of, factors, offsets };
}

/** Whether a value, or the given rows, is of the form at length n, up to the rounding of float32. */
export function fitsDistance(
  { of, factors, offsets }: DistanceForm,
  elements: Numbers,
  n: number,
  rows?: readonly number[],
): boolean {
  const count = of === 'end' ? 1 : (rows?.length ?? n);
  if (elements.length !== factors.length * count * n) return false;
  return factors.every((factor, h) => {
    const [offset, tolerance] = [offsets[h]!, 1e-6 * (Math.abs(factor) * n + Math.abs(offsets[h]!))];
    for (let r = 0; r < count; r++)
      for (let j = 0; j < n; j++) {
        const expected = factor * distanceOf(of, rows?.[r] ?? r, j, n) + offset;
        if (!(Math.abs(elements[(h * count + r) * n + j]! - expected) <= tolerance)) return false;
      }
    return true;
  });
}

/** Whether a stored float table is a bias by distance: its rows are arithmetic progressions. No weight looks like that. */
export function isLinearTable(values: Float32Array, columns: number): boolean {
  if (columns < 8) return false;
  let level = true;
  for (let start = 0; start < values.length; start += columns) {
    const step = (values[start + columns - 1]! - values[start]!) / (columns - 1);
    const tolerance = 1e-6 * (Math.abs(values[start]!) + Math.abs(step) * columns);
    level &&= step === 0;
    for (let j = 0; j < columns; j++)
      if (!(Math.abs(values[start + j]! - values[start]! - step * j) <= tolerance)) return false;
  }
  return !level;
}
