/** Attention and rotary embedding of opset 23, spelled out in plain operations: recognition reads those. */
import type { Value } from '../../../graph.js';
import { constantOf, constantSize, mulSizes, type Size } from '../../../size.js';
import type { OnnxOp, OpContext, TranslateContext } from '../context.js';
import { one, printDims, type Dims } from '../shapes.js';
import { scaled } from './contract.js';
import { broadcastTo } from './elementwise.js';
import { reshapeTo } from './layout.js';
import { gatherRows } from './select.js';

const half = (ctx: OpContext, size: number): number =>
  size % 2 === 0 ? size / 2 : ctx.fail(`rotates ${size} elements, expected an even number`);

export const constantDim = (ctx: OpContext, size: Size | undefined, what: string): number =>
  (size === undefined ? undefined : constantOf(size)) ??
  ctx.fail(`${what} is not constant`, 'export the model with it fixed');

const cut = (ctx: TranslateContext, x: Value, start: number, end: number, step = 1): Value =>
  ctx.build.one('slice', [x], { dim: x.type.dims.length - 1, start, end, step });

const sizesOf = (value: Value): Dims => value.type.dims.map((d) => d.size);

/** Rows of a rotary table at ids, `offset` after the positions where that is what they are. */
export function rowsOf(ctx: TranslateContext, table: Value, ids: Value, offset: number | undefined): Value {
  return gatherRows(ctx, table, ids, offset);
}

/** Cosines and sines of each token: [1, S, D/2] or [S, D/2]. */
interface Angles {
  readonly cos: Value;
  readonly sin: Value;
}

interface Rotation {
  readonly interleaved: boolean;
  /** Elements of a head that are rotated, the first ones. */
  readonly width: number;
}

/** x[1, S, H, D], its pairs turned by the angles of their token. */
export function rotate(
  ctx: TranslateContext,
  x: Value,
  angles: Angles,
  { interleaved, width }: Rotation,
): Value {
  const [batch, tokens, , head] = sizesOf(x);
  const size = constantDim(ctx, head, 'the head size');
  const middle = half(ctx, width);
  if (width > size) ctx.fail(`rotates ${width} elements of heads of ${size}`);
  const [cos, sin] = [angles.cos, angles.sin].map((angle) => {
    const dims = sizesOf(angle);
    if (dims.length > 3 || constantOf(dims.at(-1)!) !== middle)
      ctx.fail(`has angles of ${printDims(dims)}, expected [batch, tokens, ${middle}]`);
    return reshapeTo(ctx, angle, [batch!, tokens!, one, constantSize(middle)]);
  }) as [Value, Value];
  const a = interleaved ? cut(ctx, x, 0, width, 2) : cut(ctx, x, 0, middle);
  const b = interleaved ? cut(ctx, x, 1, width, 2) : cut(ctx, x, middle, width);
  const mul = (u: Value, v: Value): Value => ctx.build.one('mul', [u, v]);
  const real = ctx.build.one('sub', [mul(a, cos), mul(b, sin)]);
  const imaginary = ctx.build.one('add', [mul(a, sin), mul(b, cos)]);
  const turned = interleaved ? interleave(ctx, real, imaginary) : join(ctx, [real, imaginary]);
  return width === size ? turned : join(ctx, [turned, cut(ctx, x, width, size)]);
}

const RotaryEmbedding: OnnxOp = {
  infer: (ctx) => [{ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }],
  translate: (ctx) => {
    const { dims } = ctx.operand(0);
    const flat = dims.length === 3;
    const x = flat ? splitHeads(ctx, ctx.value(0), ctx.int('num_heads', 0)) : tokensFirst(ctx, ctx.value(0));
    const angle = (index: number): Value =>
      ctx.has(3) ? rowsOf(ctx, ctx.value(index), ctx.value(3), ctx.positionOffset(3)) : ctx.value(index);
    const asked = ctx.int('rotary_embedding_dim', 0);
    const turned = rotate(
      ctx,
      x,
      { cos: angle(1), sin: angle(2) },
      {
        interleaved: ctx.int('interleaved', 0) === 1,
        width: asked === 0 ? constantDim(ctx, sizesOf(x).at(-1), 'the head size') : asked,
      },
    );
    return [flat ? reshapeTo(ctx, turned, dims) : headsFirst(ctx, turned)];
  },
};

const swapped = (ctx: TranslateContext, x: Value): Value =>
  ctx.build.one('transpose', [x], { perm: [0, 2, 1, 3] });

/** [1, H, S, D] as [1, S, H, D]. */
export const tokensFirst = swapped;

