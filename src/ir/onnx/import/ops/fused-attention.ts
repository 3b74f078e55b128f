/** ONNX Runtime's fused attention, rotary embedding and input embedding (domain com.microsoft), taken apart. */
import type { Value } from '../../../graph.js';
import { constantOf, constantSize } from '../../../size.js';
import type { OnnxOp, OpContext, Shaped, TranslateContext } from '../context.js';
import { printDims, type Dims } from '../shapes.js';
import { attend, constantDim, headsFirst, rotate, rowsOf, splitHeads, tokensFirst } from './attention.js';
import { scalar } from './contract.js';

const add = (ctx: TranslateContext, a: Value, b: Value): Value => ctx.build.one('add', [a, b]);

/** Type and dims of the first operand, for each output. */
const likeFirst = (ctx: OpContext): readonly Shaped[] =>
  ctx.node.outputs.map(() => ({ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }));

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

/** Whether a value is one number everywhere, and not 0. */
function isAllSet(value: Value): boolean {
  let { node } = value;
  while (['broadcast', 'reshape', 'cast'].includes(node.op)) node = node.operands[0]!.node;
  return node.op === 'constant' && (node.attrs['data'] as readonly number[]).every((x) => x !== 0);
}

/** How many tokens a mask [1, S] shows: i32[1]. */
function countOf(ctx: TranslateContext, mask: Value): Value {
  const numbers = ctx.build.one('cast', [mask], { to: 'f32' });
  const sum = ctx.build.one('reduce_sum', [numbers], { dims: [1], keep: false });
  return ctx.build.one('cast', [sum], { to: 'i32' });
}

/** Whether a value counts all tokens. */
function isCountOfAll({ node }: Value): boolean {
  const sum = node.op === 'cast' ? node.operands[0]!.node : node;
  return sum.op === 'reduce_sum' && isAllSet(sum.operands[0]!);
}

/** A padding mask, [1, S] or how many tokens are none, hides nothing: packed documents have no padding. */
function refuseHidden(ctx: TranslateContext, index: number): void {
  if (!ctx.has(index)) return;
  const hides =
    ctx.operand(index).dims.length === 2 ? !isAllSet(ctx.value(index)) : !isCountOfAll(ctx.value(index));
  if (hides)
    ctx.fail(
      `reads a padding mask ('${ctx.node.inputs[index]}') that is not all ones`,
      'pass attention_mask as the 2-D padding mask of the tokens',
    );
}

