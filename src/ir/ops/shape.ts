import type { Attrs } from '../graph.js';
import { numberAttr, numbersAttr } from '../graph.js';
import { dimIndex, pendingOf, refusePendingSplit } from '../infer.js';
import { TypeMismatch, type InferContext } from '../op.js';
import {
  addSizes,
  constantOf,
  divideSizes,
  mulSizes,
  productOfSizes,
  sameSize,
  subSizes,
  symbolSize,
  toSize,
  type Size,
  type SizeLike,
} from '../size.js';
import {
  dim,
  parseSplit,
  printDim,
  printType,
  sameDim,
  splitOn,
  tensorType,
  type Dim,
  type DType,
  type Type,
} from '../type.js';
import {
  broadcastStrides,
  DTYPES,
  defineOp,
  gatherIndices,
  reshapeAttrs,
  stridesOf,
  tensor,
  unbroadcast,
} from './define.js';

const shapeOf = (attrs: Attrs): readonly SizeLike[] => attrs['shape'] as readonly SizeLike[];

const SLICE = { dim: 'integer', start: 'integer', end: 'integer', step: 'integer' } as const;

export const constant = defineOp('constant', {
  doc: 'A small literal; big constants are parameters that are not trained.',
  operands: [],
  attrs: { dtype: DTYPES, shape: 'shape', data: 'numbers' },
  infer: ({ attrs }) => {
    const shape = numbersAttr(attrs, 'shape');
    const elements = shape.reduce((product, n) => product * n, 1);
    if (numbersAttr(attrs, 'data').length !== elements)
      throw new TypeMismatch('constant data does not fill its shape');
    return [tensorType(attrs['dtype'] as DType, [...shape])];
  },
  vjp: () => [],
  eval: ({ attrs, shapes }) => [tensor(shapes[0]!, numbersAttr(attrs, 'data'))],
  samples: [{ operands: [], attrs: { dtype: 'f32', shape: [2], data: [1, 2.5] } }],
});

/**
 * Placement across a reshape. Dims are matched in minimal groups of equal product. A split dim must lead
 * its group; the pieces it is split into keep their number, and the unit absorbs the factors merged into
 * or split off it. The split goes to the first dim of the new group that is not 1, or to dim `splitAt`.
 */
export function reshapeDims(from: readonly Dim[], shape: readonly SizeLike[], splitAt?: number): Dim[] {
  const to = shape.map(toSize);
  const result: Dim[] = [];
  let [i, j] = [0, 0];
  while (i < from.length || j < to.length) {
    let [left, right] = [from[i]?.size ?? toSize(1), to[j] ?? toSize(1)];
    const [firstIn, firstOut] = [i, j];
    i = Math.min(i + 1, from.length);
    j = Math.min(j + 1, to.length);
    while (!sameSize(left, right)) {
      const grow =
        divideSizes(right, left) !== undefined && i < from.length
          ? 'in'
          : j < to.length && divideSizes(left, right) !== undefined
            ? 'out'
            : i < from.length
              ? 'in'
              : j < to.length
                ? 'out'
                : undefined;
      if (grow === undefined)
        throw new TypeMismatch(
          `cannot reshape [${from.map((d) => d.size.key).join(', ')}] to [${to.map((s) => s.key).join(', ')}]`,
        );
      if (grow === 'in') left = mulSizes(left, from[i++]!.size);
      else right = mulSizes(right, to[j++]!);
    }
    const at = splitAt === undefined ? undefined : splitAt - firstOut;
    result.push(...placeGroup(from.slice(firstIn, i), to.slice(firstOut, j), at));
  }
  return result;
}

function placeGroup(from: readonly Dim[], to: readonly Size[], splitAt: number | undefined): Dim[] {
  const at = from.findIndex((d) => d.split !== undefined);
  if (at < 0) return to.map((size) => dim(size));
  const leading = from.slice(0, at);
  const rest = from.slice(at + 1);
  const { split, size } = from[at]!;
  if (to.length === 0)
    throw new TypeMismatch(`a reshape removes the dim ${printDim(from[at]!)}: it must be whole`);
  if (leading.some((d) => constantOf(d.size) !== 1) || rest.some((d) => d.split !== undefined))
    throw new TypeMismatch('a split dim can be merged only as the leading factor');
  const pieces = divideSizes(size, split!.unit);
  const pieceElements = mulSizes(productOfSizes(rest.map((d) => d.size)), split!.unit);
  const target = to.findIndex((s) => constantOf(s) !== 1);
  const chosen = splitAt ?? Math.max(target, 0);
  if (to[chosen] === undefined || to.slice(0, chosen).some((s) => constantOf(s) !== 1))
    throw new TypeMismatch(`dim ${chosen} of [${to.map((s) => s.key).join(', ')}] cannot take over a split`);
  const inner = productOfSizes(to.slice(chosen + 1));
  const unit = divideSizes(pieceElements, inner);
  const constantUnit = unit && constantOf(unit);
  if (
    constantUnit === undefined ||
    constantUnit < 1 ||
    !sameSize(mulSizes(pieces ?? 0, constantUnit), to[chosen])
  )
    throw new TypeMismatch(
      `pieces of a dim split over ${split!.axis} would straddle the new dims [${to.map((s) => s.key).join(', ')}]`,
    );
  return to.map((s, k) =>
    k === chosen
      ? dim(
          s,
          splitOn(
            split!.axis,
            split!.of === undefined ? { unit: constantUnit } : { unit: constantUnit, of: split!.of },
          ),
        )
      : dim(s),
  );
}

