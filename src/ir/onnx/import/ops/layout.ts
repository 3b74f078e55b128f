import { broadcastStrides, gatherIndices } from '../../../ops/define.js';
import { addSizes, constantOf, constantSize, mulSizes, type Size } from '../../../size.js';
import type { Value } from '../../../graph.js';
import {
  irDtype,
  MAX_KNOWN,
  shapeAttribute,
  type OnnxOp,
  type OpContext,
  type Shaped,
  type TranslateContext,
} from '../context.js';
import {
  elementsOf,
  isOne,
  isTokens,
  numericDims,
  one,
  printDims,
  reshapeTarget,
  sameDims,
  sliceBounds,
  zero,
  type Dims,
  type SliceBounds,
} from '../shapes.js';

const DYNAMIC_HINT = 'export with batch and sequence as the only dynamic axes';

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
function pick(x: Shaped, dims: Dims, strides: readonly number[], offset = 0): readonly Size[] | undefined {
  const shape = numericDims(dims);
  if (x.ints === undefined || shape === undefined || shape.reduce((a, b) => a * b, 1) > MAX_KNOWN)
    return undefined;
  return Array.from(gatherIndices(shape, strides), (at) => x.ints![at + offset]!);
}

const stridesOf = (x: Shaped): readonly number[] => {
  const shape = numericDims(x.dims) ?? [];
  return broadcastStrides(shape, shape).map((stride, i) =>
    stride === 0 ? shape.slice(i + 1).reduce((a, b) => a * b, 1) : stride,
  );
};

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
    const strides = stridesOf(x);
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
    const values = ctx.operands.map((_, i) => ctx.value(i));
    const at = ctx.axis(ctx.int('axis', 0), ctx.operand(0).dims.length);
    if (values.length === 1) return [values[0]];
    if (ctx.operands.some((operand) => constantOf(operand.dims[at]!) === undefined))
      ctx.fail(
        'joins along the tokens, which packed sequences do not allow',
        'export the model without a KV cache or prompt (use_cache=False)',
      );
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
  const count = ctx.int('num_outputs', ctx.node.outputs.length);
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
      const ints = x.ints === undefined ? undefined : pick(x, dims, stridesOf(x), start * stridesOf(x)[at]!);
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

interface Cut extends SliceBounds {
  readonly axis: number;
  readonly step: number;
  readonly whole: boolean;
}

/** What a Slice node cuts, dim by dim. Negative steps are left to evaluation. */
function cutsOf(ctx: OpContext): readonly Cut[] {
  const { dims } = ctx.operand(0);
  const listed = (index: number, name: string): readonly Size[] | undefined =>
    ctx.has(index) ? ctx.ints(index) : ctx.intList(name)?.map(constantSize);
  const starts = listed(1, 'starts') ?? ctx.fail('has no starts');
  const ends = listed(2, 'ends') ?? ctx.fail('has no ends');
  const axes = ctx.has(3) ? ctx.numbers(3) : ctx.intList('axes');
  const steps = ctx.has(4) ? ctx.numbers(4) : undefined;
  return starts.map((start, i) => {
    const axis = ctx.axis(axes?.[i] ?? i, dims.length);
    const [step, dim] = [steps?.[i] ?? 1, dims[axis]!];
    const end = ends[i] ?? ctx.fail('has fewer ends than starts');
    if (step === 0) ctx.fail('has step 0');
    const bounds = step > 0 ? sliceBounds(start, end, step, dim) : reversal(start, end, step, dim);
    if (bounds === undefined)
      return ctx.fail(
        `cuts ${start.key}:${end.key}:${step} of a dim of ${dim.key}, which is not decided for every sequence length S`,
        DYNAMIC_HINT,
      );
    if (bounds.fits !== undefined) ctx.limitTokens(bounds.fits);
    return {
      ...bounds,
      axis,
      step,
      whole: bounds.fits === undefined && step === 1 && bounds.size.key === dim.key,
    };
  });
}

/** A whole dim, or its constant part, backwards. */
function reversal(start: Size, end: Size, step: number, dim: Size): SliceBounds | undefined {
  const size = constantOf(dim);
  const [from, to] = [constantOf(start), constantOf(end)];
  if (size === undefined || from === undefined || to === undefined) return undefined;
  const first = Math.min(from < 0 ? from + size : from, size - 1);
  const last = Math.max(to < 0 ? to + size : to, -1);
  return {
    start: constantSize(Math.max(first, 0)),
    end: constantSize(Math.max(last, 0)),
    size: constantSize(Math.max(0, Math.ceil((first - last) / -step))),
  };
}

