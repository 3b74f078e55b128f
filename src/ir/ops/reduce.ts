import type { Attrs, Value } from '../graph.js';
import { numbersAttr } from '../graph.js';
import { dimIndex, pendingOf, requireDType, summedOver } from '../infer.js';
import { TypeMismatch, type InferContext, type Tensor, type VjpContext } from '../op.js';
import { constantOf, productOfSizes } from '../size.js';
import { dim, printSplit, tensorType, type Type } from '../type.js';
import {
  broadcastStrides,
  defineOp,
  gatherIndices,
  reshapeAttrs,
  scalarConstant,
  shapeAttr,
  stridesOf,
  tensor,
} from './define.js';

const reducedDims = (type: Type, attrs: Attrs): Set<number> =>
  new Set(numbersAttr(attrs, 'dims').map((d) => dimIndex(d, type.dims.length)));

/** A sum over a split dim is pending; any other reduction must see the dim whole. */
const infer =
  (kind: 'sum' | 'mean' | 'max') =>
  ({ types: [x], attrs }: InferContext<Attrs>): Type[] => {
    requireDType(x!, 'f32', 'operand of a reduction');
    const reduced = reducedDims(x!, attrs);
    const split = [...reduced].map((i) => x!.dims[i]!.split).find((s) => s !== undefined);
    if (split !== undefined && kind !== 'sum')
      throw new TypeMismatch(
        `a reduction other than a sum runs over a dim split over ${split.axis}: it must be whole`,
      );
    const passing = pendingOf([x!], kind === 'sum' ? 'first' : 'none');
    if (kind === 'mean') count({ types: [x!], attrs });
    const pending = summedOver(
      [...reduced].map((i) => x!.dims[i]!),
      passing,
    );
    const dims = x!.dims.flatMap((d, i) => (!reduced.has(i) ? [d] : attrs['keep'] === true ? [dim(1)] : []));
    return [tensorType('f32', dims, pending)];
  };

/** A reduced value repeated to the operand's shape and placement. */
function spread(ctx: VjpContext<Attrs>, value: Value): Value {
  const x = ctx.operands[0]!.type;
  const reduced = reducedDims(x, ctx.attrs);
  const kept = tensorType(
    'f32',
    x.dims.map((d, i) => (reduced.has(i) ? dim(1) : d)),
  );
  const shaped = ctx.attrs['keep'] === true ? value : ctx.build.one('reshape', [value], reshapeAttrs(kept));
  return ctx.build.one('broadcast', [shaped], {
    shape: shapeAttr(x),
    axes: x.dims.map((d) => (d.split === undefined ? '' : printSplit(d.split))),
  });
}

const count = (ctx: { types: readonly Type[]; attrs: Attrs }): number => {
  const x = ctx.types[0]!;
  const size = constantOf(productOfSizes([...reducedDims(x, ctx.attrs)].map((i) => x.dims[i]!.size)));
  if (size === undefined) throw new TypeMismatch('a mean over a dim whose size is not constant');
  return size;
};

function fold(
  x: Tensor,
  attrs: Attrs,
  shape: readonly number[],
  start: number,
  step: (a: number, b: number, target: number) => number,
): Tensor {
  const dims = new Set(numbersAttr(attrs, 'dims').map((d) => dimIndex(d, x.shape.length)));
  const keptShape = x.shape.map((n, i) => (dims.has(i) ? 1 : n));
  const out = tensor(shape);
  out.data.fill(start);
  const strides = broadcastStrides(keptShape, x.shape);
  gatherIndices(x.shape, strides).forEach(
    (target, i) => (out.data[target] = step(out.data[target]!, x.data[i]!, target)),
  );
  return out;
}

export const reduceSum = defineOp('reduce_sum', {
  doc: 'Sum over `dims`; `keep` leaves them as size 1. Over a split dim the result is a pending sum.',
  operands: ['x'],
  attrs: { dims: 'integers', 'keep?': 'boolean' },
  infer: infer('sum'),
  vjp: (ctx) => [ctx.cotangents[0] && spread(ctx, ctx.cotangents[0])],
  eval: ({ inputs: [x], attrs, shapes }) => [fold(x!, attrs, shapes[0]!, 0, (a, b) => a + b)],
  samples: [
    { operands: [{ type: 'f32[S@sp, 4]' }], attrs: { dims: [0], keep: false } },
    { operands: [{ type: 'f32[S@sp, 4]' }], attrs: { dims: [-1], keep: true } },
  ],
});

