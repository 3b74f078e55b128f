/** Operations that make or address values by index: understood through shapes and evaluation, not translated. */
import { constantOf, constantSize, mulSizes, addSizes } from '../../../size.js';
import { dtypeOfCode } from '../../dtype.js';
import { broadcastOperands, MAX_KNOWN, type OnnxOp, type OpContext, type Shaped } from '../context.js';
import { broadcastSizes, elementsOf, numericDims, rangeCount } from '../shapes.js';

const Shape: OnnxOp = {
  values: [],
  infer: (ctx) => {
    const { dims } = ctx.operand(0);
    const bound = (value: number): number =>
      Math.min(Math.max(value < 0 ? value + dims.length : value, 0), dims.length);
    const ints = dims.slice(bound(ctx.int('start', 0)), bound(ctx.int('end', dims.length)));
    return [{ dtype: 'i64', dims: [constantSize(ints.length)], ints }];
  },
};

const SizeOf: OnnxOp = {
  values: [],
  infer: (ctx) => [{ dtype: 'i64', dims: [], ints: [elementsOf(ctx.operand(0).dims)] }],
};

const Range: OnnxOp = {
  infer: (ctx) => {
    const [start, limit, delta] = [ctx.scalar(0), ctx.scalar(1), ctx.scalar(2)];
    const count =
      rangeCount(start, limit, delta) ??
      ctx.fail(
        `counts from ${start.key} to ${limit.key} by ${delta.key}, which is not decided for every sequence length S`,
      );
    const known = constantOf(count);
    const ints =
      known !== undefined && known <= MAX_KNOWN
        ? Array.from({ length: known }, (_, i) => addSizes(start, mulSizes(delta, i)))
        : undefined;
    return [{ dtype: ctx.operand(0).dtype, dims: [count], ints }];
  },
};

const ConstantOfShape: OnnxOp = {
  infer: (ctx) => {
    const dims = ctx.ints(0);
    const value = ctx.attribute('value');
    const tensor = value?.kind === 'tensor' ? value.value : undefined;
    const dtype = tensor?.dtype ?? 'f32';
    const element = tensor === undefined ? 0 : tensor.read().toFloat64()[0]!;
    const shape = numericDims(dims);
    const count = shape?.reduce((a, b) => a * b, 1);
    const ints =
      count !== undefined && count <= MAX_KNOWN && Number.isSafeInteger(element)
        ? Array.from({ length: count }, () => constantSize(element))
        : undefined;
    return [{ dtype, dims, ints }];
  },
};

/** Elementwise, with broadcasting. */
const elementwise: OnnxOp = {
  infer: (ctx) => [
    { dtype: ctx.operand(0).dtype, dims: broadcastOperands(ctx, ctx.operands, broadcastSizes) },
  ],
};

const EyeLike: OnnxOp = {
  infer: (ctx) => {
    const { dtype, dims } = ctx.operand(0);
    const asked = ctx.int('dtype', 0);
    const found = asked === 0 ? dtype : dtypeOfCode(asked);
    return [{ dtype: found ?? ctx.fail(`makes an unknown type ${asked}`), dims }];
  },
};

const CumSum: OnnxOp = { infer: (ctx) => [same(ctx)] };
const Trilu: OnnxOp = { infer: (ctx) => [same(ctx)] };

/** Type and dims of the first operand. */
const same = (ctx: OpContext): Shaped => ({ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims });

export const generateOps = {
  Shape,
  Size: SizeOf,
  Range,
  ConstantOfShape,
  CumSum,
  CumProd: CumSum,
  Hardmax: CumSum,
  EyeLike,
  BitwiseAnd: elementwise,
  BitwiseOr: elementwise,
  BitwiseXor: elementwise,
  BitwiseNot: elementwise,
  Sinh: elementwise,
  Cosh: elementwise,
  Asin: elementwise,
  Acos: elementwise,
  Atan: elementwise,
  Asinh: elementwise,
  Acosh: elementwise,
  Atanh: elementwise,
  Trilu,
} as const satisfies Record<string, OnnxOp>;