const Slice: OnnxOp = {
  values: [0],
  infer: (ctx) => {
    const x = ctx.operand(0);
    const cuts = cutsOf(ctx);
    const dims = [...x.dims];
    for (const cut of cuts) dims[cut.axis] = cut.size;
    let ints: readonly Size[] | undefined;
    if (x.ints !== undefined && cuts.every((cut) => constantOf(cut.start) !== undefined)) {
      const strides = [...stridesOf(x)];
      const offset = cuts.reduce((sum, cut) => sum + constantOf(cut.start)! * strides[cut.axis]!, 0);
      for (const cut of cuts) strides[cut.axis]! *= cut.step;
      ints = pick(x, dims, strides, offset);
    }
    return [{ dtype: x.dtype, dims, ints }];
  },
  translate: (ctx) => {
    let value = ctx.value(0);
    for (const cut of cutsOf(ctx)) if (!cut.whole) value = sliceValue(ctx, value, cut);
    return [value];
  },
};

function sliceValue(ctx: TranslateContext, value: Value, cut: Cut): Value {
  const [start, end, size] = [constantOf(cut.start), constantOf(cut.end), value.type.dims[cut.axis]!.size];
  if (cut.step < 0) return ctx.fail('reverses a dim', 'export the model without it');
  if (constantOf(size) !== undefined && start !== undefined && end !== undefined)
    return ctx.build.one('slice', [value], { dim: cut.axis, start, end, step: cut.step });
  // A table cut at the length of the sequence: its row for each position of a document.
  if (!ctx.isData(0) && start === 0 && isTokens(cut.end) && cut.step === 1)
    return rowsAtPositions(ctx, value, cut.axis);
  return ctx.fail(
    `cuts ${cut.start.key}:${cut.end.key} of the tokens`,
    'export a model that keeps every token (no pooling, no logits_to_keep, use_cache=False)',
  );
}

function rowsAtPositions(ctx: TranslateContext, table: Value, axis: number): Value {
  const order = [axis, ...table.type.dims.map((_, i) => i).filter((i) => i !== axis)];
  const front = axis === 0 ? table : ctx.build.one('transpose', [table], { perm: order });
  const rows = ctx.build.one('gather', [front, ctx.positions()]);
  return axis === 0
    ? rows
    : ctx.build.one('transpose', [rows], { perm: order.map((_, i) => order.indexOf(i)) });
}

const Gather: OnnxOp = {
  infer: (ctx) => {
    const [x, ids] = [ctx.operand(0), ctx.operand(1)];
    const at = ctx.axis(ctx.int('axis', 0), x.dims.length);
    const dims = [...x.dims.slice(0, at), ...ids.dims, ...x.dims.slice(at + 1)];
    const known = x.dims.length === 1 && x.ints !== undefined ? ids.ints?.map(constantOf) : undefined;
    const size = x.ints?.length ?? 0;
    const ints = known?.map((id) => (id === undefined ? undefined : x.ints![id < 0 ? id + size : id]));
    return [
      {
        dtype: x.dtype,
        dims,
        ints: ints?.every((element) => element !== undefined) === true ? ints : undefined,
      },
    ];
  },
  translate: (ctx) => {
    const [x, ids] = [ctx.operand(0), ctx.operand(1)];
    const at = ctx.axis(ctx.int('axis', 0), x.dims.length);
    const constants = ids.ints?.map(constantOf);
    if (constants?.every((id) => id !== undefined) === true) return [gatherConstants(ctx, at, constants)];
    if (at !== 0)
      ctx.fail(`gathers on axis ${at} by a computed index`, 'only tables are read at an index, on axis 0');
    if (irDtype(ids.dtype) !== 'i32') ctx.fail(`gathers by an index of type ${ids.dtype}`);
    const [rows, offset] = [constantOf(x.dims[0]!), ctx.positionOffset(1)];
    if (rows !== undefined && offset !== undefined) ctx.limitTokens(rows - offset);
    return [ctx.build.one('gather', [ctx.value(0), ctx.value(1)])];
  },
};

/** Elements at fixed places of a dim of constant size. */
function gatherConstants(ctx: TranslateContext, dim: number, ids: readonly number[]): Value {
  const value = ctx.value(0);
  const size =
    constantOf(ctx.operand(0).dims[dim]!) ??
    ctx.fail('picks tokens by their index', 'export a model that keeps every token (no pooling)');
  const runs: { start: number; end: number }[] = [];
  for (const id of ids.map((i) => (i < 0 ? i + size : i))) {
    const last = runs.at(-1);
    if (last?.end === id) last.end++;
    else runs.push({ start: id, end: id + 1 });
  }
  if (runs.length > 64)
    ctx.fail(`picks ${ids.length} scattered elements`, 'export the model without that permutation');
  const parts = runs.map((run) => ctx.build.one('slice', [value], { dim, ...run, step: 1 }));
  const joined = parts.length === 1 ? parts[0]! : ctx.build.one('concat', parts, { dim });
  return reshapeTo(ctx, joined, ctx.results[0]!.dims);
}

export const layoutOps = {
  Reshape,
  Flatten,
  Squeeze,
  Unsqueeze,
  Transpose,
  Concat,
  Split,
  Tile,
  Slice,
  Gather,
} as const satisfies Record<string, OnnxOp>;
