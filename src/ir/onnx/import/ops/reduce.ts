/** Reductions that the IR spells in several operations, and what picks the largest elements. */
import type { Value } from '../../../graph.js';
import { constantOf } from '../../../size.js';
import { irDtype, type OnnxOp, type OpContext, type TranslateContext } from '../context.js';
import { one, type Dims } from '../shapes.js';
import { isRowOfScores, reducedDims } from './contract.js';
import { reshapeTo } from './layout.js';
import { spell, type Spelling } from './spell.js';

/** A sum, or what is made of one: `formula` of the operand and of a sum over the reduced dims, which stay as 1. */
const summing = (formula: (s: Spelling, x: Value, sum: (x: Value) => Value) => Value): OnnxOp => ({
  values: [0],
  infer: (ctx) => {
    const { dtype, dims } = ctx.operand(0);
    const reduced = reducedDims(ctx, dims.length) ?? [];
    return [{ dtype, dims: leftOver(ctx, dims, reduced) }];
  },
  translate: (ctx) => {
    const { dims, dtype } = ctx.operand(0);
    const reduced = reducedDims(ctx, dims.length) ?? [];
    if (irDtype(dtype) !== 'f32')
      ctx.fail(`reduces ${dtype} values that depend on the tokens`, 'export the model without it');
    if (reduced.some((i) => constantOf(dims[i]!) === undefined))
      ctx.fail('reduces over the tokens', 'export a model with one prediction a token (no pooling head)');
    const s = spell(ctx);
    const sum = (x: Value): Value => (reduced.length === 0 ? x : s.sum(x, reduced));
    return [reshapeTo(ctx, formula(s, ctx.value(0), sum), ctx.results[0]!.dims)];
  },
});

const leftOver = (ctx: OpContext, dims: Dims, reduced: readonly number[]): Dims => {
  const keep = ctx.int('keepdims', 1) === 1;
  return dims.flatMap((size, i) => (!reduced.includes(i) ? [size] : keep ? [one] : []));
};

/** log Σ eˣ over dims that the caller keeps as 1; shifted by the largest element, to which no cotangent flows in sum. */
function logSumExp(ctx: TranslateContext, x: Value, dims: readonly number[]): Value {
  const s = spell(ctx);
  const most = largest(ctx, x, dims);
  return s.add(most, s.log(s.sum(s.exp(s.sub(x, most)), dims)));
}

/** The largest element over dims of constant size, which stay as 1. It passes its cotangent to the first of them. */
export function largest(ctx: TranslateContext, x: Value, dims: readonly number[]): Value {
  const sizes = x.type.dims.map(({ size }) => size);
  const others = sizes.flatMap((_, i) => (dims.includes(i) ? [] : [i]));
  const count = dims.reduce((product, i) => product * (constantOf(sizes[i]!) ?? 0), 1);
  if (count === 0)
    return ctx.fail('takes the largest of the tokens, or of none', 'use a model without such a pooling');
  const turned = ctx.build.one('transpose', [x], { perm: [...others, ...dims] });
  const flat = ctx.build.one('reshape', [turned], {
    shape: [...others.map((i) => constantOf(sizes[i]!) ?? sizes[i]!), count],
  });
  const [values] = ctx.build('top_k', [flat], { k: 1 });
  return reshapeTo(
    ctx,
    values!,
    sizes.map((size, i) => (dims.includes(i) ? one : size)),
  );
}

/** Where the largest element of a dim of constant size stands, the first of equal ones; the dim stays as 1. */
export function placeOfLargest(ctx: TranslateContext, x: Value, dim: number): Value {
  const sizes = x.type.dims.map(({ size }) => size);
  const others = [...sizes.keys()].filter((i) => i !== dim);
  const turned = ctx.build.one('transpose', [x], { perm: [...others, dim] });
  const [, places] = ctx.build('top_k', [turned], { k: 1 });
  return reshapeTo(
    ctx,
    places!,
    sizes.map((size, i) => (i === dim ? one : size)),
  );
}

const ReduceLogSumExp: OnnxOp = {
  ...summing((s, x, sum) => s.log(sum(s.exp(x)))),
  translate: (ctx) => {
    const { dims, dtype } = ctx.operand(0);
    if (irDtype(dtype) !== 'f32') ctx.fail(`reduces ${dtype} values that depend on the tokens`);
    const reduced = reducedDims(ctx, dims.length) ?? [];
    if (reduced.some((i) => constantOf(dims[i]!) === undefined) && isRowOfScores(dims, reduced))
      return [
        ctx.build.one('log_sum_exp', [ctx.value(0)], { dims: reduced, keep: ctx.int('keepdims', 1) === 1 }),
      ];
    const result = reduced.length === 0 ? ctx.value(0) : logSumExp(ctx, ctx.value(0), reduced);
    return [reshapeTo(ctx, result, ctx.results[0]!.dims)];
  },
};

const LogSoftmax: OnnxOp = {
  infer: (ctx) => [{ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }],
  translate: (ctx) => {
    const rank = ctx.operand(0).dims.length;
    const dim = ctx.axis(ctx.int('axis', ctx.opset < 13 ? 1 : -1), rank);
    if (ctx.opset < 13 && dim !== rank - 1)
      ctx.fail('flattens before it normalises, as before opset 13', 'export with opset 14 or later');
    return [spell(ctx).sub(ctx.value(0), logSumExp(ctx, ctx.value(0), [dim]))];
  },
};

const LpNormalization: OnnxOp = {
  infer: (ctx) => [{ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }],
  translate: (ctx) => {
    const { dims } = ctx.operand(0);
    const [at, p] = [ctx.axis(ctx.int('axis', -1), dims.length), ctx.int('p', 2)];
    if (constantOf(dims[at]!) === undefined)
      ctx.fail('normalises over the tokens', 'use a model that normalises over features');
    if (p !== 1 && p !== 2) ctx.fail(`p is ${p}, expected 1 or 2`, 'export the model again');
    const [s, x] = [spell(ctx), ctx.value(0)];
    const total = s.sum(p === 1 ? s.abs(x) : s.mul(x, x), [at]);
    // A row of zeros stays one, and no cotangent is divided by 0.
    const none = s.equal(total, 0);
    const safe = s.where(none, 1, total);
    return [s.div(x, p === 1 ? safe : s.sqrt(safe))];
  },
};

const ReduceMin: OnnxOp = {
  ...summing((_, x) => x),
  translate: (ctx) => {
    const { dims, dtype } = ctx.operand(0);
    const reduced = reducedDims(ctx, dims.length);
    if (irDtype(dtype) !== 'f32') ctx.fail(`reduces ${dtype} values that depend on the tokens`);
    if (reduced === undefined || reduced.length === 0) return [ctx.value(0)];
    const s = spell(ctx);
    return [reshapeTo(ctx, s.neg(largest(ctx, s.neg(ctx.value(0)), reduced)), ctx.results[0]!.dims)];
  },
};

export const reduceOps = {
  ReduceL1: summing((s, x, sum) => sum(s.abs(x))),
  ReduceL2: summing((s, x, sum) => s.sqrt(sum(s.mul(x, x)))),
  ReduceLogSum: summing((s, x, sum) => s.log(sum(x))),
  ReduceSumSquare: summing((s, x, sum) => sum(s.mul(x, x))),
  ReduceLogSumExp,
  LogSoftmax,
  LpNormalization,
  ReduceMin,
} as const satisfies Record<string, OnnxOp>;
