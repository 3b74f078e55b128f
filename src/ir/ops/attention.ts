import type { Attrs } from '../graph.js';
import { numberAttr, numbersAttr } from '../graph.js';
import { pendingOf, requireDType } from '../infer.js';
import { TypeMismatch, type InferContext } from '../op.js';
import { constantOf, mulSizes, productOfSizes, sameSize, symbolSize, type Size } from '../size.js';
import {
  dim,
  printDim,
  printType,
  sameSplit,
  sameType,
  splitOn,
  tensorType,
  withPending,
  type Dim,
  type Type,
} from '../type.js';
import { evaluate, evaluateVjp } from './attention-eval.js';
import { headsOf } from './attention-heads.js';
import { pairsSymbol } from './attention-mask.js';
import { defineOp } from './define.js';

/**
 * `window` keys up to the query's own, and `ahead` after it (0 where absent). `softcap` c: scores s become c · tanh(s / c) (arXiv 2408.00118). `slopes`, one a query head of all ranks: the
 * score of query i and key j then loses slope · |i − j| (arXiv 2108.12409). `before`, where attention has a bias
 * [R, heads]: the row of the bias for i = j, so that row r is added to the scores of j − i = r − before, and what
 * is further off gets the first or the last row. Masks come last.
 */
const MASKED = {
  mask: ['full', 'causal', 'window'],
  'window?': 'integer',
  'ahead?': 'integer',
  scale: 'number',
  'softcap?': 'number',
  'slopes?': 'numbers',
  'before?': 'integer',
} as const;

export { HIDDEN_SCORE, type MaskKind } from './attention-mask.js';

/** Placement of K/V heads that follows the query heads' split. */
export const followingDim = (kvHeads: number, query: Dim): Dim => {
  const heads = constantOf(query.size)!;
  if (query.split === undefined) return dim(kvHeads);
  return dim(kvHeads, splitOn(query.split.axis, kvHeads === heads ? {} : { of: heads }));
};

/** The operands, and the relative bias, which is the last of them, apart: f32[R, heads], whole. */
function withoutBias({ types, attrs }: InferContext<Attrs>, heads: number): [readonly Type[], Type?] {
  if (attrs['before'] === undefined) return [types];
  const [before, bias] = [numberAttr(attrs, 'before'), types.at(-1)!];
  const rows = bias.dims.length === 2 ? constantOf(bias.dims[0]!.size) : undefined;
  if (
    rows === undefined ||
    bias.dtype !== 'f32' ||
    bias.pending !== undefined ||
    bias.dims.some((d) => d.split !== undefined) ||
    constantOf(bias.dims[1]!.size) !== heads
  )
    throw new TypeMismatch(
      `the bias of attention is ${printType(bias)}, expected f32[offsets, ${heads}], whole and constant in size`,
    );
  if (!(before >= 0 && before < rows))
    throw new TypeMismatch(`attention has no row ${before} in a bias of ${rows} offsets`);
  return [types.slice(0, -1), bias];
}

