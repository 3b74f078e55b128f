/**
 * ONNX Runtime's fused operations (domain com.microsoft) that published models hold, taken apart.
 * Their definitions: onnxruntime/docs/ContribOperators.md.
 */
import type { Value } from '../../../graph.js';
import type { OnnxOp, OpContext, Shaped, TranslateContext } from '../context.js';
import { broadcastSizes, one, printDims } from '../shapes.js';
import { elementwiseOps } from './elementwise.js';
import { fusedAttentionOps } from './fused-attention.js';
import { contractOps, scalar, scaled } from './contract.js';
import { LayerNormalization, SimplifiedLayerNormalization } from './norm.js';

const { Gelu } = elementwiseOps;
const { MatMul } = contractOps;

const add = (ctx: TranslateContext, a: Value, b: Value): Value => ctx.build.one('add', [a, b]);
const mul = (ctx: TranslateContext, a: Value, b: Value): Value => ctx.build.one('mul', [a, b]);

/** Type and dims of the first operand, for each output. */
const likeFirst = (ctx: OpContext): readonly Shaped[] =>
  ctx.node.outputs.map(() => ({ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }));

/** The sum of the operands at some places, those that are given. */
const sumOf = (ctx: TranslateContext, ...places: readonly number[]): Value =>
  places
    .filter((i) => ctx.has(i))
    .map((i) => ctx.value(i))
    .reduce((a, b) => add(ctx, a, b));

const FastGelu: OnnxOp = {
  infer: likeFirst,
  translate: (ctx) => [ctx.build.one('gelu', [sumOf(ctx, 0, 1)], { approximate: 'tanh' })],
};

const BiasGelu: OnnxOp = {
  infer: likeFirst,
  translate: (ctx) => [ctx.build.one('gelu', [sumOf(ctx, 0, 1)], { approximate: 'none' })],
};

const QuickGelu: OnnxOp = {
  infer: likeFirst,
  translate: (ctx) => {
    const x = ctx.value(0);
    const gate = ctx.build.one('sigmoid', [scaled(ctx, x, ctx.float('alpha', 1.702))]);
    return [mul(ctx, x, gate)];
  },
};

/** A norm of the sum of its operands `input`, `skip` and a bias; the sum is its fourth result. */
const skipNorm = (norm: 'layer_norm' | 'rms_norm'): OnnxOp => ({
  infer: (ctx) => {
    const [x, skip] = [ctx.operand(0), ctx.operand(1)];
    const dims =
      broadcastSizes(x.dims, skip.dims) ??
      ctx.fail(`adds ${printDims(skip.dims)} to ${printDims(x.dims)}`, 'export the model again');
    const stat = { dtype: 'f32' as const, dims: [...dims.slice(0, -1), one] };
    return [{ dtype: x.dtype, dims }, stat, stat, { dtype: x.dtype, dims }].slice(0, ctx.node.outputs.length);
  },
  translate: (ctx) => {
    const eps = { eps: ctx.float('epsilon', norm === 'layer_norm' ? 1e-12 : 1e-5) };
    if (norm === 'rms_norm') {
      const sum = sumOf(ctx, 0, 1, 3);
      return [ctx.build.one(norm, [sum, ctx.value(2)], eps), undefined, undefined, sum];
    }
    const sum = sumOf(ctx, 0, 1, 4);
    const bias = ctx.has(3) ? ctx.value(3) : mul(ctx, ctx.value(2), scalar(ctx, 0));
    return [ctx.build.one(norm, [sum, ctx.value(2), bias], eps), undefined, undefined, sum];
  },
});

/** With operands as if transposed. */
const FusedMatMul: OnnxOp = {
  infer: (ctx) => {
    if (ctx.int('transBatchA', 0) === 1 || ctx.int('transBatchB', 0) === 1)
      ctx.fail('transposes its batch dims', 'export without runtime-specific fusions (optimize=False)');
    const turned = (index: number): Shaped => {
      const operand = ctx.operand(index);
      const { dims } = operand;
      const swaps = dims.length > 1 && ctx.int(index === 0 ? 'transA' : 'transB', 0) === 1;
      return swaps ? { ...operand, dims: [...dims.slice(0, -2), dims.at(-1)!, dims.at(-2)!] } : operand;
    };
    return MatMul.infer({ ...ctx, operand: turned });
  },
  translate: (ctx) => {
    const value = (index: number): Value => {
      const x = ctx.value(index);
      const rank = x.type.dims.length;
      if (rank < 2 || ctx.int(index === 0 ? 'transA' : 'transB', 0) !== 1) return x;
      const perm = Array.from({ length: rank }, (_, i) =>
        i < rank - 2 ? i : i === rank - 2 ? rank - 1 : rank - 2,
      );
      return ctx.build.one('transpose', [x], { perm });
    };
    const operand = (index: number): Shaped => ({
      ...ctx.operand(index),
      dims: value(index).type.dims.map((d) => d.size),
    });
    const [product] = MatMul.translate!({ ...ctx, value, operand });
    return [scaled(ctx, product!, ctx.float('alpha', 1))];
  },
};

export const contribOps = {
  FastGelu,
  BiasGelu,
  QuickGelu,
  Gelu,
  FusedMatMul,
  TransposeMatMul: FusedMatMul,
  SkipLayerNormalization: skipNorm('layer_norm'),
  SkipSimplifiedLayerNormalization: skipNorm('rms_norm'),
  SimplifiedLayerNormalization,
  LayerNormalization,
  ...fusedAttentionOps,
} as const satisfies Record<string, OnnxOp>;