const MultiHeadAttention: OnnxOp = {
  infer: (ctx) => {
    refuseOperands(ctx, { 6: 'a KV cache', 7: 'a KV cache' });
    const [q, v] = [ctx.operand(0), ctx.has(2) ? ctx.operand(2) : undefined];
    if (q.dims.length !== 3 || v?.dims.length !== 3 || ctx.operand(1).dims.length !== 3)
      return ctx.fail('packs q, k and v', 'export with them apart, or without runtime-specific fusions');
    return [{ dtype: q.dtype, dims: [q.dims[0]!, q.dims[1]!, v.dims[2]!] }, ...cacheOutputs(ctx)];
  },
  values: [0, 1, 2, 3, 4, 5],
  translate: (ctx) => {
    refuseHidden(ctx, 4);
    const heads = ctx.int('num_heads', 0);
    let start = 0;
    const [q, k, v] = [0, 1, 2].map((i) => {
      const x = ctx.value(i);
      const width = constantDim(ctx, ctx.operand(i).dims[2], 'the hidden size');
      const biased = ctx.has(3) ? add(ctx, x, cut(ctx, ctx.value(3), start, (start += width))) : x;
      return headsFirst(ctx, splitHeads(ctx, biased, heads));
    }) as [Value, Value, Value];
    const { out } = attend(ctx, q, k, v, {
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

/** A sink of each head, `[heads]`; without one, a smooth softmax has a sink of 0. */
function sinkOf(ctx: TranslateContext, heads: number): Value | undefined {
  if (!ctx.has(11)) return ctx.int('smooth_softmax', 0) === 1 ? scalar(ctx, 0) : undefined;
  const { dims } = ctx.operand(11);
  if (dims.length !== 1 || constantOf(dims[0]!) !== heads)
    ctx.fail(`has sinks of ${printDims(dims)}, expected one for each of ${heads} heads`);
  return ctx.value(11);
}

const GroupQueryAttention: OnnxOp = {
  values: [0, 1, 2, 7, 8, 9, 10, 11],
  infer: (ctx) => {
    refuseOperands(ctx, {
      3: 'a KV cache that is not empty',
      4: 'a KV cache that is not empty',
      12: 'a quantised KV cache',
      13: 'a quantised KV cache',
    });
    const q = ctx.operand(0);
    const [heads, kvHeads] = [ctx.int('num_heads', 0), ctx.int('kv_num_heads', 0)];
    const width = constantDim(ctx, q.dims[2], 'the hidden size');
    const hidden = ctx.has(1) ? width : (width / (heads + 2 * kvHeads)) * heads;
    if (!Number.isInteger(hidden / heads)) ctx.fail(`has ${heads} heads for a hidden size of ${width}`);
    return [{ dtype: q.dtype, dims: [q.dims[0]!, q.dims[1]!, constantSize(hidden)] }, ...cacheOutputs(ctx)];
  },
  translate: (ctx) => {
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
    const { out } = attend(ctx, headsFirst(ctx, rotatedQ), headsFirst(ctx, rotatedK), headsFirst(ctx, v), {
      scale: ctx.float('scale', 0),
      softcap: ctx.float('softcap', 0),
      added: ctx.has(10) ? ctx.additiveMask(10) : undefined,
      causal: true,
      window: window > 0 ? window : undefined,
      sink: sinkOf(ctx, heads),
    });
    return [mergeHeads(ctx, tokensFirst(ctx, out))];
  },
};

/** q, k and v of x·w + b, side by side. */
const Attention: OnnxOp = {
  values: [0, 1, 2, 3, 5],
  infer: (ctx) => {
    refuseOperands(ctx, { 4: 'a KV cache', 6: 'a KV cache' });
    if (ctx.operand(0).dims.length !== 3)
      ctx.fail('reads no [batch, tokens, hidden]', 'export the model again');
    if (ctx.int('do_rotary', 0) === 1)
      ctx.fail('rotates without a table', 'export without runtime-specific fusions (optimize=False)');
    const { dtype, dims } = ctx.operand(0);
    const width = headWidths(ctx)[2] * ctx.int('num_heads', 0);
    return [{ dtype, dims: [...dims.slice(0, 2), constantSize(width)] }, ...cacheOutputs(ctx)];
  },
  translate: (ctx) => {
    refuseHidden(ctx, 3);
    const heads = ctx.int('num_heads', 0);
    const product = ctx.build.one('matmul', [ctx.value(0), ctx.value(1)]);
    const packed = ctx.has(2) ? add(ctx, product, ctx.value(2)) : product;
    let start = 0;
    const [q, k, v] = headWidths(ctx).map((width) =>
      headsFirst(ctx, splitHeads(ctx, cut(ctx, packed, start, (start += width * heads)), heads)),
    ) as [Value, Value, Value];
    const { out } = attend(ctx, q, k, v, {
      scale: ctx.float('scale', 0),
      softcap: 0,
      added: ctx.has(5) ? ctx.additiveMask(5) : undefined,
      causal: ctx.int('unidirectional', 0) === 1,
      window: undefined,
    });
    return [mergeHeads(ctx, tokensFirst(ctx, out))];
  },
};

/** Head sizes of q, k and v. */
function headWidths(ctx: OpContext): readonly [number, number, number] {
  const total = constantDim(ctx, ctx.operand(1).dims[1], 'the width of its weight');
  const given = ctx.intList('qkv_hidden_sizes') ?? [total / 3, total / 3, total / 3];
  const widths = given.map((width) => width / ctx.int('num_heads', 0));
  if (given.length !== 3 || given.reduce((a, b) => a + b, 0) !== total || !widths.every(Number.isInteger))
    ctx.fail(`splits ${total} columns into [${given.join(', ')}] over ${ctx.int('num_heads', 0)} heads`);
  return widths as unknown as readonly [number, number, number];
}

/** The norm of word, position and segment embeddings; the sum is its third result. */
const EmbedLayerNormalization: OnnxOp = {
  infer: (ctx) => {
    const [ids, words] = [ctx.operand(0), ctx.operand(2)];
    const dims = [...ids.dims, constantSize(constantDim(ctx, words.dims[1], 'the width of its table'))];
    return [
      { dtype: words.dtype, dims },
      { dtype: 'i32', dims: ids.dims.slice(0, 1) },
      { dtype: words.dtype, dims },
    ].slice(0, ctx.node.outputs.length) as readonly Shaped[];
  },
  values: [0, 1, 2, 3, 4, 5, 6, 7, 8],
  translate: (ctx) => {
    const places = ctx.has(8)
      ? rowsOf(ctx, ctx.value(3), ctx.value(8), ctx.positionOffset(8))
      : rowsOf(ctx, ctx.value(3), ctx.positions(), 0);
    const words = ctx.build.one('gather', [ctx.value(2), ctx.value(0)]);
    const placed = add(ctx, words, places);
    const sum =
      ctx.has(1) && ctx.has(4)
        ? add(ctx, placed, ctx.build.one('gather', [ctx.value(4), ctx.value(1)]))
        : placed;
    const eps = ctx.float('epsilon', 1e-12);
    const norm = ctx.build.one('layer_norm', [sum, ctx.value(5), ctx.value(6)], { eps });
    return [norm, ctx.has(7) ? countOf(ctx, ctx.value(7)) : undefined, sum];
  },
};

export const fusedAttentionOps = {
  RotaryEmbedding,
  MultiHeadAttention,
  GroupQueryAttention,
  Attention,
  EmbedLayerNormalization,
} as const satisfies Record<string, OnnxOp>;
