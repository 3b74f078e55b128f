import { describe, expect, test } from 'vitest';
import { parseSize } from '../../../src/ir/size.js';
import {
  atLeast,
  broadcastSizes,
  compareEqual,
  compareLess,
  printDims,
  rangeCount,
  reshapeTarget,
  sliceBounds,
} from '../../../src/ir/onnx/import/shapes.js';

const size = parseSize;
const dims = (text: string) => text.split(',').map(parseSize);

test('what holds for every S ≥ 1 is decided, the rest is not', () => {
  expect(atLeast(size('S'), size('1'))).toBe(true);
  expect(atLeast(size('S'), size('2'))).toBe(false);
  expect(compareEqual(size('S'), size('-1'))).toBe(false);
  expect(compareEqual(size('S'), size('4'))).toBeUndefined();
  expect(compareLess(size('S'), size('S + 1'))).toBe(true);
  expect(compareLess(size('S'), size('1'))).toBe(false);
  expect(compareLess(size('S'), size('5'))).toBeUndefined();
});

test.each([
  ['1,S,64', '0,-1,8,8', '1, S, 8, 8'],
  ['1,2,4,S,8', '1,8,-1,8', '1, 8, S, 8'],
  ['1,S,64', '-1,64', 'S, 64'],
  ['S', '1,1,1,S', '1, 1, 1, S'],
  ['1,S,6', '-1,4', undefined],
  ['1,S,64', 'S,65', undefined],
  ['1,S', '-1,0', 'S, 0'],
])('reshape %s to %s', (from, target, expected) => {
  const result = reshapeTarget(dims(from), dims(target), false);
  expect(result && printDims(result)).toBe(expected === 'S, 0' ? '[1, S]' : expected && `[${expected}]`);
});

describe('slices are clamped as ONNX does', () => {
  test.each([
    ['0', '9007199254740991', 1, 'S', 'S', undefined],
    ['-1', '9007199254740991', 1, '8', '1', undefined],
    ['-9007199254740991', '-2', 1, '4', '2', undefined],
    ['1', 'S + 1', 1, 'S + 1', 'S', undefined],
    ['0', 'S', 1, 'S + 1', 'S', undefined],
    ['0', '9', 2, '9', '5', undefined],
    ['3', '2', 1, '4', '0', undefined],
    ['0', 'S', 1, '256', 'S', 256],
    ['0', '-1', 1, 'S', 'S + -1', undefined],
  ] as const)('%s:%s:%s of %s', (start, end, step, dim, expected, fits) => {
    const bounds = sliceBounds(size(start), size(end), step, size(dim));
    expect(bounds?.size.key).toBe(expected);
    expect(bounds?.fits).toBe(fits);
  });

  test('a cut that depends on how long the sequence is stays undecided', () => {
    expect(sliceBounds(size('0'), size('16'), 1, size('S'))).toBeUndefined();
    expect(sliceBounds(size('-16'), size('9007199254740991'), 1, size('S'))).toBeUndefined();
  });
});

test('ranges', () => {
  expect(rangeCount(size('0'), size('S'), size('1'))?.key).toBe('S');
  expect(rangeCount(size('0'), size('9'), size('2'))?.key).toBe('5');
  expect(rangeCount(size('0'), size('2*S'), size('2'))?.key).toBe('S');
  expect(rangeCount(size('0'), size('S'), size('2'))).toBeUndefined();
});

test('a symbolic dim broadcasts against 1 only', () => {
  expect(printDims(broadcastSizes(dims('1,1,S,1'), dims('S'))!)).toBe('[1, 1, S, S]');
  expect(broadcastSizes(dims('S'), dims('4'))).toBeUndefined();
});
