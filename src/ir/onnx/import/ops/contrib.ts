/**
 * ONNX Runtime's fused operations (domain com.microsoft) that published models hold, taken apart.
 * Their definitions: onnxruntime/docs/ContribOperators.md.
 */
import type { Value } from '../../../graph.js';
import { constantOf, constantSize } from '../../../size.js';
import type { OnnxOp, OpContext, Shaped, TranslateContext } from '../context.js';
import { broadcastSizes, one, printDims, type Dims } from '../shapes.js';
import { attend, constantDim, headsFirst, rotate, rowsOf, splitHeads, tokensFirst } from './attention.js';
import { elementwiseOps } from './elementwise.js';
import { contractOps, scalar, scaled } from './contract.js';

const { Gelu } = elementwiseOps;
const { MatMul, LayerNormalization, RMSNormalization } = contractOps;

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

/** Rows of a rotary table for the tokens: at `index`, or, where it holds one offset, at their positions after it. */
function tableRows(ctx: TranslateContext, table: number, index: number): Value {
  if (!ctx.has(index) || ctx.operand(index).dims.length < 2) {
    const offset = ctx.has(index) ? constantOf(ctx.scalar(index)) : 0;
    if (offset === undefined) return ctx.fail('rotates by an offset that is not constant');
    const positions = ctx.positions();
    const at =
      offset === 0
        ? positions
        : add(ctx, positions, ctx.build.one('constant', [], { dtype: 'i32', shape: [], data: [offset] }));
    return rowsOf(ctx, ctx.value(table), at, offset);
  }
  return rowsOf(ctx, ctx.value(table), ctx.value(index), ctx.positionOffset(index));
}

const RotaryEmbedding: OnnxOp = {
  infer: likeFirst,
  translate: (ctx) => {
    if (ctx.float('scale', 1) !== 1 || ctx.int('is_packed_batching', 0) === 1)
      ctx.fail('scales or packs what it rotates', 'export with opset 23, whose RotaryEmbedding is plain');
    const { dims } = ctx.operand(0);
    const heads = dims.length === 3;
    const width = constantDim(ctx, ctx.operand(2).dims[1], 'the width of its table') * 2;
    const count = ctx.int('num_heads', 0) || constantDim(ctx, dims.at(-1), 'the hidden size') / width;
    const x = heads ? splitHeads(ctx, ctx.value(0), count) : tokensFirst(ctx, ctx.value(0));
    const angles = { cos: tableRows(ctx, 2, 1), sin: tableRows(ctx, 3, 1) };
    const turned = rotate(ctx, x, angles, {
      interleaved: ctx.int('interleaved', 0) === 1,
      width: ctx.int('rotary_embedding_dim', 0) || width,
    });
    return [heads ? mergeHeads(ctx, turned) : headsFirst(ctx, turned)];
  },
};

/** [1, S, H, D] as [1, S, H·D]. */
function mergeHeads(ctx: TranslateContext, x: Value): Value {
  const [batch, tokens, heads, size] = x.type.dims.map((d) => d.size);
  const hidden = constantDim(ctx, heads, 'the number of heads') * constantDim(ctx, size, 'the head size');
  return ctx.build.one('reshape', [x], { shape: [batch!, tokens!, hidden] });
}

/** Operands of these places, which only a cache or padding needs, are absent. */
function refuseOperands(ctx: OpContext, places: Readonly<Record<number, string>>): void {
  for (const [place, what] of Object.entries(places))
    if (ctx.has(Number(place)) && !isEmpty(ctx.operand(Number(place)).dims))
      ctx.fail(
        `reads ${what}`,
        'export the model without a KV cache (use_cache=False), in eager attention mode',
      );
}

const isEmpty = (dims: Dims): boolean => dims.some((size) => constantOf(size) === 0);

const cut = (ctx: TranslateContext, x: Value, start: number, end: number): Value =>
  ctx.build.one('slice', [x], { dim: x.type.dims.length - 1, start, end, step: 1 });