export const reshape = defineOp('reshape', {
  doc: 'The same elements in row-major order under another shape (global sizes). `split`: the result dim that takes over a split of one piece, which sizes of 1 leave open.',
  operands: ['x'],
  attrs: { shape: 'shape', 'split?': 'integer' },
  infer: ({ types: [x], attrs }) => {
    const dims = reshapeDims(x!.dims, shapeOf(attrs), attrs['split'] as number | undefined);
    return [tensorType(x!.dtype, dims, x!.pending)];
  },
  vjp: ({ cotangents: [g], operands: [x], build }) => [g && build.one('reshape', [g], reshapeAttrs(x!.type))],
  eval: ({ inputs, shapes }) => [{ shape: shapes[0]!, data: inputs[0]!.data }],
  samples: [
    { operands: [{ type: 'f32[S@sp, 4, 3]' }], attrs: { shape: [symbolSize('S'), 12] } },
    { operands: [{ type: 'f32[6, 2]' }], attrs: { shape: [4, 3] } },
    { operands: [{ type: 'f32[1, 8@sp, 3]' }], attrs: { shape: [24] } },
    { operands: [{ type: 'f32[24@sp/6]' }], attrs: { shape: [4, 2, 3] } },
  ],
});

/** `perm` with every dim counted from the front. */
function permutation(x: Type, attrs: Attrs): readonly number[] {
  const given = numbersAttr(attrs, 'perm');
  const perm = given.map((p) => dimIndex(p, x.dims.length));
  if (perm.length !== x.dims.length || new Set(perm).size !== perm.length)
    throw new TypeMismatch(`perm [${given.join(', ')}] does not permute ${printType(x)}`);
  return perm;
}

export const transpose = defineOp('transpose', {
  doc: 'Permutes dims: result dim i is operand dim perm[i].',
  operands: ['x'],
  attrs: { perm: 'integers' },
  infer: ({ types: [x], attrs }) => [
    tensorType(
      x!.dtype,
      permutation(x!, attrs).map((p) => x!.dims[p]!),
      x!.pending,
    ),
  ],
  vjp: ({ cotangents: [g], operands: [x], attrs, build }) => {
    const perm = permutation(x!.type, attrs);
    return [g && build.one('transpose', [g], { perm: perm.map((_, i) => perm.indexOf(i)) })];
  },
  eval: ({ inputs: [x], types, attrs, shapes }) => {
    const strides = stridesOf(x!.shape);
    const indices = gatherIndices(
      shapes[0]!,
      permutation(types[0]!, attrs).map((p) => strides[p]!),
    );
    return [{ shape: shapes[0]!, data: Float64Array.from(indices, (i) => x!.data[i]!) }];
  },
  samples: [
    { operands: [{ type: 'f32[S@sp, 4]' }], attrs: { perm: [1, 0] } },
    { operands: [{ type: 'f32[2, S@sp, 3]' }], attrs: { perm: [1, 2, 0] } },
  ],
});

const wholeDim = (type: Type, at: number, op: string): Dim => {
  const d = type.dims[at]!;
  if (d.split !== undefined)
    throw new TypeMismatch(`${op} along a dim split over ${d.split.axis}: it must be whole`);
  return d;
};

