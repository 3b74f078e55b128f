import { elementwise, requireDType } from '../infer.js';
import type { Attrs } from '../graph.js';
import { TypeMismatch, type InferContext, type Sample } from '../op.js';
import { printType, sameType, withPending, type Type } from '../type.js';
import { defineOp, mapElements } from './define.js';
import { erf } from './erf.js';

/** Constants of the tanh approximation (Hendrycks & Gimpel 2016, arXiv 1606.08415). */
export const GELU_SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
export const GELU_CUBIC = 0.044715;

const sigmoidOf = (x: number): number => 1 / (1 + Math.exp(-x));

const geluOf =
  (attrs: Attrs) =>
  (x: number): number =>
    attrs['approximate'] === 'tanh'
      ? 0.5 * x * (1 + Math.tanh(GELU_SQRT_2_OVER_PI * (x + GELU_CUBIC * x ** 3)))
      : 0.5 * x * (1 + erf(x / Math.SQRT2));

const geluSlope =
  (attrs: Attrs) =>
  (x: number): number => {
    if (attrs['approximate'] !== 'tanh')
      return 0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
    const t = Math.tanh(GELU_SQRT_2_OVER_PI * (x + GELU_CUBIC * x ** 3));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU_SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x * x);
  };

const infer = (ctx: InferContext<Attrs>): readonly Type[] => {
  requireDType(ctx.types[0]!, 'f32', 'the operand of an activation');
  return elementwise('none')(ctx);
};

/** Linear in g, which has the shape and placement of x. */
const inferVjp = (ctx: InferContext<Attrs>): readonly Type[] => {
  const [x, g] = ctx.types as readonly [Type, Type];
  if (!sameType(x, withPending(g, x.pending)))
    throw new TypeMismatch(`the cotangent of an activation of ${printType(x)} is ${printType(g)}`);
  requireDType(x, 'f32', 'the operand of an activation');
  return elementwise('last')(ctx);
};

const samples = (attrs: Attrs): Sample[] => [{ operands: [{ type: 'f32[S@sp, 4]', range: [-3, 3] }], attrs }];
const pairSamples = (attrs: Attrs): Sample[] => [
  { operands: [{ type: 'f32[S@sp, 4]', range: [-3, 3] }, { type: 'f32[S@sp, 4]' }], attrs },
];

export const gelu = defineOp('gelu', {
  doc: 'Gaussian error linear unit; `approximate` is "none" (erf) or "tanh" (arXiv 1606.08415).',
  operands: ['x'],
  attrs: { 'approximate?': ['none', 'tanh'] },
  infer,
  vjp: ({ cotangents: [g], operands: [x], attrs, build }) => [g && build.one('gelu_vjp', [x!, g], attrs)],
  eval: ({ inputs, shapes, attrs }) => [mapElements(shapes[0]!, inputs, geluOf(attrs))],
  samples: [...samples({ approximate: 'none' }), ...samples({ approximate: 'tanh' })],
});

export const geluVjp = defineOp('gelu_vjp', {
  doc: "g · gelu'(x).",
  operands: ['x', 'g'],
  attrs: { 'approximate?': ['none', 'tanh'] },
  infer: inferVjp,
  eval: ({ inputs, shapes, attrs }) => {
    const slope = geluSlope(attrs);
    return [mapElements(shapes[0]!, inputs, (x, g) => g * slope(x))];
  },
  samples: [...pairSamples({ approximate: 'none' }), ...pairSamples({ approximate: 'tanh' })],
});

export const silu = defineOp('silu', {
  doc: 'x · sigmoid(x) (SiLU, swish; arXiv 1702.03118).',
  operands: ['x'],
  infer,
  vjp: ({ cotangents: [g], operands: [x], build }) => [g && build.one('silu_vjp', [x!, g])],
  eval: ({ inputs, shapes }) => [mapElements(shapes[0]!, inputs, (x) => x * sigmoidOf(x))],
  samples: samples({}),
});

export const siluVjp = defineOp('silu_vjp', {
  doc: "g · silu'(x) = g · σ(x) · (1 + x · (1 − σ(x))).",
  operands: ['x', 'g'],
  infer: inferVjp,
  eval: ({ inputs, shapes }) => [
    mapElements(shapes[0]!, inputs, (x, g) => g * sigmoidOf(x) * (1 + x * (1 - sigmoidOf(x)))),
  ],
  samples: pairSamples({}),
});
