import type { Attrs } from '../graph.js';
import { numberAttr, numbersAttr } from '../graph.js';
import { pendingOf, requireDType } from '../infer.js';
import { TypeMismatch, type EvalContext, type InferContext, type Tensor } from '../op.js';
import { followingRange, shardRange } from '../placement.js';
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
import { defineOp, tensor } from './define.js';

/** What a query may see, inside its document: everything, what is not later, or what is near. */
export type MaskKind = 'full' | 'causal' | 'window';

/**
 * What is added to a score at or below this hides its key: e^−9000 is 0 in float32 and in float64, and no other score is
 * as far away. Exporters use −10000 (−9984 in bfloat16), −65504, −1e9, the lowest float and −∞.
 */
export const HIDDEN_SCORE = -9000;

/** How many later keys a query sees of those a window holds; 0: none. */
export const aheadOf = (attrs: Attrs): number =>
  attrs['ahead'] === undefined ? 0 : numberAttr(attrs, 'ahead');

/** Whether query i sees key j of the same document. `window` w, `ahead` a: i − w < j ≤ i + a. */
export const visible = (attrs: Attrs, i: number, j: number): boolean =>
  attrs['mask'] === 'full' ||
  (j <= i + aheadOf(attrs) && (attrs['mask'] === 'causal' || j > i - numberAttr(attrs, 'window')));

/**
 * The symbol for the number of (query, key) pairs seen, summed over documents: Σ s² (full),
 * Σ s(s+1)/2 (causal), the same clipped by the window, and what it holds ahead.
 */
export const pairsSymbol = (attrs: Attrs): string => {
  if (attrs['mask'] !== 'window') return `A_${String(attrs['mask'])}`;
  const ahead = aheadOf(attrs);
  return `A_window_${numberAttr(attrs, 'window')}${ahead === 0 ? '' : `_${ahead}`}`;
};

/** The window of a symbol that `pairsSymbol` made of one. */
export function windowOfSymbol(symbol: string): { window: number; ahead: number } | undefined {
  const found = /^A_window_(\d+)(?:_(\d+))?$/.exec(symbol);
  return found === null ? undefined : { window: Number(found[1]), ahead: Number(found[2] ?? 0) };
}

/** Pairs (i, j) with i − window < j ≤ i + ahead in a sequence of s. */
export function pairsWithin({ window, ahead }: { window: number; ahead: number }, s: number): number {
  const below = (w: number): number => (w * (w + 1)) / 2 + (s - w) * w;
  return below(Math.min(window, s)) + below(Math.min(ahead + 1, s)) - s;
}

/** Value of `pairsSymbol` for the lengths of the documents. */
export function attendedPairs(symbol: string, lengths: readonly number[]): number {
  const window = windowOfSymbol(symbol) ?? { window: Infinity, ahead: 0 };
  return lengths.reduce((sum, s) => sum + (symbol === 'A_full' ? s * s : pairsWithin(window, s)), 0);
}

/**
 * `window` keys up to the query's own, and `ahead` after it (0 where absent). `softcap` c: scores s become c · tanh(s / c) (arXiv 2408.00118). `slopes`, one a query head of all ranks: the
 * score of query i and key j then loses slope · |i − j| (arXiv 2108.12409). Masks come last.
 */
const MASKED = {
  mask: ['full', 'causal', 'window'],
  'window?': 'integer',
  'ahead?': 'integer',
  scale: 'number',
  'softcap?': 'number',
  'slopes?': 'numbers',
} as const;

const headsOf = (type: Type): number => {
  const heads = constantOf(type.dims[1]!.size);
  if (heads === undefined) throw new TypeMismatch('the number of heads must be constant');
  return heads;
};

/** Placement of K/V heads that follows the query heads' split. */
export const followingDim = (kvHeads: number, query: Dim): Dim => {
  const heads = constantOf(query.size)!;
  if (query.split === undefined) return dim(kvHeads);
  return dim(kvHeads, splitOn(query.split.axis, kvHeads === heads ? {} : { of: heads }));
};

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
function demands({ types }: InferContext<Attrs>): Type[] {
  const heads = (t: Type, d: Dim): Type =>
    tensorType(t.dtype, [dim(t.dims[0]!.size), d, dim(t.dims[2]!.size)]);
  const query = dim(headsOf(types[0]!), splitOn('sp'));
  return types.map((t, i) => {
    if (i === 0) return heads(t, query);
    if (i === 1 || i === 2) return heads(t, followingDim(headsOf(t), query));
    if (i === 3) return tensorType('i32', [dim(t.dims[0]!.size)]);
    return t.dims.length === 3 ? heads(t, query) : tensorType(t.dtype, [dim(t.dims[0]!.size), query]);
  });
}