/** [1, S, H, D] as [1, H, S, D]. */
export const headsFirst = swapped;

const join = (ctx: TranslateContext, parts: readonly Value[]): Value =>
  ctx.build.one('concat', parts, { dim: parts[0]!.type.dims.length - 1 });

/** [a₀, b₀, a₁, b₁, …] along the last dim. */
function interleave(ctx: TranslateContext, a: Value, b: Value): Value {
  const dims = sizesOf(a);
  const pairs = join(ctx, [reshapeTo(ctx, a, [...dims, one]), reshapeTo(ctx, b, [...dims, one])]);
  return reshapeTo(ctx, pairs, [...dims.slice(0, -1), mulSizes(dims.at(-1)!, 2)]);
}

/** [1, S, H·D] as [1, S, H, D]. */
export function splitHeads(ctx: TranslateContext, x: Value, heads: number): Value {
  const [batch, tokens, hidden] = sizesOf(x);
  const size = constantDim(ctx, hidden, 'the hidden size') / heads;
  if (heads < 1 || !Number.isInteger(size))
    ctx.fail(`has ${heads} heads for a hidden size of ${hidden?.key}`);
  return reshapeTo(ctx, x, [batch!, tokens!, constantSize(heads), constantSize(size)]);
}

/** q, k or v as [1, H, S, D]. */
function heads(ctx: TranslateContext, index: number, attribute: string): Value {
  const x = ctx.value(index);
  if (x.type.dims.length === 4) return x;
  return ctx.build.one('transpose', [splitHeads(ctx, x, ctx.int(attribute, 0))], { perm: [0, 2, 1, 3] });
}

/** K/V heads repeated so that query head h reads head ⌊h·Hkv/H⌋. */
function repeated(ctx: TranslateContext, x: Value, queryHeads: number): Value {
  const [batch, kv, tokens, size] = sizesOf(x) as [Size, Size, Size, Size];
  const kvHeads = constantDim(ctx, kv, 'the number of K/V heads');
  if (kvHeads === queryHeads) return x;
  if (queryHeads % kvHeads !== 0) ctx.fail(`has ${queryHeads} query heads for ${kvHeads} K/V heads`);
  const groups = constantSize(queryHeads / kvHeads);
  const open = broadcastTo(ctx, reshapeTo(ctx, x, [batch, kv, one, tokens, size]), [
    batch,
    kv,
    groups,
    tokens,
    size,
  ]);
  return reshapeTo(ctx, open, [batch, constantSize(queryHeads), tokens, size]);
}

interface Scoring {
  /** 0: 1 / √(head size). */
  readonly scale: number;
  /** 0: none. Scores s become c · tanh(s / c), before they are masked. */
  readonly softcap: number;
  readonly added: Value | undefined;
  readonly causal: boolean;
  /** Keys a query sees, its own included; only where causal. */
  readonly window: number | undefined;
  /** Beside the scores of a row in its softmax, without a value: one number a head, [H], or one for all. */
  readonly sink?: Value | undefined;
}

interface Attended {
  /** [1, H, S, Dv] */
  readonly out: Value;
  /** [1, H, S, S]: the scaled products, after the cap, after the masks, after softmax. */
  readonly scores: readonly [product: Value, capped: Value, masked: Value, weights: Value];
}

/** softmax(q·kᵀ)·v of q[1, H, S, D], k[1, Hkv, S, D] and v[1, Hkv, S, Dv], spelled out. */
export function attend(ctx: TranslateContext, q: Value, k: Value, v: Value, scoring: Scoring): Attended {
  const { build } = ctx;
  const queryHeads = constantDim(ctx, sizesOf(q)[1], 'the number of heads');
  const size = constantDim(ctx, sizesOf(q)[3], 'the head size');
  const [keys, values] = [k, v].map((x) => repeated(ctx, x, queryHeads)) as [Value, Value];
  const turned = build.one('transpose', [keys], { perm: [0, 1, 3, 2] });
  const scale = scoring.scale === 0 ? 1 / Math.sqrt(size) : scoring.scale;
  const product = scaled(ctx, build.one('matmul', [q, turned]), scale);
  const capped =
    scoring.softcap === 0
      ? product
      : scaled(ctx, build.one('tanh', [scaled(ctx, product, 1 / scoring.softcap)]), scoring.softcap);
  let masked = scoring.added === undefined ? capped : build.one('add', [capped, scoring.added]);
  if (scoring.causal) {
    const [, , rows, columns] = sizesOf(product) as [Size, Size, Size, Size];
    masked = build.one('add', [masked, ctx.causalMask([one, one, rows, columns], scoring.window)]);
  }
  const alone = guarded(ctx, build.one('softmax', [masked], { dim: 3 }), scoring.added);
  const weights = scoring.sink === undefined ? alone : withSink(ctx, alone, masked, scoring.sink);
  return { out: build.one('matmul', [weights, values]), scores: [product, capped, masked, weights] };
}

