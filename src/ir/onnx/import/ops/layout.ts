import { gatherIndices, stridesOf } from '../../../ops/define.js';
import { addSizes, constantOf, constantSize, mulSizes, type Size } from '../../../size.js';
import type { Value } from '../../../graph.js';
import {
  MAX_KNOWN,
  shapeAttribute,
  type OnnxOp,
  type OpContext,
  type Shaped,
  type TranslateContext,
} from '../context.js';
import {
  isTokens,
  elementsOf,
  isOne,
  numericDims,
  one,
  printDims,
  reshapeTarget,
  sameDims,
  zero,
  type Dims,
} from '../shapes.js';

export const DYNAMIC_HINT = 'export with batch and sequence as the only dynamic axes';

/** Reshapes unless the value already has these dims. */
export function reshapeTo(ctx: TranslateContext, value: Value, dims: Dims): Value {
  const own = value.type.dims.map((d) => d.size);
  return sameDims(own, dims) ? value : ctx.build.one('reshape', [value], { shape: shapeAttribute(dims) });
}

/** Same elements in the same order under other dims. */
const reshaping = (dimsOf: (ctx: OpContext) => Dims): OnnxOp => ({
  values: [0],
  infer: (ctx) => {
    const { dtype, ints } = ctx.operand(0);
    return [{ dtype, dims: dimsOf(ctx), ints }];
  },
  translate: (ctx) => [reshapeTo(ctx, ctx.value(0), ctx.results[0]!.dims)],
});

const Reshape = reshaping((ctx) => {
  const { dims } = ctx.operand(0);
  const target = ctx.ints(1);
  return (
    reshapeTarget(dims, target, ctx.int('allowzero', 0) === 1) ??
    ctx.fail(
      `cannot reshape ${printDims(dims)} to ${printDims(target)} for every sequence length S`,
      DYNAMIC_HINT,
    )
  );
});

const Flatten = reshaping((ctx) => {
  const { dims } = ctx.operand(0);
  const value = ctx.int('axis', 1);
  const at = value < 0 ? value + dims.length : value;
  return [elementsOf(dims.slice(0, at)), elementsOf(dims.slice(at))];
});

/** Axes as an operand (opset 13 and later) or an attribute. */
const axesOf = (ctx: OpContext): readonly number[] | undefined =>
  ctx.has(1) ? ctx.numbers(1) : ctx.intList('axes');

const Squeeze = reshaping((ctx) => {
  const { dims } = ctx.operand(0);
  const axes = axesOf(ctx)?.map((axis) => ctx.axis(axis, dims.length));
  const dropped = axes ?? dims.flatMap((size, i) => (isOne(size) ? [i] : []));
  for (const axis of dropped)
    if (!isOne(dims[axis]!))
      ctx.fail(`squeezes dim ${axis} of ${printDims(dims)}, which is not 1`, DYNAMIC_HINT);
  return dims.filter((_, i) => !dropped.includes(i));
});

const Unsqueeze = reshaping((ctx) => {
  const { dims } = ctx.operand(0);
  const axes = axesOf(ctx) ?? ctx.fail('has no axes');
  const rank = dims.length + axes.length;
  const added = new Set(axes.map((axis) => ctx.axis(axis, rank)));
  if (added.size !== axes.length) ctx.fail(`axes [${axes.join(', ')}] repeat one`);
  let next = 0;
  return Array.from({ length: rank }, (_, i) => (added.has(i) ? one : dims[next++]!));
});

/** Known elements of a result whose dims are numeric, read through `strides` from `offset`. */
export function pick(
  x: Shaped,
  dims: Dims,
  strides: readonly number[],
  offset = 0,
): readonly Size[] | undefined {
  const shape = numericDims(dims);
  if (x.ints === undefined || shape === undefined || shape.reduce((a, b) => a * b, 1) > MAX_KNOWN)
    return undefined;
  return Array.from(gatherIndices(shape, strides), (at) => x.ints![at + offset]!);
}

export const knownStrides = (x: Shaped): readonly number[] => stridesOf(numericDims(x.dims) ?? []);

const permOf = (ctx: OpContext, rank: number): readonly number[] => {
  const perm = ctx.intList('perm') ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
  const valid = perm.length === rank && [...perm].sort((a, b) => a - b).every((p, i) => p === i);
  return valid
    ? perm
    : ctx.fail(`perm [${perm.join(', ')}] does not permute ${rank} dims`, 'export the model again');
};

const Transpose: OnnxOp = {
  infer: (ctx) => {
    const x = ctx.operand(0);
    const perm = permOf(ctx, x.dims.length);
    const dims = perm.map((p) => x.dims[p]!);
    const strides = knownStrides(x);
    const ints =
      x.ints === undefined
        ? undefined
        : pick(
            x,
            dims,
            perm.map((p) => strides[p]!),
          );
    return [{ dtype: x.dtype, dims, ints }];
  },
  translate: (ctx) => [
    ctx.build.one('transpose', [ctx.value(0)], { perm: permOf(ctx, ctx.operand(0).dims.length) }),
  ],
};