/** The slopes of the query heads that a rank holds. */
export function localSlopes(slopes: readonly number[], degree: number, rank: number): readonly number[] {
  const { start, end } = shardRange(slopes.length, degree, rank);
  return slopes.slice(start, end);
}

/** For each local query head, the local K/V head it reads. */
export function localHeadMap(heads: number, kvHeads: number, degree: number, rank: number): number[] {
  const range = shardRange(heads, degree, rank);
  const { start } = followingRange(kvHeads, heads, degree, rank);
  return Array.from(
    { length: range.end - range.start },
    (_, h) => Math.floor(((range.start + h) * kvHeads) / heads) - start,
  );
}

interface Plan {
  readonly map: readonly number[];
  /** For each token, the first token of its document and one past the last. */
  readonly start: readonly number[];
  readonly end: readonly number[];
  /** Of a product of local query head h, between query i and key j: the score, and its derivative. */
  score(product: number, h: number, i: number, j: number): { readonly score: number; readonly slope: number };
}

function planOf(ctx: EvalContext<Attrs>): Plan {
  const [q, k] = ctx.types as readonly [Type, Type];
  const split = q.dims[1]!.split !== undefined;
  const { degree, index } = split ? ctx.rank.sp : { degree: 1, index: 0 };
  const ids = ctx.inputs[3]!.data;
  const start: number[] = [];
  ids.forEach((id, i) => start.push(i > 0 && ids[i - 1] === id ? start[i - 1]! : i));
  const end: number[] = Array.from({ length: ids.length }, () => ids.length);
  for (let i = ids.length - 2; i >= 0; i--) end[i] = ids[i + 1] === ids[i] ? end[i + 1]! : i + 1;
  return {
    map: localHeadMap(headsOf(q), headsOf(k), degree, index),
    start,
    end,
    score: scoring(ctx.attrs, degree, index),
  };
}

function scoring(attrs: Attrs, degree: number, rank: number): Plan['score'] {
  const scale = numberAttr(attrs, 'scale');
  const cap = attrs['softcap'] === undefined ? undefined : numberAttr(attrs, 'softcap');
  const slopes =
    attrs['slopes'] === undefined ? undefined : localSlopes(numbersAttr(attrs, 'slopes'), degree, rank);
  return (product, h, i, j) => {
    const bias = slopes === undefined ? 0 : slopes[h]! * Math.abs(i - j);
    if (cap === undefined) return { score: scale * product - bias, slope: scale };
    const capped = Math.tanh((scale * product) / cap);
    return { score: cap * capped - bias, slope: scale * (1 - capped * capped) };
  };
}

const dot = (a: Tensor, atA: number, b: Tensor, atB: number, n: number): number => {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a.data[atA + i]! * b.data[atB + i]!;
  return sum;
};

function evaluate(ctx: EvalContext<Attrs>): Tensor[] {
  const [q, k, v] = ctx.inputs as readonly [Tensor, Tensor, Tensor];
  const { map, start, end, score } = planOf(ctx);
  const [out, lse] = [tensor(ctx.shapes[0]!), tensor(ctx.shapes[1]!)];
  const [tokens, heads, size] = q.shape as [number, number, number];
  const [kvHeads, sizeV] = [k.shape[1]!, v.shape[2]!];
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < tokens; i++) {
      const at = (i * heads + h) * size;
      const scores: number[] = [];
      const keys: number[] = [];
      for (let j = start[i]!; j < end[i]!; j++) {
        if (!visible(ctx.attrs, i, j)) continue;
        keys.push(j);
        scores.push(score(dot(q, at, k, (j * kvHeads + map[h]!) * size, size), h, i, j).score);
      }
      const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      const total = scores.reduce((sum, s) => sum + Math.exp(s - max), 0);
      lse.data[i * heads + h] = max + Math.log(total);
      keys.forEach((j, n) => {
        const p = Math.exp(scores[n]! - max) / total;
        for (let d = 0; d < sizeV; d++)
          out.data[(i * heads + h) * sizeV + d]! += p * v.data[(j * kvHeads + map[h]!) * sizeV + d]!;
      });
    }
  return [out, lse];
}