function check({ types, attrs }: InferContext<Attrs>): { q: Type; k: Type; v: Type } {
  const [q, k, v, documents] = types as readonly [Type, Type, Type, Type];
  pendingOf(types.slice(0, 4), 'none');
  if (attrs['mask'] === 'window' && !(Number(attrs['window']) >= 1))
    throw new TypeMismatch('the window of attention must be 1 or more');
  if (attrs['ahead'] !== undefined && !(attrs['mask'] === 'window' && Number(attrs['ahead']) >= 1))
    throw new TypeMismatch('attention looks ahead by 1 or more, and in a window only');
  if (attrs['softcap'] !== undefined && !(Number(attrs['softcap']) > 0))
    throw new TypeMismatch('the soft cap of attention must be positive');
  requireDType(documents, 'i32', 'the documents of attention');
  for (const [name, t] of [
    ['q', q],
    ['k', k],
    ['v', v],
  ] as const) {
    requireDType(t, 'f32', `${name} of attention`);
    if (t.dims.length !== 3)
      throw new TypeMismatch(`${name} of attention is ${printType(t)}, expected [tokens, heads, head size]`);
    if (t.dims[0]!.split !== undefined)
      throw new TypeMismatch(`attention needs its tokens whole, ${name} is ${printType(t)}`);
    if (!sameSize(t.dims[0]!.size, q.dims[0]!.size))
      throw new TypeMismatch(`q, k and v of attention differ in tokens: ${printDim(t.dims[0]!)}`);
    if (t.dims[2]!.split !== undefined)
      throw new TypeMismatch(`attention needs its head size whole, ${name} is ${printType(t)}`);
  }
  const spread = q.dims[1]!.split;
  if (spread !== undefined && !sameSplit(spread, splitOn('sp')))
    throw new TypeMismatch(
      `the query heads of attention are ${printDim(q.dims[1]!)}, expected a split over sp`,
    );
  const [heads, kvHeads] = [headsOf(q), headsOf(k)];
  if (attrs['slopes'] !== undefined && numbersAttr(attrs, 'slopes').length !== heads)
    throw new TypeMismatch(`attention has ${numbersAttr(attrs, 'slopes').length} slopes for ${heads} heads`);
  if (
    kvHeads < 1 ||
    heads % kvHeads !== 0 ||
    headsOf(v) !== kvHeads ||
    !sameSize(q.dims[2]!.size, k.dims[2]!.size)
  )
    throw new TypeMismatch(
      `heads of attention do not fit: q ${printType(q)}, k ${printType(k)}, v ${printType(v)}`,
    );
  const expected = followingDim(kvHeads, q.dims[1]!);
  for (const t of [k, v])
    if (!sameSplit(t.dims[1]!.split, expected.split))
      throw new TypeMismatch(
        `K/V heads of attention are ${printDim(t.dims[1]!)}, expected ${printDim(expected)}`,
      );
  if (
    documents.dims.length !== 1 ||
    documents.dims[0]!.split !== undefined ||
    !sameSize(documents.dims[0]!.size, q.dims[0]!.size)
  )
    throw new TypeMismatch(
      `the documents of attention are ${printType(documents)}, expected one id a token, whole`,
    );
  return { q, k, v };
}

const resultTypes = (q: Type, v: Type): [Type, Type] => [
  tensorType('f32', [q.dims[0]!, q.dims[1]!, v.dims[2]!]),
  tensorType('f32', [q.dims[0]!, q.dims[1]!]),
];

/** `[S, H@sp, D]`: the whole sequence, a share of the heads. */
function demands({ types, attrs }: InferContext<Attrs>): Type[] {
  const heads = (t: Type, d: Dim): Type =>
    tensorType(t.dtype, [dim(t.dims[0]!.size), d, dim(t.dims[2]!.size)]);
  const query = dim(headsOf(types[0]!), splitOn('sp'));
  return types.map((t, i) => {
    if (attrs['before'] !== undefined && i === types.length - 1)
      return tensorType(
        'f32',
        t.dims.map((d) => dim(d.size)),
      );
    if (i === 0) return heads(t, query);
    if (i === 1 || i === 2) return heads(t, followingDim(headsOf(t), query));
    if (i === 3) return tensorType('i32', [dim(t.dims[0]!.size)]);
    return t.dims.length === 3 ? heads(t, query) : tensorType(t.dtype, [dim(t.dims[0]!.size), query]);
  });
}

const pairFlops = (ctx: InferContext<Attrs>, perPair: (d: Size, dv: Size) => Size): Size => {
  const [q, , v] = ctx.types;
  return productOfSizes([
    symbolSize(pairsSymbol(ctx.attrs)),
    q!.dims[1]!.size,
    perPair(q!.dims[2]!.size, v!.dims[2]!.size),
  ]);
};

const counted = (rest: readonly Type[], counts: readonly number[]): void => {
  if (!counts.includes(rest.length))
    throw new TypeMismatch('attention has a bias exactly where it has the attribute before');
};

const operandSamples = [
  { type: 'f32[S, 4@sp, 3]' },
  { type: 'f32[S, 2@sp(4), 3]' },
  { type: 'f32[S, 2@sp(4), 2]' },
  { type: 'i32[S]', range: [0, 2], integers: true },
] as const;

