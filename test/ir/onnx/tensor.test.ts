import { expect, test } from 'vitest';
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from '../../../src/ir/onnx/half.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { findTiedInitializers } from '../../../src/ir/onnx/tied.js';
import { makeTensor } from '../../../src/ir/onnx/tensor.js';
import { encode, floats, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();

test('every half and bfloat16 survives the way there and back', () => {
  for (let bits = 0; bits < 0x10000; bits++) {
    const half = f16ToNumber(bits);
    const brain = bf16ToNumber(bits);
    if (Number.isNaN(half)) expect(f16ToNumber(numberToF16(half))).toBeNaN();
    else if (numberToF16(half) !== bits) expect(numberToF16(half)).toBe(bits);
    if (Number.isNaN(brain)) expect(bf16ToNumber(numberToBf16(brain))).toBeNaN();
    else if (numberToBf16(brain) !== bits) expect(numberToBf16(brain)).toBe(bits);
  }
});

test.each([
  [1 + 2 ** -11, 1],
  [1 + 3 * 2 ** -11, 1 + 2 ** -9],
  [1 + 2 ** -11 + 2 ** -20, 1 + 2 ** -10],
  [65519, 65504],
  [65520, Infinity],
  [-1e9, -Infinity],
  [2 ** -25, 0],
  [2 ** -25 * 1.5, 2 ** -24],
  [3 * 2 ** -25, 2 ** -23],
  [2 ** -14 - 2 ** -26, 2 ** -14],
  [-(2 ** -30), -0],
])('%f rounds to the half %f', (value, expected) => {
  expect(f16ToNumber(numberToF16(value))).toBe(expected);
});

test.each([
  [1 + 2 ** -8, 1],
  [1 + 3 * 2 ** -8, 1 + 2 ** -6],
  [3.4e38, Infinity],
  [1e-45, 0],
])('%f rounds to the bfloat16 %f', (value, expected) => {
  expect(bf16ToNumber(numberToBf16(value))).toBe(expected);
});

test('integers saturate where asked for numbers, not where asked for bigints', () => {
  const bytes = new Uint8Array(BigInt64Array.of(2n ** 63n - 1n, -(2n ** 63n), -1n).buffer);
  const tensor = makeTensor('t', 'i64', [3], bytes);
  expect(tensor.toInts()).toEqual([Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER, -1]);
  expect([...tensor.toBigInts()]).toEqual([2n ** 63n - 1n, -(2n ** 63n), -1n]);
  expect(() => tensor.toFloat32()).toThrow(/element type i64/);
});

test('typed fields of every width are read', () => {
  const stored = [
    { name: 'i64', dataType: 7, int64Data: [1, -2, 3] },
    { name: 'i32', dataType: 6, int32Data: [1, -2, 3] },
    { name: 'i16', dataType: 5, int32Data: [1, -2, 3] },
    { name: 'i8', dataType: 3, int32Data: [1, -2, 3] },
  ].map((tensor) => ({ ...tensor, dims: [3] }));
  const bool = { name: 'bool', dataType: 9, dims: [3], int32Data: [1, 0, 1] };
  const u64 = { name: 'u64', dataType: 13, dims: [1], uint64Data: [300] };
  const bytes = encode({
    inputs: [floats('x', [1])],
    nodes: [{ opType: 'Neg', input: ['x'], output: ['y'] }],
    initializers: [...stored, bool, u64],
  });
  const model = readOnnxModel(put(folder, 'typed.onnx', bytes), { weights: true });
  const ints = (name: string) => model.initializers.get(name)?.read().toInts();
  for (const { name } of stored) expect(ints(name), name).toEqual([1, -2, 3]);
  expect(ints('bool')).toEqual([1, 0, 1]);
  expect(ints('u64')).toEqual([300]);
  expect([...(model.initializers.get('bool')?.readRange(1, 2) ?? [])]).toEqual([0, 1]);
});

test('ties: equal, transposed, constant and merely similar weights', () => {
  const tensor = (name: string, dims: number[], values: number[]) => ({
    name,
    dims,
    dataType: 1,
    rawData: raw(values),
  });
  const bytes = encode({
    inputs: [floats('x', [1])],
    nodes: [{ opType: 'Neg', input: ['x'], output: ['y'] }],
    initializers: [
      tensor('a', [2, 3], [1, 2, 3, 4, 5, 6]),
      tensor('b', [3, 2], [1, 4, 2, 5, 3, 6]),
      tensor('c', [2, 3], [1, 2, 3, 4, 5, 6]),
      tensor('d', [2, 3], [1, 2, 3, 4, 5, 7]),
      tensor('ones', [2, 3], [1, 1, 1, 1, 1, 1]),
      tensor('ones2', [2, 3], [1, 1, 1, 1, 1, 1]),
      tensor('vector', [6], [1, 2, 3, 4, 5, 6]),
    ],
  });
  const model = readOnnxModel(put(folder, 'tied.onnx', bytes), { weights: true });
  expect(findTiedInitializers(model)).toEqual([
    { a: 'a', b: 'b', relation: 'transposed' },
    { a: 'a', b: 'c', relation: 'same' },
  ]);
});