function evaluateVjp(ctx: EvalContext<Attrs>): Tensor[] {
  const [q, k, v, , out, lse, g] = ctx.inputs as readonly [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const glse = ctx.inputs[7];
  const { map, start, end, score } = planOf(ctx);
  const [dq, dk, dv] = [tensor(ctx.shapes[0]!), tensor(ctx.shapes[1]!), tensor(ctx.shapes[2]!)];
  const [tokens, heads, size] = q.shape as [number, number, number];
  const [kvHeads, sizeV] = [k.shape[1]!, v.shape[2]!];
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < tokens; i++) {
      const [at, atV] = [(i * heads + h) * size, (i * heads + h) * sizeV];
      // A score's derivative in the log-sum-exp of its row is its weight.
      const delta = dot(g, atV, out, atV, sizeV) - (glse?.data[i * heads + h] ?? 0);
      for (let j = start[i]!; j < end[i]!; j++) {
        if (!visible(ctx.attrs, i, j)) continue;
        const [atK, atKV] = [(j * kvHeads + map[h]!) * size, (j * kvHeads + map[h]!) * sizeV];
        const { score: s, slope } = score(dot(q, at, k, atK, size), h, i, j);
        const p = Math.exp(s - lse.data[i * heads + h]!);
        const ds = slope * p * (dot(g, atV, v, atKV, sizeV) - delta);
        for (let d = 0; d < sizeV; d++) dv.data[atKV + d]! += p * g.data[atV + d]!;
        for (let d = 0; d < size; d++) {
          dq.data[at + d]! += ds * k.data[atK + d]!;
          dk.data[atK + d]! += ds * q.data[at + d]!;
        }
      }
    }
  return [dq, dk, dv];
}

const pairFlops = (ctx: InferContext<Attrs>, perPair: (d: Size, dv: Size) => Size): Size => {
  const [q, , v] = ctx.types;
  return productOfSizes([
    symbolSize(pairsSymbol(ctx.attrs)),
    q!.dims[1]!.size,
    perPair(q!.dims[2]!.size, v!.dims[2]!.size),
  ]);
};

const operandSamples = [
  { type: 'f32[S, 4@sp, 3]' },
  { type: 'f32[S, 2@sp(4), 3]' },
  { type: 'f32[S, 2@sp(4), 2]' },
  { type: 'i32[S]', range: [0, 2], integers: true },
] as const;

export const attention = defineOp('attention', {
  doc: 'softmax(scale · q kᵀ, capped, biased by distance, masked) v over packed documents; query head h reads K/V head ⌊h·Hkv/H⌋. Results: the output and the log-sum-exp of every row (arXiv 2205.14135).',
  operands: ['q', 'k', 'v', 'documents'],
  attrs: MASKED,
  demands,
  infer: (ctx) => {
    const { q, v } = check(ctx);
    return resultTypes(q, v);
  },
  vjp: ({ cotangents: [g, lse], operands, results, wanted, attrs, build, zeros }) => {
    if (g === undefined && lse === undefined) return operands.map(() => undefined);
    const given = [...results, g ?? zeros(results[0]!), ...(lse === undefined ? [] : [lse])];
    const grads = build('attention_vjp', [...operands, ...given], attrs);
    return operands.map((_, i) => (i < 3 && wanted[i] ? grads[i] : undefined));
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
  ],
});

const sumOf = (a: Size, b: Size): Size => {
  const [x, y] = [constantOf(a), constantOf(b)];
  if (x === undefined || y === undefined) throw new TypeMismatch('head sizes must be constant');
  return productOfSizes([x + y]);
};

export const attentionVjp = defineOp('attention_vjp', {
  doc: 'Cotangents (dq, dk, dv) of attention, from those of the output (g) and of the log-sum-exp (glse); those of K/V heads that several ranks hold are pending sums.',
  operands: ['q', 'k', 'v', 'documents', 'out', 'lse', 'g', 'glse?'],
  attrs: MASKED,
  demands,
  infer: (ctx) => {
    const { q, k, v } = check(ctx);
    const [out, lse] = resultTypes(q, v);
    pendingOf(ctx.types.slice(0, 6), 'none');
    const passing = pendingOf(ctx.types.slice(6), 'joint');
    const expected = [out, lse, withPending(out, passing), withPending(lse, passing)];
    ctx.types.slice(4).forEach((t, i) => {
      if (!sameType(t, expected[i]!))
        throw new TypeMismatch(`attention_vjp got ${printType(t)}, expected ${printType(expected[i]!)}`);
    });
    const pending = (t: Type): Type =>
      tensorType('f32', t.dims, t.dims[1]!.split?.of === undefined ? passing : 'sp');
    return [withPending(q, passing), pending(k), pending(v)];
  },
  eval: evaluateVjp,
  flops: (ctx) => pairFlops(ctx, (d, dv) => productOfSizes([6 * constantOf(d)! + 4 * constantOf(dv)!])),
  samples: [],
});