/** Softmax's weights less what a sink takes of each row: recognition reads the product as attention. */
function withSink(ctx: TranslateContext, weights: Value, scores: Value, sink: Value): Value {
  const { build } = ctx;
  const perHead = sink.type.dims.length === 0 ? sink : reshapeTo(ctx, sink, [sizesOf(sink)[0]!, one, one]);
  const sum = build.one('log_sum_exp', [scores], { dims: [3], keep: true });
  return build.one('mul', [weights, build.one('sigmoid', [build.one('sub', [sum, perHead])])]);
}

/** A row that an unknown mask hides whole has weights of 0. Recognised masks hide no row whole. */
function guarded(ctx: TranslateContext, weights: Value, mask: Value | undefined): Value {
  if (mask === undefined || mask.node.attrs['form'] === 'mask') return weights;
  const zero = ctx.build.one('constant', [], { dtype: 'f32', shape: [], data: [0] });
  return ctx.build.one('where', [ctx.build.one('is_nan', [weights]), zero, weights]);
}

/** q, k or v's dims as [1, H, S, D]. */
function headDims(ctx: OpContext, index: number, attribute: string): Dims {
  const { dims } = ctx.operand(index);
  if (dims.length === 4) return dims;
  const [count, width] = [ctx.int(attribute, 0), constantDim(ctx, dims[2], 'the hidden size')];
  if (dims.length !== 3 || count < 1 || width % count !== 0)
    return ctx.fail(
      `has ${count} heads (${attribute}) for ${printDims(dims)}`,
      'export the model again: 3-D operands need the number of heads',
    );
  return [dims[0]!, constantSize(count), dims[1]!, constantSize(width / count)];
}

/** The band of keys that a query sees. `window`: how many, its own included; only where causal. */
function bandOf(ctx: OpContext): { readonly causal: boolean; readonly window: number | undefined } {
  const left = ctx.int('left_window_size', -1);
  const right = ctx.int('is_causal', 0) === 1 ? 0 : ctx.int('right_window_size', -1);
  if (right > 0 || (right < 0 && left >= 0))
    ctx.fail(
      `sees ${left < 0 ? 'all' : left} keys before a query and ${right < 0 ? 'all' : right} after it`,
      'only windows that end at the query are supported: is_causal=1 or right_window_size=0',
    );
  return { causal: right === 0, window: right === 0 && left >= 0 ? left + 1 : undefined };
}

const Attention: OnnxOp = {
  infer: (ctx) => {
    for (const index of [4, 5])
      if (ctx.has(index) && !ctx.operand(index).dims.some((size) => constantOf(size) === 0))
        ctx.fail('reads a KV cache', 'export the model with use_cache=False');
    if (ctx.has(6))
      ctx.fail('reads an external KV cache (nonpad_kv_seqlen)', 'export the model with use_cache=False');
    const { dtype, dims } = ctx.operand(0);
    const [q, k, v] = ['q_num_heads', 'kv_num_heads', 'kv_num_heads'].map((name, i) =>
      headDims(ctx, i, name),
    ) as [Dims, Dims, Dims];
    const [batch, heads, rows] = q as [Size, Size, Size, Size];
    const flat = [batch, rows, mulSizes(heads, v[3]!)];
    return [dims.length === 4 ? [batch, heads, rows, v[3]!] : flat, k, v, [batch, heads, rows, k[2]!]].map(
      (result) => ({ dtype, dims: result }),
    );
  },
  values: [0, 1, 2, 3],
  translate: (ctx) => {
    const q = heads(ctx, 0, 'q_num_heads');
    const [k, v] = [1, 2].map((i) => heads(ctx, i, 'kv_num_heads')) as [Value, Value];
    const { out, scores } = attend(ctx, q, k, v, {
      scale: ctx.float('scale', 0),
      softcap: ctx.float('softcap', 0),
      added: ctx.has(3) ? ctx.additiveMask(3) : undefined,
      ...bandOf(ctx),
    });
    const flat = ctx.operand(0).dims.length === 3;
    const result = flat ? reshapeTo(ctx, tokensFirst(ctx, out), ctx.results[0]!.dims) : out;
    return [result, k, v, scores[ctx.int('qk_matmul_output_mode', 0)]];
  },
};

export const attentionOps = { Attention, RotaryEmbedding } as const satisfies Record<string, OnnxOp>;
