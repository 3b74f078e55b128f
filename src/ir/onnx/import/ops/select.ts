/** Parts of a tensor: slices and reads at an index. */
import type { Value } from '../../../graph.js';
import { constantOf, constantSize, subSizes, type Size } from '../../../size.js';
import { irDtype, type OnnxOp, type OpContext, type TranslateContext } from '../context.js';
import { isTokens, one, printDims, sameDims, sliceBounds, type Dims, type SliceBounds } from '../shapes.js';
import { DYNAMIC_HINT, knownStrides, pick, reshapeTo } from './layout.js';
import { lastDimElements } from './one-hot.js';

interface Cut extends SliceBounds {
  readonly axis: number;
  readonly step: number;
  readonly whole: boolean;
}

/** What a Slice node cuts, dim by dim. Negative steps are left to evaluation. */
export function cutsOf(ctx: OpContext): readonly Cut[] {
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
      const strides = [...knownStrides(x)];
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
  const dropped = constantOf(subSizes(size, cut.end));
  // What a concatenation added to the tokens.
  if (!isTokens(size) && start === 0 && cut.step === 1 && isTokens(cut.end) && (dropped ?? 0) > 0)
    return ctx.build.one('drop_last', [value], { dim: cut.axis, count: dropped! });
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
    return [gatherRows(ctx, ctx.value(0), ctx.value(1), ctx.positionOffset(1))];
  },
};

const sizesOf = (value: Value): Dims => value.type.dims.map((d) => d.size);

/** @param offset how far the ids run on from the positions, where that is what they are */
export function gatherRows(
  ctx: TranslateContext,
  table: Value,
  ids: Value,
  offset: number | undefined,
): Value {
  const [first, ...others] = sizesOf(table);
  const rows = constantOf(first!);
  // What is computed for each position, read at the positions.
  if (isTokens(first!) && offset === 0) return reshapeTo(ctx, table, [...sizesOf(ids), ...others]);
  if (rows === undefined)
    return ctx.fail(
      'reads other tokens by a computed index',
      'only tables of constant size are read at an index',
    );
  if (offset !== undefined) ctx.limitTokens(rows - offset);
  return ctx.build.one('gather', [table, ids]);
}

const GatherND: OnnxOp = {
  infer: (ctx) => {
    const [x, ids] = [ctx.operand(0), ctx.operand(1)];
    const depth = constantOf(ids.dims.at(-1) ?? one) ?? ctx.fail(`has indices of ${printDims(ids.dims)}`);
    const batch = ctx.int('batch_dims', 0);
    if (batch + depth > x.dims.length) ctx.fail(`addresses ${depth} of ${x.dims.length} dims`);
    return [{ dtype: x.dtype, dims: [...ids.dims.slice(0, -1), ...x.dims.slice(batch + depth)] }];
  },
  translate: (ctx) => {
    const [x, ids] = [ctx.operand(0), ctx.operand(1)];
    if (ctx.int('batch_dims', 0) !== 0 || constantOf(ids.dims.at(-1)!) !== 1)
      ctx.fail(
        `reads ${printDims(x.dims)} at several indices at once`,
        'only reads along one dim are supported',
      );
    const constants = ids.ints?.map(constantOf);
    if (constants?.every((id) => id !== undefined) === true) return [gatherConstants(ctx, 0, constants)];
    const flat = reshapeTo(ctx, ctx.value(1), ids.dims.slice(0, -1));
    return [gatherRows(ctx, ctx.value(0), flat, ctx.positionOffset(1))];
  },
};

const GatherElements: OnnxOp = {
  infer: (ctx) => [{ dtype: ctx.operand(0).dtype, dims: ctx.operand(1).dims }],
  translate: (ctx) => {
    const [x, ids] = [ctx.operand(0), ctx.operand(1)];
    const axis = ctx.axis(ctx.int('axis', 0), x.dims.length);
    const rows = constantOf(x.dims[axis]!);
    const others = (dims: Dims): Dims => dims.filter((_, i) => i !== axis);
    const whole = isTokens(ids.dims[axis]!) && sameDims(others(x.dims), others(ids.dims));
    if (ctx.positionOffset(1) !== 0 || rows === undefined || !whole)
      return [
        lastDimElements(ctx) ??
          ctx.fail(
            'reads elements at computed places of other tokens',
            'use a model that routes features only, not tokens',
          ),
      ];
    ctx.limitTokens(rows);
    return [rowsAtPositions(ctx, ctx.value(0), axis)];
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

export const selectOps = { Slice, Gather, GatherND, GatherElements } as const satisfies Record<
  string,
  OnnxOp
>;