const Concat: OnnxOp = {
  infer: (ctx) => {
    const [x, ...others] = ctx.operands;
    const at = ctx.axis(ctx.int('axis', 0), x!.dims.length);
    const size = ctx.operands.reduce<Size>((sum, operand) => addSizes(sum, operand.dims[at] ?? zero), zero);
    for (const other of others)
      if (other.dims.length !== x!.dims.length || !sameDims(without(other.dims, at), without(x!.dims, at)))
        ctx.fail(`joins ${printDims(x!.dims)} and ${printDims(other.dims)} on axis ${at}`, DYNAMIC_HINT);
    const flat = ctx.operands.every((operand) => operand.ints !== undefined) && x!.dims.length === 1;
    const ints = flat ? ctx.operands.flatMap((operand) => operand.ints!) : undefined;
    return [
      {
        dtype: x!.dtype,
        dims: x!.dims.map((d, i) => (i === at ? size : d)),
        ints: ints && ints.length <= MAX_KNOWN ? ints : undefined,
      },
    ];
  },
  translate: (ctx) => {
    const at = ctx.axis(ctx.int('axis', 0), ctx.operand(0).dims.length);
    const isEmpty = (operand: Shaped): boolean => constantOf(operand.dims[at]!) === 0;
    const values = ctx.operands.flatMap((operand, i) => (isEmpty(operand) ? [] : [ctx.value(i)]));
    // Without a cache, nothing is joined.
    if (values.length === 0) return [ctx.value(0)];
    if (values.length === 1) return [values[0]];
    if (ctx.operands.some((operand) => constantOf(operand.dims[at]!) === undefined)) {
      const scores = ctx.operands.some(({ dims }) => dims.some((d, i) => i !== at && isTokens(d)));
      // A column beside those of the keys: an attention sink, which recognition reads or refuses.
      if (!scores)
        ctx.fail(
          'joins along the tokens, which packed sequences do not allow',
          'export the model without a KV cache or prompt (use_cache=False)',
        );
    }
    return [ctx.build.one('concat', values, { dim: at })];
  },
};

const without = (dims: Dims, at: number): Dims => dims.filter((_, i) => i !== at);

/** Sizes of the parts of a Split. */
function partsOf(ctx: OpContext, size: Size): readonly number[] {
  const given = ctx.has(1) ? ctx.numbers(1) : ctx.intList('split');
  if (given !== undefined) return given;
  const whole =
    constantOf(size) ?? ctx.fail('splits a dim that depends on the sequence length', DYNAMIC_HINT);
  const outputs = ctx.node.outputs.length;
  const count = ctx.int('num_outputs', outputs);
  if (count !== outputs)
    ctx.fail(`splits into ${count} parts and names ${outputs}`, 'export the model again');
  const part = Math.ceil(whole / count);
  return Array.from({ length: count }, (_, i) => Math.min(part, whole - i * part));
}

const Split: OnnxOp = {
  values: [0],
  infer: (ctx) => {
    const x = ctx.operand(0);
    const at = ctx.axis(ctx.int('axis', 0), x.dims.length);
    const parts = partsOf(ctx, x.dims[at]!);
    const total = parts.reduce((a, b) => a + b, 0);
    if (parts.some((part) => part < 0) || constantOf(x.dims[at]!) !== total)
      ctx.fail(`splits a dim of ${x.dims[at]!.key} into [${parts.join(', ')}]`, DYNAMIC_HINT);
    let start = 0;
    return parts.map((part) => {
      const dims = x.dims.map((d, i) => (i === at ? constantSize(part) : d));
      const ints =
        x.ints === undefined ? undefined : pick(x, dims, knownStrides(x), start * knownStrides(x)[at]!);
      start += part;
      return { dtype: x.dtype, dims, ints };
    });
  },
  translate: (ctx) => {
    const dim = ctx.axis(ctx.int('axis', 0), ctx.operand(0).dims.length);
    let start = 0;
    return partsOf(ctx, ctx.operand(0).dims[dim]!).map((part) => {
      const end = start + part;
      const value = ctx.build.one('slice', [ctx.value(0)], { dim, start, end, step: 1 });
      start = end;
      return value;
    });
  },
};

const Tile: OnnxOp = {
  values: [0],
  infer: (ctx) => {
    const x = ctx.operand(0);
    const repeats = ctx.ints(1);
    if (repeats.length !== x.dims.length) ctx.fail(`repeats ${printDims(x.dims)} by ${printDims(repeats)}`);
    return [{ dtype: x.dtype, dims: x.dims.map((size, i) => mulSizes(size, repeats[i]!)) }];
  },
  translate: (ctx) => {
    const { dims } = ctx.operand(0);
    const repeats = ctx.ints(1);
    // [a, b] repeated (r, s) is [1, a, 1, b] broadcast to [r, a, s, b].
    const open = reshapeTo(
      ctx,
      ctx.value(0),
      dims.flatMap((size) => [one, size]),
    );
    const full = dims.flatMap((size, i) => [repeats[i]!, size]);
    const repeated = ctx.build.one('broadcast', [open], { shape: shapeAttribute(full), axes: [] });
    return [reshapeTo(ctx, repeated, ctx.results[0]!.dims)];
  },
};

export const layoutOps = {
  Reshape,
  Flatten,
  Squeeze,
  Unsqueeze,
  Transpose,
  Concat,
  Split,
  Tile,
} as const satisfies Record<string, OnnxOp>;
