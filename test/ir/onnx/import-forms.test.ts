import { describe, expect, test } from 'vitest';
import { constantSize, symbolSize } from '../../../src/ir/size.js';
import { deriveForm, fitsForm } from '../../../src/ir/onnx/import/forms.js';
import type { TensorValue } from '../../../src/ir/onnx/model.js';

const tokens = symbolSize('S');
const maskFacts = { dtype: 'bool', dims: [constantSize(1), tokens, tokens] } as const;
const additiveFacts = { dtype: 'f32', dims: [tokens, tokens] } as const;
const rowFacts = { dtype: 'i64', dims: [constantSize(1), tokens] } as const;

const mask = (n: number, seen: (i: number, j: number) => boolean): TensorValue => ({
  dtype: 'bool',
  dims: [1, n, n],
  data: Uint8Array.from({ length: n * n }, (_, k) => Number(seen(Math.floor(k / n), k % n))),
});
const additive = (n: number, value: (i: number, j: number) => number): TensorValue => ({
  dtype: 'f32',
  dims: [n, n],
  data: Float32Array.from({ length: n * n }, (_, k) => value(Math.floor(k / n), k % n)),
});
const row = (values: readonly number[]): TensorValue => ({
  dtype: 'i64',
  dims: [1, values.length],
  data: BigInt64Array.from(values, BigInt),
});

describe('masks', () => {
  test('a window of 16 looks causal up to 16 tokens and not beyond', () => {
    const window = (n: number) => mask(n, (i, j) => j <= i && j > i - 16);
    expect(deriveForm(maskFacts, window(16), 16)).toEqual({ kind: 'mask', mask: 'causal', additive: false });
    const form = deriveForm(maskFacts, window(17), 17)!;
    expect(form).toEqual({ kind: 'mask', mask: 'window', window: 16, additive: false });
    expect(fitsForm(form, window(16), 16)).toBe(true);
    expect(fitsForm({ kind: 'mask', mask: 'causal', additive: false }, window(17), 17)).toBe(false);
  });

  test('a window may hold later keys too, and looks like one of no mask at few tokens', () => {
    const near = (n: number) => mask(n, (i, j) => j <= i + 3 && j > i - 5);
    const form = deriveForm(maskFacts, near(12), 12)!;
    expect(form).toEqual({ kind: 'mask', mask: 'window', window: 5, ahead: 3, additive: false });
    for (const n of [1, 3, 4, 5, 6, 40]) expect(fitsForm(form, near(n), n)).toBe(true);
    expect(fitsForm({ ...form, ahead: 2 } as typeof form, near(12), 12)).toBe(false);
    // All that is before, and three tokens ahead: no form.
    expect(
      deriveForm(
        maskFacts,
        mask(12, (i, j) => j <= i + 3),
        12,
      ),
    ).toBeUndefined();
  });

  test('additive masks of −∞, of the lowest float, of what else exporters take for it', () => {
    for (const low of [-Infinity, -3.4028234663852886e38, -1e9, -65504, -10000, -9984])
      expect(
        deriveForm(
          additiveFacts,
          additive(5, (i, j) => (j <= i ? 0 : low)),
          5,
        ),
      ).toEqual({
        kind: 'mask',
        mask: 'causal',
        additive: true,
      });
    expect(
      deriveForm(
        additiveFacts,
        additive(5, (i, j) => (j <= i ? 0 : -1000)),
        5,
      ),
    ).toEqual({ kind: 'relative', before: 0, count: 2, table: [0, -1000] });
  });

  test('a mask that is true where a key is hidden', () => {
    const hidden = mask(9, (i, j) => !(j <= i && j > i - 4));
    const form = deriveForm(maskFacts, hidden, 9)!;
    expect(form).toEqual({ kind: 'mask', mask: 'window', window: 4, additive: false, inverted: true });
    expect(
      fitsForm(
        form,
        mask(9, (i, j) => j <= i),
        9,
      ),
    ).toBe(false);
  });

  test('a mask of the numbers 0 and 1', () => {
    const numbers = (n: number) => additive(n, (i, j) => Number(j <= i));
    const form = deriveForm(additiveFacts, numbers(5), 5)!;
    expect(form).toEqual({ kind: 'mask', mask: 'causal', additive: false, cast: true });
    expect(fitsForm(form, numbers(9), 9)).toBe(true);
    expect(
      deriveForm(
        additiveFacts,
        additive(5, (i, j) => (j < i ? 2 : Number(j <= i))),
        5,
      ),
    ).toEqual({ kind: 'relative', before: 1, count: 3, table: [2, 1, 0] });
  });

  test('everything seen is a constant; other patterns are nothing', () => {
    expect(
      deriveForm(
        maskFacts,
        mask(5, () => true),
        5,
      ),
    ).toEqual({ kind: 'fill', value: 1 });
    expect(
      deriveForm(
        maskFacts,
        mask(5, (i, j) => j >= i),
        5,
      ),
    ).toBeUndefined();
    expect(
      deriveForm(
        maskFacts,
        mask(9, (i, j) => Math.abs(i - j) < 3 && i !== j),
        9,
      ),
    ).toBeUndefined();
    expect(
      deriveForm(
        maskFacts,
        mask(8, (i, j) => j <= i && i >> 2 === j >> 2),
        8,
      ),
    ).toBeUndefined();
  });

  test('rows of a mask that is too long to be evaluated whole', () => {
    const rows = [0, 99, 100, 101, 999];
    const data = Uint8Array.from({ length: rows.length * 1000 }, (_, k) => {
      const [i, j] = [rows[Math.floor(k / 1000)]!, k % 1000];
      return Number(j <= i && j > i - 100);
    });
    const value: TensorValue = { dtype: 'bool', dims: [1, rows.length, 1000], data };
    expect(deriveForm(maskFacts, value, 1000, rows)).toEqual({
      kind: 'mask',
      mask: 'window',
      window: 100,
      additive: false,
    });
  });
});

