/** Attention on one rank, and its derivative: the reference. */
import { numberAttr, numbersAttr, type Attrs } from '../graph.js';
import type { EvalContext, Tensor } from '../op.js';
import { shardRange } from '../placement.js';
import type { Type } from '../type.js';
import { biasRow, headsOf, localHeadMap, localSlopes } from './attention-heads.js';
import { visible } from './attention-mask.js';
import { tensor } from './define.js';

interface Plan {
  readonly map: readonly number[];
  /** For each token, the first token of its document and one past the last. */
  readonly start: readonly number[];
  readonly end: readonly number[];
  /** Of a product of local query head h, between query i and key j: the score, and its derivative. */
  score(product: number, h: number, i: number, j: number): { readonly score: number; readonly slope: number };
  /** Where the relative bias of local query head h has the entry of query i and key j, of a bias [R, heads]. */
  readonly biasAt: ((h: number, i: number, j: number) => number) | undefined;
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
  const biasAt = biasPlaces(ctx, shardRange(headsOf(q), degree, index).start);
  const score = scoring(ctx.attrs, degree, index);
  const plan = { map: localHeadMap(headsOf(q), headsOf(k), degree, index), start, end, biasAt };
  if (biasAt === undefined) return { ...plan, score };
  const bias = ctx.inputs.at(-1)!.data;
  return {
    ...plan,
    score: (product, h, i, j) => {
      const own = score(product, h, i, j);
      return { ...own, score: own.score + bias[biasAt(h, i, j)]! };
    },
  };
}

function biasPlaces({ attrs, inputs }: EvalContext<Attrs>, firstHead: number): Plan['biasAt'] {
  if (attrs['before'] === undefined) return undefined;
  const [rows, heads] = inputs.at(-1)!.shape as [number, number];
  const before = numberAttr(attrs, 'before');
  return (h, i, j) => biasRow(before, rows, i, j) * heads + firstHead + h;
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

export function evaluate(ctx: EvalContext<Attrs>): Tensor[] {
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

export function evaluateVjp(ctx: EvalContext<Attrs>): Tensor[] {
  const [q, k, v, , out, lse, g] = ctx.inputs as readonly [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const { map, start, end, score, biasAt } = planOf(ctx);
  const [dq, dk, dv] = [tensor(ctx.shapes[0]!), tensor(ctx.shapes[1]!), tensor(ctx.shapes[2]!)];
  const dbias = biasAt === undefined ? undefined : tensor(ctx.shapes[3]!);
  const glse = ctx.inputs.length === (biasAt === undefined ? 8 : 9) ? ctx.inputs[7] : undefined;
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
        const change = p * (dot(g, atV, v, atKV, sizeV) - delta);
        const ds = slope * change;
        if (dbias !== undefined) dbias.data[biasAt!(h, i, j)]! += change;
        for (let d = 0; d < sizeV; d++) dv.data[atKV + d]! += p * g.data[atV + d]!;
        for (let d = 0; d < size; d++) {
          dq.data[at + d]! += ds * k.data[atK + d]!;
          dk.data[atK + d]! += ds * q.data[at + d]!;
        }
      }
    }
  return dbias === undefined ? [dq, dk, dv] : [dq, dk, dv, dbias];
}