export const slice = defineOp('slice', {
  doc: 'Elements start, start + step, … below end of one dim of constant size.',
  operands: ['x'],
  attrs: SLICE,
  infer: ({ types: [x], attrs }) => {
    const at = dimIndex(numberAttr(attrs, 'dim'), x!.dims.length);
    const size = constantOf(wholeDim(x!, at, 'slice').size);
    const [start, end, step] = [
      numberAttr(attrs, 'start'),
      numberAttr(attrs, 'end'),
      numberAttr(attrs, 'step'),
    ];
    if (size === undefined || start < 0 || end > size || start > end || step < 1)
      throw new TypeMismatch(`slice ${start}:${end}:${step} of dim ${at} of ${printType(x!)}`);
    return [
      tensorType(
        x!.dtype,
        x!.dims.map((d, i) => (i === at ? dim(Math.ceil((end - start) / step)) : d)),
        x!.pending,
      ),
    ];
  },
  vjp: ({ cotangents: [g], operands: [x], attrs, build }) => [
    g &&
      build.one('unslice', [g], {
        ...attrs,
        size: constantOf(x!.type.dims[dimIndex(numberAttr(attrs, 'dim'), x!.type.dims.length)]!.size)!,
      }),
  ],
  eval: ({ inputs: [x], attrs, shapes }) => [
    {
      shape: shapes[0]!,
      data: Float64Array.from(sliceIndices(x!.shape, shapes[0]!, attrs), (i) => x!.data[i]!),
    },
  ],
  samples: [
    { operands: [{ type: 'f32[S@sp, 6]' }], attrs: { dim: 1, start: 1, end: 6, step: 2 } },
    { operands: [{ type: 'f32[5, S@sp]' }], attrs: { dim: 0, start: 0, end: 3, step: 1 } },
  ],
});

function sliceIndices(whole: readonly number[], part: readonly number[], attrs: Attrs): Int32Array {
  const at = dimIndex(numberAttr(attrs, 'dim'), whole.length);
  const strides = stridesOf(whole);
  const offset = numberAttr(attrs, 'start') * strides[at]!;
  const step = numberAttr(attrs, 'step');
  return gatherIndices(
    part,
    strides.map((s, i) => (i === at ? s * step : s)),
  ).map((i) => i + offset);
}

export const unslice = defineOp('unslice', {
  doc: 'The adjoint of slice: its operand at start, start + step, …, zeros elsewhere, in a dim of `size`.',
  operands: ['x'],
  attrs: { ...SLICE, size: 'integer' },
  infer: ({ types: [x], attrs }) => {
    const at = dimIndex(numberAttr(attrs, 'dim'), x!.dims.length);
    const [start, end, step, size] = ['start', 'end', 'step', 'size'].map((name) => numberAttr(attrs, name));
    const taken = constantOf(wholeDim(x!, at, 'unslice').size);
    const bounded = start! >= 0 && start! <= end! && end! <= size! && step! >= 1;
    if (!bounded || taken !== Math.ceil((end! - start!) / step!))
      throw new TypeMismatch(`unslice ${start}:${end}:${step} of ${size} from dim ${at} of ${printType(x!)}`);
    return [
      tensorType(
        x!.dtype,
        x!.dims.map((d, i) => (i === at ? dim(size!) : d)),
        x!.pending,
      ),
    ];
  },
  vjp: ({ cotangents: [g], attrs, build }) => {
    const { dim, start, end, step } = attrs;
    return [g && build.one('slice', [g], { dim, start, end, step })];
  },
  eval: ({ inputs: [x], attrs, shapes }) => {
    const out = tensor(shapes[0]!);
    sliceIndices(shapes[0]!, x!.shape, attrs).forEach((target, i) => (out.data[target] = x!.data[i]!));
    return [out];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 3]' }], attrs: { dim: 1, start: 1, end: 6, step: 2, size: 6 } }],
});

export const concat = defineOp('concat', {
  doc: 'Concatenation along a whole dim. Differentiable where all its sizes are constant.',
  operands: ['...xs'],
  attrs: { dim: 'integer' },
  infer: ({ types, attrs }) => {
    const [first] = types as readonly [Type, ...Type[]];
    const at = dimIndex(numberAttr(attrs, 'dim'), first.dims.length);
    for (const t of types)
      if (
        t.dtype !== first.dtype ||
        t.dims.length !== first.dims.length ||
        !t.dims.every((d, i) => i === at || sameDim(d, first.dims[i]!))
      )
        throw new TypeMismatch(`operands of concat differ: ${types.map(printType).join(', ')}`);
    types.forEach((t) => wholeDim(t, at, 'concat'));
    const total = types.reduce<Size>((sum, t) => addSizes(sum, t.dims[at]!.size), toSize(0));
    const dims = first.dims.map((d, i) => (i === at ? dim(total) : d));
    return [tensorType(first.dtype, dims, pendingOf(types, 'joint'))];
  },
  vjp: ({ cotangents: [g], operands, attrs, wanted, build }) => {
    const at = dimIndex(numberAttr(attrs, 'dim'), operands[0]!.type.dims.length);
    let start = 0;
    return operands.map((x, i) => {
      const size = constantOf(x.type.dims[at]!.size);
      if (size === undefined) throw new TypeMismatch('concat along a dim whose size is not constant');
      const bounds = { dim: at, start, end: start + size, step: 1 };
      start += size;
      return g !== undefined && wanted[i] ? build.one('slice', [g], bounds) : undefined;
    });
  },
  eval: ({ inputs, attrs, shapes }) => {
    const at = dimIndex(numberAttr(attrs, 'dim'), shapes[0]!.length);
    const out = tensor(shapes[0]!);
    let start = 0;
    for (const x of inputs) {
      const part = { dim: at, start, step: 1 };
      sliceIndices(shapes[0]!, x.shape, part).forEach((target, i) => (out.data[target] = x.data[i]!));
      start += x.shape[at]!;
    }
    return [out];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 3]' }, { type: 'f32[S@sp, 2]' }], attrs: { dim: 1 } }],
});

