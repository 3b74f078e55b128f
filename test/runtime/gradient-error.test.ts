import { expect, test } from 'vitest';
import type { Tensor } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';
import { gradientError } from '../../src/runtime/executor/reference.js';

const gradients = (values: Readonly<Record<string, readonly number[]>>): Map<string, Tensor> =>
  new Map(Object.entries(values).map(([name, data]) => [name, tensor([data.length], data)]));

const expected = gradients({ w: [3, 4], b: [0, 0] });

test('the worst parameter, relative to its own norm', () => {
  const { parameter, error } = gradientError(expected, gradients({ w: [3, 4.5], b: [0, 0] }));
  expect(parameter).toBe('w');
  expect(error).toBeCloseTo(0.1, 12);
});

test('a gradient that is truly zero is held to a share of all gradients', () => {
  const { parameter, error } = gradientError(expected, gradients({ w: [3, 4], b: [1e-6, 0] }));
  expect(parameter).toBe('b');
  // ‖all‖ = 5, two parameters: 10⁻⁶ / (10⁻³ · 5 / √2)
  expect(error).toBeCloseTo((1e-6 * Math.SQRT2) / 5e-3, 12);
});

test.each([
  ['missing', gradients({ w: [3, 4] })],
  ['no number', gradients({ w: [3, 4], b: [0, NaN] })],
  ['of another length', gradients({ w: [3, 4], b: [0] })],
])('a gradient that is %s is infinitely wrong', (_, actual) => {
  expect(gradientError(expected, actual)).toEqual({ parameter: 'b', error: Infinity });
});

test('equal gradients, even if all are zero, have no error', () => {
  const zero = gradients({ w: [0, 0] });
  expect(gradientError(zero, zero).error).toBe(0);
});