export const attention = defineOp('attention', {
  doc: 'softmax(scale · q kᵀ, capped, biased by distance, masked) v over packed documents; query head h reads K/V head ⌊h·Hkv/H⌋. Results: the output and the log-sum-exp of every row (arXiv 2205.14135).',
  operands: ['q', 'k', 'v', 'documents', 'bias?'],
  attrs: MASKED,
  demands,
  infer: (ctx) => {
    const { q, v } = check(ctx);
    counted(withoutBias(ctx, headsOf(q))[0], [4]);
    return resultTypes(q, v);
  },
  vjp: ({ cotangents: [g, lse], operands, results, wanted, attrs, build, zeros }) => {
    if (g === undefined && lse === undefined) return operands.map(() => undefined);
    const given = [...results, g ?? zeros(results[0]!), ...(lse === undefined ? [] : [lse])];
    const grads = build('attention_vjp', [...operands.slice(0, 4), ...given, ...operands.slice(4)], attrs);
    const [dq, dk, dv, dbias] = grads;
    return [dq, dk, dv, undefined, dbias]
      .slice(0, operands.length)
      .map((d, i) => (wanted[i] ? d : undefined));
  },
  eval: evaluate,
  flops: (ctx) => pairFlops(ctx, (d, dv) => mulSizes(2, sumOf(d, dv))),
  samples: [
    { operands: operandSamples, attrs: { mask: 'causal', scale: 0.5 } },
    { operands: operandSamples, attrs: { mask: 'full', scale: 0.7 } },
    { operands: operandSamples, attrs: { mask: 'window', window: 2, scale: 0.7 } },
    { operands: operandSamples, attrs: { mask: 'window', window: 2, ahead: 1, scale: 0.7 } },
    { operands: operandSamples, attrs: { mask: 'causal', scale: 1.5, softcap: 0.8 } },
    { operands: operandSamples, attrs: { mask: 'full', scale: 0.7, slopes: [0.5, 0.1, 2, 0.25] } },
    {
      operands: [...operandSamples, { type: 'f32[3, 4]' }],
      attrs: { mask: 'causal', scale: 0.7, softcap: 0.8, before: 2 },
    },
    {
      operands: [...operandSamples, { type: 'f32[3, 4]' }],
      attrs: { mask: 'full', scale: 0.7, before: 1 },
    },
  ],
});

const sumOf = (a: Size, b: Size): Size => {
  const [x, y] = [constantOf(a), constantOf(b)];
  if (x === undefined || y === undefined) throw new TypeMismatch('head sizes must be constant');
  return productOfSizes([x + y]);
};

export const attentionVjp = defineOp('attention_vjp', {
  doc: 'Cotangents (dq, dk, dv, and dbias where there is a bias) of attention, from those of the output (g) and of the log-sum-exp (glse); those of K/V heads that several ranks hold, and of the bias, are pending sums.',
  operands: ['q', 'k', 'v', 'documents', 'out', 'lse', 'g', 'glse?', 'bias?'],
  attrs: MASKED,
  demands,
  infer: (ctx) => {
    const { q, k, v } = check(ctx);
    const [out, lse] = resultTypes(q, v);
    const [types, bias] = withoutBias(ctx, headsOf(q));
    counted(types, [7, 8]);
    pendingOf(types.slice(0, 6), 'none');
    const passing = pendingOf(types.slice(6), 'joint');
    const expected = [out, lse, withPending(out, passing), withPending(lse, passing)];
    types.slice(4).forEach((t, i) => {
      if (!sameType(t, expected[i]!))
        throw new TypeMismatch(`attention_vjp got ${printType(t)}, expected ${printType(expected[i]!)}`);
    });
    const pending = (t: Type): Type =>
      tensorType('f32', t.dims, t.dims[1]!.split?.of === undefined ? passing : 'sp');
    const grads = [withPending(q, passing), pending(k), pending(v)];
    // Each rank adds up the columns of its own heads.
    const axis = q.dims[1]!.split === undefined ? passing : 'sp';
    return bias === undefined ? grads : [...grads, withPending(bias, axis)];
  },
  eval: evaluateVjp,
  flops: (ctx) => pairFlops(ctx, (d, dv) => productOfSizes([6 * constantOf(d)! + 4 * constantOf(dv)!])),
  samples: [],
});