export const dropLast = defineOp('drop_last', {
  doc: 'All but the last `count` elements of a whole dim of any size. What recognition leaves of it is refused.',
  operands: ['x'],
  attrs: { dim: 'integer', count: 'integer' },
  infer: ({ types: [x], attrs }) => {
    const at = dimIndex(numberAttr(attrs, 'dim'), x!.dims.length);
    const rest = subSizes(wholeDim(x!, at, 'drop_last').size, numberAttr(attrs, 'count'));
    if (numberAttr(attrs, 'count') < 1 || (constantOf(rest) ?? 0) < 0)
      throw new TypeMismatch(`drop_last of ${numberAttr(attrs, 'count')} from dim ${at} of ${printType(x!)}`);
    return [
      tensorType(
        x!.dtype,
        x!.dims.map((d, i) => (i === at ? dim(rest) : d)),
        x!.pending,
      ),
    ];
  },
  eval: ({ inputs: [x], attrs, shapes }) => {
    const kept = sliceIndices(x!.shape, shapes[0]!, { dim: attrs['dim']!, start: 0, step: 1 });
    return [{ shape: shapes[0]!, data: Float64Array.from(kept, (i) => x!.data[i]!) }];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 4]' }], attrs: { dim: 1, count: 1 } }],
});

/** The dims a `broadcast` asks for; `axes` places those that are new ('' for whole). */
function broadcastTarget({ types: [x], attrs }: InferContext<Attrs>): Dim[] {
  const axes = attrs['axes'] as readonly string[];
  const shape = shapeOf(attrs);
  const dims = shape.map((size, i) => {
    const own = x!.dims[i - shape.length + x!.dims.length];
    const spreads = own === undefined || (constantOf(own.size) === 1 && own.split === undefined);
    if (!spreads) return sameSize(own.size, size) ? own : refuse();
    const split = axes[i] === '' || axes[i] === undefined ? undefined : parseSplit(axes[i]);
    if (split === undefined && axes[i]) throw new TypeMismatch(`'${axes[i]}' is not a placement`);
    return dim(size, split);
  });
  if (dims.length < x!.dims.length) refuse();
  refusePendingSplit([x!], dims);
  return dims;

  function refuse(): never {
    const sizes = shape.map((s) => toSize(s).key).join(', ');
    throw new TypeMismatch(`cannot broadcast ${printType(x!)} to [${sizes}]`);
  }
}

export const broadcast = defineOp('broadcast', {
  doc: 'Repeats dims of size 1 (and missing leading dims) up to `shape`; `axes` places the new dims (`sp`, `sp/64`, `sp(8)`, or empty for whole).',
  operands: ['x'],
  attrs: { shape: 'shape', axes: 'strings' },
  infer: (ctx) => [tensorType(ctx.types[0]!.dtype, broadcastTarget(ctx), ctx.types[0]!.pending)],
  vjp: ({ cotangents: [g], operands: [x], build }) => [g && unbroadcast(build, g, x!.type)],
  eval: ({ inputs: [x], shapes }) => {
    const indices = gatherIndices(shapes[0]!, broadcastStrides(x!.shape, shapes[0]!));
    return [{ shape: shapes[0]!, data: Float64Array.from(indices, (i) => x!.data[i]!) }];
  },
  samples: [
    { operands: [{ type: 'f32[2, 1]' }], attrs: { shape: [2, 3], axes: [] } },
    { operands: [{ type: 'f32[S@sp, 1, 4]' }], attrs: { shape: [symbolSize('S'), 3, 4], axes: [] } },
  ],
});
