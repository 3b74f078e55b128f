import type { Attrs, Value } from '../graph.js';
import { axes } from '../infer.js';
import type { Builder, InferContext } from '../op.js';
import { mulSizes, productOfSizes, constantOf } from '../size.js';
import type { Type } from '../type.js';
import { broadcastStrides, defineOp, gatherIndices, tensor, unbroadcast } from './define.js';

const signature = (rankB: number): string =>
  rankB === 2 ? '... m k, k n -> ... m n' : '... m k, ... k n -> ... m n';

/** Swaps the last two dims. */
export const transposeLast = (build: Builder, x: Value): Value => {
  const rank = x.type.dims.length;
  const perm = Array.from({ length: rank }, (_, i) => (i < rank - 2 ? i : 2 * rank - 3 - i));
  return build.one('transpose', [x], { perm });
};

const inferMatmul = (ctx: InferContext<Attrs>): readonly Type[] =>
  axes(signature(ctx.types[1]!.dims.length), { broadcast: true })(ctx);

/** Whether rows can be merged: the pieces of a split dim would have a constant number of them. */
const canFlatten = ({ dims }: Type): boolean => {
  const rows = dims.slice(0, -1);
  const others = rows.filter((d) => d.split === undefined);
  return others.length === rows.length || constantOf(productOfSizes(others.map((d) => d.size))) !== undefined;
};

/** Moves a split dim among the leading ones to the front, so that all of them can be merged. */
const splitFirst = (build: Builder, x: Value): Value => {
  const dims = x.type.dims;
  const at = dims.slice(0, -1).findIndex((d) => d.split !== undefined);
  if (dims.slice(0, Math.max(at, 0)).every((d) => constantOf(d.size) === 1)) return x;
  const others = dims.flatMap((_, i) => (i === at ? [] : [i]));
  return build.one('transpose', [x], { perm: [at, ...others] });
};

/** `[..., m, k]` as `[M, k]`: the rows of two operands with the same leading dims, in the same order. */
const flattenRows = (build: Builder, operand: Value): Value => {
  if (operand.type.dims.length === 2) return operand;
  const x = splitFirst(build, operand);
  const dims = x.type.dims;
  const rows = productOfSizes(dims.slice(0, -1).map((d) => d.size));
  const last = dims[dims.length - 1]!.size;
  return build.one('reshape', [x], { shape: [constantOf(rows) ?? rows, constantOf(last) ?? last] });
};

export const matmul = defineOp('matmul', {
  doc: 'Matrix product over the last two dims: `... m k, ... k n -> ... m n`; a 2-D second operand serves every leading dim.',
  operands: ['a', 'b'],
  infer: inferMatmul,
  vjp: ({ cotangents: [g], operands: [a, b], wanted, build }) => {
    if (g === undefined) return [undefined, undefined];
    const shared = b!.type.dims.length === 2;
    const left = (): Value => unbroadcast(build, build.one('matmul', [g, transposeLast(build, b!)]), a!.type);
    const right = (): Value =>
      shared && canFlatten(a!.type)
        ? build.one('matmul', [transposeLast(build, flattenRows(build, a!)), flattenRows(build, g)])
        : unbroadcast(build, build.one('matmul', [transposeLast(build, a!), g]), b!.type);
    return [wanted[0] ? left() : undefined, wanted[1] ? right() : undefined];
  },
  eval: ({ inputs: [a, b], shapes }) => {
    const out = tensor(shapes[0]!);
    const shape = shapes[0]!;
    const [m, n] = [shape[shape.length - 2]!, shape[shape.length - 1]!];
    const k = a!.shape[a!.shape.length - 1]!;
    const batch = shape.slice(0, -2);
    const leadA = gatherIndices(batch, broadcastStrides(a!.shape.slice(0, -2), batch));
    const leadB = gatherIndices(batch, broadcastStrides(b!.shape.slice(0, -2), batch));
    for (let i = 0; i < leadA.length; i++) {
      const [atA, atB, at] = [leadA[i]! * m * k, leadB[i]! * k * n, i * m * n];
      for (let row = 0; row < m; row++) {
        const into = out.data.subarray(at + row * n, at + (row + 1) * n);
        for (let inner = 0; inner < k; inner++) {
          const factor = a!.data[atA + row * k + inner]!;
          const from = b!.data.subarray(atB + inner * n, atB + (inner + 1) * n);
          for (let column = 0; column < n; column++) into[column]! += factor * from[column]!;
        }
      }
    }
    return [out];
  },
  flops: (ctx) => {
    const [result] = inferMatmul(ctx);
    const k = ctx.types[0]!.dims[ctx.types[0]!.dims.length - 1]!.size;
    return mulSizes(mulSizes(productOfSizes(result!.dims.map((d) => d.size)), k), 2);
  },
  samples: [
    { operands: [{ type: 'f32[S@sp, 4]' }, { type: 'f32[4, 3]' }] },
    { operands: [{ type: 'f32[4, S@sp]' }, { type: 'f32[S@sp, 3]' }] },
    { operands: [{ type: 'f32[2, S@sp, 4]' }, { type: 'f32[4, 3]' }] },
    { operands: [{ type: 'f32[8@sp, 3, 4]' }, { type: 'f32[8@sp, 4, 2]' }] },
  ],
});