const MultiHeadAttention: OnnxOp = {
  infer: (ctx) => {
    refuseOperands(ctx, { 4: 'a padding mask', 6: 'a KV cache', 7: 'a KV cache' });
    const [q, v] = [ctx.operand(0), ctx.has(2) ? ctx.operand(2) : undefined];
    if (q.dims.length !== 3 || v?.dims.length !== 3 || ctx.operand(1).dims.length !== 3)
      return ctx.fail('packs q, k and v', 'export with them apart, or without runtime-specific fusions');
    return [{ dtype: q.dtype, dims: [q.dims[0]!, q.dims[1]!, v.dims[2]!] }, ...cacheOutputs(ctx)];
  },
  translate: (ctx) => {
    const heads = ctx.int('num_heads', 0);
    let start = 0;
    const [q, k, v] = [0, 1, 2].map((i) => {
      const x = ctx.value(i);
      const width = constantDim(ctx, ctx.operand(i).dims[2], 'the hidden size');
      const biased = ctx.has(3) ? add(ctx, x, cut(ctx, ctx.value(3), start, (start += width))) : x;
      return headsFirst(ctx, splitHeads(ctx, biased, heads));
    }) as [Value, Value, Value];
    const out = attend(ctx, q, k, v, {
      scale: ctx.float('scale', 0),
      softcap: 0,
      added: ctx.has(5) ? ctx.additiveMask(5) : undefined,
      causal: ctx.int('unidirectional', 0) === 1,
      window: undefined,
    });
    return [mergeHeads(ctx, tokensFirst(ctx, out))];
  },
};

/** Keys and values as the next step would need them: types only, nothing may read them. */
const cacheOutputs = (ctx: OpContext): readonly Shaped[] =>
  ctx.node.outputs.slice(1).map(() => ({ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }));

const GroupQueryAttention: OnnxOp = {
  values: [0, 1, 2, 7, 8, 9, 10],
  infer: (ctx) => {
    refuseOperands(ctx, {
      3: 'a KV cache that is not empty',
      4: 'a KV cache that is not empty',
      11: 'attention sinks',
    });
    const q = ctx.operand(0);
    const [heads, kvHeads] = [ctx.int('num_heads', 0), ctx.int('kv_num_heads', 0)];
    const width = constantDim(ctx, q.dims[2], 'the hidden size');
    const hidden = ctx.has(1) ? width : (width / (heads + 2 * kvHeads)) * heads;
    if (!Number.isInteger(hidden / heads)) ctx.fail(`has ${heads} heads for a hidden size of ${width}`);
    return [{ dtype: q.dtype, dims: [q.dims[0]!, q.dims[1]!, constantSize(hidden)] }, ...cacheOutputs(ctx)];
  },
  translate: (ctx) => {
    if (ctx.int('smooth_softmax', 0) === 1)
      ctx.fail('has attention sinks (smooth_softmax)', 'use a model without');
    const [heads, kvHeads] = [ctx.int('num_heads', 0), ctx.int('kv_num_heads', 0)];
    const size = constantDim(ctx, ctx.results[0]!.dims[2], 'the hidden size') / heads;
    const packed = ctx.value(0);
    const part = (i: number, count: number, start: number): Value =>
      splitHeads(
        ctx,
        ctx.has(1) ? ctx.value(i) : cut(ctx, packed, start * size, (start + count) * size),
        count,
      );
    const [q, k, v] = [part(0, heads, 0), part(1, kvHeads, heads), part(2, kvHeads, heads + kvHeads)];
    const turned = (x: Value): Value => {
      if (ctx.int('do_rotary', 0) === 0) return x;
      const width = constantDim(ctx, ctx.operand(7).dims[1], 'the width of its table') * 2;
      const angles = { cos: tableRows(ctx, 7, 9), sin: tableRows(ctx, 8, 9) };
      return rotate(ctx, x, angles, { interleaved: ctx.int('rotary_interleaved', 0) === 1, width });
    };
    const window = ctx.int('local_window_size', -1);
    const [rotatedQ, rotatedK] = [turned(q), turned(k)];
    const out = attend(ctx, headsFirst(ctx, rotatedQ), headsFirst(ctx, rotatedK), headsFirst(ctx, v), {
      scale: ctx.float('scale', 0),
      softcap: ctx.float('softcap', 0),
      added: ctx.has(10) ? ctx.additiveMask(10) : undefined,
      causal: true,
      window: window > 0 ? window : undefined,
    });
    return [mergeHeads(ctx, tokensFirst(ctx, out))];
  },
};

/** ONNX Runtime's own name, in whichever domain, for what opset 23 calls RMSNormalization. */
export const SimplifiedLayerNormalization: OnnxOp = {
  infer: (ctx) => {
    const [result] = RMSNormalization.infer(ctx);
    return [result!, { dtype: 'f32', dims: [...result!.dims.slice(0, -1), one] }];
  },
  translate: RMSNormalization.translate!,
};

export const contribOps = {
  FastGelu,
  BiasGelu,
  QuickGelu,
  Gelu,
  FusedMatMul,
  SkipLayerNormalization: skipNorm('layer_norm'),
  SkipSimplifiedLayerNormalization: skipNorm('rms_norm'),
  SimplifiedLayerNormalization,
  LayerNormalization,
  RotaryEmbedding,
  MultiHeadAttention,
  GroupQueryAttention,
} as const satisfies Record<string, OnnxOp>;