describe('positions', () => {
  test('with an offset, over one dim', () => {
    expect(deriveForm(rowFacts, row([0, 1, 2, 3]), 4)).toEqual({ kind: 'iota', offset: 0, inner: 1 });
    expect(deriveForm(rowFacts, row([2, 3, 4, 5]), 4)).toEqual({ kind: 'iota', offset: 2, inner: 1 });
    expect(deriveForm(rowFacts, row([0, 2, 5, 6]), 4)).toBeUndefined();
    expect(deriveForm(rowFacts, row([7, 7, 7, 7]), 4)).toEqual({ kind: 'fill', value: 7 });
  });
});

describe('distances', () => {
  const heads = { dtype: 'f32', dims: [constantSize(2), tokens, tokens] } as const;
  const perHead = (n: number, value: (h: number, i: number, j: number) => number): TensorValue => ({
    dtype: 'f32',
    dims: [2, n, n],
    data: Float32Array.from({ length: 2 * n * n }, (_, k) =>
      value(Math.floor(k / n / n), Math.floor(k / n) % n, k % n),
    ),
  });

  test('of query and key, times a number for each head', () => {
    const absolute = (n: number) => perHead(n, (h, i, j) => -Math.abs(i - j) / (h + 2) + h);
    const form = deriveForm(heads, absolute(6), 6)!;
    expect(form).toMatchObject({ kind: 'distance', of: 'absolute', offsets: [0, 1] });
    expect(fitsForm(form, absolute(11), 11)).toBe(true);
    const signed = perHead(6, (h, i, j) => (h - 2) * (j - i));
    expect(deriveForm(heads, signed, 6)).toMatchObject({ of: 'signed', factors: [-2, -1] });
    expect(fitsForm(form, signed, 6)).toBe(false);
    expect(
      deriveForm(
        heads,
        perHead(6, (h, i, j) => (h + 1) * i * j),
        6,
      ),
    ).toBeUndefined();
  });

  test('to the last token; positions are none', () => {
    const form = deriveForm(rowFacts, row([-6, -4, -2, 0]), 4)!;
    expect(form).toEqual({ kind: 'distance', of: 'end', factors: [2], offsets: [0] });
    expect(fitsForm(form, row([-4, -2, 0]), 3)).toBe(true);
    expect(fitsForm(deriveForm(rowFacts, row([0, 2, 4, 6]), 4)!, row([0, 2, 4]), 3)).toBe(false);
  });
});
