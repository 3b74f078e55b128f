/** Products, reductions and norms. */
import type { Value } from '../../../graph.js';
import { constantOf } from '../../../size.js';
import { irDtype, type OnnxOp, type OpContext, type Shaped, type TranslateContext } from '../context.js';
import { broadcastSizes, isTokens, one, printDims, type Dims } from '../shapes.js';
import { reshapeTo } from './layout.js';

const MatMul: OnnxOp = {
  infer: (ctx) => {
    const [a, b] = [ctx.operand(0), ctx.operand(1)];
    const [x, y] = [
      a.dims.length === 1 ? [one, ...a.dims] : a.dims,
      b.dims.length === 1 ? [...b.dims, one] : b.dims,
    ];
    const lead = broadcastSizes(x.slice(0, -2), y.slice(0, -2));
    if (lead === undefined || x.length < 2 || y.length < 2 || x.at(-1)!.key !== y.at(-2)!.key)
      return ctx.fail(`multiplies ${printDims(a.dims)} by ${printDims(b.dims)}`, 'export the model again');
    const rows = a.dims.length === 1 ? [] : [x.at(-2)!];
    const columns = b.dims.length === 1 ? [] : [y.at(-1)!];
    return [{ dtype: a.dtype, dims: [...lead, ...rows, ...columns] }];
  },
  translate: (ctx) => {
    const dims = (index: number): Dims => ctx.operand(index).dims;
    const a = dims(0).length === 1 ? reshapeTo(ctx, ctx.value(0), [one, ...dims(0)]) : ctx.value(0);
    const b = dims(1).length === 1 ? reshapeTo(ctx, ctx.value(1), [...dims(1), one]) : ctx.value(1);
    const rank = Math.max(a.type.dims.length, b.type.dims.length);
    const [left, right] = [a, b].map((v) => (v.type.dims.length === 2 ? v : lifted(ctx, v, rank)));
    return [reshapeTo(ctx, ctx.build.one('matmul', [left!, right!]), ctx.results[0]!.dims)];
  },
};

/** With leading dims of 1 up to a rank. */
const lifted = (ctx: TranslateContext, value: Value, rank: number): Value => {
  const dims = value.type.dims.map((d) => d.size);
  return reshapeTo(ctx, value, [...Array.from({ length: rank - dims.length }, () => one), ...dims]);
};

const Gemm: OnnxOp = {
  infer: (ctx) => {
    const [a, b] = [ctx.operand(0), ctx.operand(1)];
    const side = (x: Shaped, flag: string, at: number): Dims[number] =>
      x.dims.length === 2
        ? x.dims[ctx.int(flag, 0) === 1 ? 1 - at : at]!
        : ctx.fail(`multiplies ${printDims(x.dims)}, expected 2 dims`);
    if (side(a, 'transA', 1).key !== side(b, 'transB', 0).key)
      ctx.fail(`multiplies ${printDims(a.dims)} by ${printDims(b.dims)}`);
    return [{ dtype: a.dtype, dims: [side(a, 'transA', 0), side(b, 'transB', 1)] }];
  },
  translate: (ctx) => {
    const side = (index: number, flag: string): Value =>
      ctx.int(flag, 0) === 1
        ? ctx.build.one('transpose', [ctx.value(index)], { perm: [1, 0] })
        : ctx.value(index);
    const product = scaled(
      ctx,
      ctx.build.one('matmul', [side(0, 'transA'), side(1, 'transB')]),
      ctx.float('alpha', 1),
    );
    if (!ctx.has(2) || ctx.float('beta', 1) === 0) return [product];
    return [ctx.build.one('add', [product, scaled(ctx, ctx.value(2), ctx.float('beta', 1))])];
  },
};

export const scalar = (ctx: TranslateContext, value: number): Value =>
  ctx.build.one('constant', [], { dtype: 'f32', shape: [], data: [value] });

export const scaled = (ctx: TranslateContext, value: Value, factor: number): Value =>
  factor === 1 ? value : ctx.build.one('mul', [value, scalar(ctx, factor)]);

