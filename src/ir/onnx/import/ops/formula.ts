/**
 * Elementwise operators that the IR spells in several operations, so that no value overflows where the result does
 * not.
 */
import type { Value } from '../../../graph.js';
import type { OnnxOp, OpContext, TranslateContext } from '../context.js';
import { broadcastOperands } from '../context.js';
import { broadcastSizes, printDims, sameDims } from '../shapes.js';
import { spell, type Spelling } from './spell.js';

const likeFirst = (ctx: OpContext): ReturnType<OnnxOp['infer']> => [
  { dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims },
];

/** `formula` of the operand, with the node's own numbers. */
const activation = (
  formula: (s: Spelling, x: Value, number: (name: string, otherwise: number) => number) => Value,
): OnnxOp => ({
  infer: likeFirst,
  translate: (ctx) => [formula(spell(ctx), ctx.value(0), ctx.float)],
});

/** The negative part of x, and 0 with no cotangent elsewhere. */
const below = (s: Spelling, x: Value): Value => s.sub(x, s.max(0, x));

/** a · (e^{x/b} − 1) where x < 0, x elsewhere; the exponent never is above 0. */
const exponential = (s: Spelling, x: Value, a: number, b: number): Value => {
  const low = below(s, x);
  const scaled = b === 1 ? low : s.div(low, b);
  return s.where(s.less(x, 0), s.mul(s.sub(s.exp(scaled), 1), a), x);
};

/** log(1 + eˣ): −log σ(−x) where x < 0, x − log σ(x) elsewhere. */
const softplus = (s: Spelling, x: Value): Value => {
  const [high, low] = [s.max(0, x), below(s, x)];
  const left = s.neg(s.log(s.sigmoid(s.neg(low))));
  return s.where(s.less(x, 0), left, s.sub(high, s.log(s.sigmoid(high))));
};

const hardSigmoid = (s: Spelling, x: Value, alpha: number, beta: number): Value =>
  s.max(0, s.min(1, s.add(s.mul(x, alpha), beta)));

const swish = (s: Spelling, x: Value, alpha: number): Value =>
  s.mul(x, s.sigmoid(alpha === 1 ? x : s.mul(x, alpha)));

const PRelu: OnnxOp = {
  infer: (ctx) => {
    const [x, slope] = [ctx.operand(0), ctx.operand(1)];
    const dims = broadcastSizes(x.dims, slope.dims);
    if (dims === undefined || !sameDims(dims, x.dims))
      ctx.fail(`has slopes of ${printDims(slope.dims)} for ${printDims(x.dims)}`, 'export the model again');
    return likeFirst(ctx);
  },
  translate: (ctx: TranslateContext) => {
    const [s, x] = [spell(ctx), ctx.value(0)];
    return [s.where(s.less(x, 0), s.mul(x, ctx.value(1)), x)];
  },
};

const SwiGLU: OnnxOp = {
  infer: (ctx) => {
    const [a, b] = [ctx.operand(0), ctx.operand(1)];
    if (!sameDims(a.dims, b.dims)) ctx.fail(`gates ${printDims(b.dims)} by ${printDims(a.dims)}`);
    return likeFirst(ctx);
  },
  translate: (ctx) => {
    const s = spell(ctx);
    return [s.mul(swish(s, ctx.value(0), ctx.float('alpha', 1)), ctx.value(1))];
  },
};

/** The sum of all operands, as many times `factor` as there are operands. */
const total = (factor: (count: number) => number): OnnxOp => ({
  infer: (ctx) => [
    { dtype: ctx.operand(0).dtype, dims: broadcastOperands(ctx, ctx.operands, broadcastSizes) },
  ],
  translate: (ctx) => {
    const [s, by] = [spell(ctx), factor(ctx.operands.length)];
    const sum = ctx.operands.map((_, i) => ctx.value(i)).reduce((a, b) => s.add(a, b));
    return [by === 1 ? sum : s.mul(sum, by)];
  },
});

const IsInf: OnnxOp = {
  infer: (ctx) => [{ dtype: 'bool', dims: ctx.operand(0).dims }],
  translate: (ctx) => {
    const [s, x] = [spell(ctx), ctx.value(0)];
    const [high, low] = [s.equal(x, Infinity), s.equal(x, -Infinity)];
    const [detectHigh, detectLow] = ['detect_positive', 'detect_negative'].map(
      (name) => ctx.int(name, 1) === 1,
    );
    if (detectHigh && detectLow) return [s.or(high, low)];
    if (detectHigh || detectLow) return [detectHigh ? high : low];
    return [s.and(high, s.not(high))];
  },
};

const Xor: OnnxOp = {
  infer: (ctx) => [{ dtype: 'bool', dims: broadcastOperands(ctx, ctx.operands, broadcastSizes) }],
  translate: (ctx) => {
    const [s, a, b] = [spell(ctx), ctx.value(0), ctx.value(1)];
    return [s.or(s.and(a, s.not(b)), s.and(b, s.not(a)))];
  },
};

export const formulaOps = {
  Sum: total(() => 1),
  Mean: total((count) => 1 / count),
  IsInf,
  Xor,
  Elu: activation((s, x, number) => exponential(s, x, number('alpha', 1), 1)),
  Celu: activation((s, x, number) => exponential(s, x, number('alpha', 1), number('alpha', 1))),
  Selu: activation((s, x, number) =>
    s.mul(
      exponential(s, x, number('alpha', 1.67326319217681884765625), 1),
      number('gamma', 1.05070102214813232421875),
    ),
  ),
  LeakyRelu: activation((s, x, number) => s.where(s.less(x, 0), s.mul(x, number('alpha', 0.01)), x)),
  PRelu,
  ThresholdedRelu: activation((s, x, number) => s.where(s.less(s.number(number('alpha', 1)), x), x, 0)),
  Shrink: activation((s, x, number) => {
    const [bias, bound] = [number('bias', 0), number('lambd', 0.5)];
    const high = s.where(s.less(s.number(bound), x), s.sub(x, bias), 0);
    return s.where(s.less(x, -bound), s.add(x, bias), high);
  }),
  HardSigmoid: activation((s, x, number) => hardSigmoid(s, x, number('alpha', 0.2), number('beta', 0.5))),
  HardSwish: activation((s, x) => s.mul(x, hardSigmoid(s, x, 1 / 6, 0.5))),
  Softplus: activation(softplus),
  Softsign: activation((s, x) => s.div(x, s.add(s.abs(x), 1))),
  Mish: activation((s, x) => s.mul(x, s.tanh(softplus(s, x)))),
  Swish: activation((s, x, number) => swish(s, x, number('alpha', 1))),
  SwiGLU,
  Tan: activation((s, x) => s.div(s.sin(x), s.cos(x))),
} as const satisfies Record<string, OnnxOp>;