export const reduceMean = defineOp('reduce_mean', {
  doc: 'Mean over whole `dims` of constant size.',
  operands: ['x'],
  attrs: { dims: 'integers', 'keep?': 'boolean' },
  infer: infer('mean'),
  vjp: (ctx) => {
    const [g] = ctx.cotangents;
    const size = count({ types: ctx.operands.map((v) => v.type), attrs: ctx.attrs });
    return [g && ctx.build.one('mul', [spread(ctx, g), scalarConstant(ctx.build, 1 / size)])];
  },
  eval: ({ inputs: [x], attrs, shapes, types }) => {
    const sum = fold(x!, attrs, shapes[0]!, 0, (a, b) => a + b);
    const size = count({ types, attrs });
    return [{ shape: sum.shape, data: sum.data.map((v) => v / size) }];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 4]' }], attrs: { dims: [-1], keep: true } }],
});

export const reduceMax = defineOp('reduce_max', {
  doc: 'Maximum over whole `dims`. Not differentiable here: it guards, it does not compute.',
  operands: ['x'],
  attrs: { dims: 'integers', 'keep?': 'boolean' },
  infer: infer('max'),
  eval: ({ inputs: [x], attrs, shapes }) => [
    fold(x!, attrs, shapes[0]!, -Infinity, (a, b) => Math.max(a, b)),
  ],
  samples: [{ operands: [{ type: 'f32[S@sp, 4]' }], attrs: { dims: [-1], keep: false } }],
});

export const logSumExp = defineOp('log_sum_exp', {
  doc: 'log Σ eˣ over whole `dims`; `keep` leaves them as size 1.',
  operands: ['x'],
  attrs: { dims: 'integers', 'keep?': 'boolean' },
  infer: infer('max'),
  vjp: (ctx) => {
    const [g] = ctx.cotangents;
    if (g === undefined) return [undefined];
    const away = ctx.build.one('sub', [ctx.operands[0]!, spread(ctx, ctx.results[0]!)]);
    return [ctx.build.one('mul', [spread(ctx, g), ctx.build.one('exp', [away])])];
  },
  eval: ({ inputs: [x], attrs, shapes }) => {
    const max = fold(x!, attrs, shapes[0]!, -Infinity, (a, b) => Math.max(a, b));
    // Against the largest: sums of eˣ would overflow.
    const sum = fold(x!, attrs, shapes[0]!, 0, (a, b, at) => a + Math.exp(b - max.data[at]!));
    return [{ shape: sum.shape, data: sum.data.map((v, i) => max.data[i]! + Math.log(v)) }];
  },
  samples: [
    { operands: [{ type: 'f32[S@sp, 4]' }], attrs: { dims: [-1], keep: true } },
    { operands: [{ type: 'f32[S@sp, 3]' }], attrs: { dims: [1], keep: false } },
  ],
});

export const softmax = defineOp('softmax', {
  doc: 'e^x / Σ e^x over one whole dim.',
  operands: ['x'],
  attrs: { dim: 'integer' },
  infer: ({ types: [x], attrs }) => {
    const at = dimIndex(attrs['dim'] as number, x!.dims.length);
    pendingOf([x!], 'none');
    if (x!.dims[at]!.split !== undefined)
      throw new TypeMismatch('softmax over a split dim: it must be whole');
    return [x!];
  },
  vjp: ({ cotangents: [g], results: [y], attrs, build }) => {
    if (g === undefined) return [undefined];
    const weighted = build.one('mul', [g, y!]);
    const sum = build.one('reduce_sum', [weighted], { dims: [attrs['dim'] as number], keep: true });
    return [build.one('sub', [weighted, build.one('mul', [y!, sum])])];
  },
  eval: ({ inputs: [x], attrs, shapes }) => {
    const shape = shapes[0]!;
    const at = dimIndex(attrs['dim'] as number, shape.length);
    const stride = stridesOf(shape)[at]!;
    const out = tensor(shape);
    const rows = gatherIndices(
      shape.map((n, i) => (i === at ? Math.min(n, 1) : n)),
      stridesOf(shape),
    );
    for (const start of rows) {
      const valueAt = (i: number): number => x!.data[start + i * stride]!;
      let max = -Infinity;
      for (let i = 0; i < shape[at]!; i++) max = Math.max(max, valueAt(i));
      let sum = 0;
      for (let i = 0; i < shape[at]!; i++) sum += Math.exp(valueAt(i) - max);
      for (let i = 0; i < shape[at]!; i++) out.data[start + i * stride] = Math.exp(valueAt(i) - max) / sum;
    }
    return [out];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 5]' }], attrs: { dim: -1 } }],
});