/** Dims a reduction runs over; undefined: it does nothing. */
export function reducedDims(ctx: OpContext, rank: number): readonly number[] | undefined {
  const axes = ctx.has(1) ? ctx.numbers(1) : (ctx.intList('axes') ?? []);
  if (axes.length > 0) return [...new Set(axes.map((axis) => ctx.axis(axis, rank)))].sort((a, b) => a - b);
  return ctx.int('noop_with_empty_axes', 0) === 1 ? undefined : Array.from({ length: rank }, (_, i) => i);
}

/** Whether a reduction runs over the keys of attention scores: recognition reads it or refuses it. */
export const isRowOfScores = (dims: Dims, reduced: readonly number[]): boolean =>
  reduced.length === 1 && dims.some((size, i) => !reduced.includes(i) && isTokens(size));

const reduction = (op: string | undefined): OnnxOp => ({
  values: [0],
  infer: (ctx) => {
    const { dtype, dims } = ctx.operand(0);
    const reduced = reducedDims(ctx, dims.length);
    if (reduced === undefined) return [{ dtype, dims }];
    const keep = ctx.int('keepdims', 1) === 1;
    return [{ dtype, dims: dims.flatMap((size, i) => (!reduced.includes(i) ? [size] : keep ? [one] : [])) }];
  },
  ...(op === undefined
    ? {}
    : {
        translate: (ctx: TranslateContext) => {
          const { dims, dtype } = ctx.operand(0);
          const reduced = reducedDims(ctx, dims.length);
          if (reduced === undefined) return [ctx.value(0)];
          if (irDtype(dtype) !== 'f32')
            ctx.fail(`reduces ${dtype} values that depend on the tokens`, 'export the model without it');
          const overTokens = reduced.some((i) => constantOf(dims[i]!) === undefined);
          if (op !== 'reduce_sum' && overTokens && !(op === 'reduce_max' && isRowOfScores(dims, reduced)))
            ctx.fail(
              'reduces over the tokens',
              'export a model with one prediction a token (no pooling head)',
            );
          return [ctx.build.one(op, [ctx.value(0)], { dims: reduced, keep: ctx.int('keepdims', 1) === 1 })];
        },
      }),
});

const Softmax: OnnxOp = {
  infer: (ctx) => [{ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }],
  translate: (ctx) => {
    const rank = ctx.operand(0).dims.length;
    const dim = ctx.axis(ctx.int('axis', ctx.opset < 13 ? 1 : -1), rank);
    if (ctx.opset < 13 && dim !== rank - 1)
      ctx.fail('flattens before it normalises, as before opset 13', 'export with opset 14 or later');
    return [ctx.build.one('softmax', [ctx.value(0)], { dim })];
  },
};

const TopK: OnnxOp = {
  infer: (ctx) => {
    const { dtype, dims } = ctx.operand(0);
    const at = ctx.axis(ctx.int('axis', -1), dims.length);
    const count = ctx.scalar(1);
    const cut = dims.map((size, i) => (i === at ? count : size));
    return [
      { dtype, dims: cut },
      { dtype: 'i64', dims: cut },
    ];
  },
  values: [0],
  translate: (ctx) => {
    const { dims } = ctx.operand(0);
    const k = constantOf(ctx.scalar(1)) ?? ctx.fail('takes a number of elements that is not constant');
    if (
      ctx.axis(ctx.int('axis', -1), dims.length) !== dims.length - 1 ||
      constantOf(dims.at(-1)!) === undefined
    )
      ctx.fail('takes elements of other dims than the last', 'only routing by features can be trained');
    if (ctx.int('largest', 1) !== 1) ctx.fail('takes the smallest elements', 'use a model without it');
    return ctx.build('top_k', [ctx.value(0)], { k });
  },
};

export const contractOps = {
  MatMul,
  Gemm,
  ReduceMean: reduction('reduce_mean'),
  ReduceSum: reduction('reduce_sum'),
  ReduceMax: reduction('reduce_max'),
  ReduceProd: reduction(undefined),
  Softmax,
  TopK,
} as const satisfies Record<string, OnnxOp>;
