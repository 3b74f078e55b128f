import { expect, it } from 'vitest';
import { tensor } from '../../src/ir/ops/define.js';
import { opDef } from '../../src/ir/ops/index.js';
import { parseType } from '../../src/ir/type.js';

/** `Math.max` and `Math.min` take any number of arguments: the evaluation must hand them two. */
it.each([
  ['maximum', [-1, -4, 3]],
  ['minimum', [-2, -5, 2]],
])('%s of two operands looks at these two only', (name, expected) => {
  const rank = { index: 0, degree: 1 };
  const [result] = opDef(name).eval!({
    types: [parseType('f32[3]'), parseType('f32[3]')],
    attrs: {},
    region: undefined,
    inputs: [tensor([3], [-1, -5, 2]), tensor([3], [-2, -4, 3])],
    shapes: [[3]],
    rank: { sp: rank, world: rank, symbols: new Map() },
    run: () => [],
  });
  expect(Array.from(result!.data)).toEqual(expected);
});
