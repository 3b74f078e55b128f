/** Elements added around a tensor, or, by a negative number, cut off. */
import type { Value } from '../../../graph.js';
import { addSizes, constantOf, constantSize, type Size } from '../../../size.js';
import { irDtype, type OnnxOp, type OpContext, type TranslateContext } from '../context.js';
import type { Dims } from '../shapes.js';
import { broadcastTo } from './elementwise.js';

interface Margin {
  readonly before: Size;
  readonly after: Size;
}

const NONE: Margin = { before: constantSize(0), after: constantSize(0) };

/** What is added to each dim. */
function marginsOf(ctx: OpContext): readonly Margin[] {
  const { dims } = ctx.operand(0);
  const pads: readonly Size[] = ctx.has(1) ? ctx.ints(1) : (ctx.intList('pads') ?? []).map(constantSize);
  const axes = ctx.has(3) ? ctx.numbers(3).map((axis) => ctx.axis(axis, dims.length)) : dims.map((_, i) => i);
  if (pads.length !== 2 * axes.length) ctx.fail(`has ${pads.length} pads for ${axes.length} axes`);
  return dims.map((_, i) => {
    const at = axes.indexOf(i);
    return at < 0 ? NONE : { before: pads[at]!, after: pads[at + axes.length]! };
  });
}

function numbersOf(ctx: TranslateContext, { before, after }: Margin, size: Size): readonly [number, number] {
  const [first, last] = [constantOf(before), constantOf(after)];
  if (first === 0 && last === 0) return [0, 0];
  if (first === undefined || last === undefined || constantOf(size) === undefined)
    return ctx.fail(
      'moves tokens along: each then reads its neighbours, which another rank may hold',
      'use a model whose tokens meet in attention only',
    );
  return [first, last];
}

/** Joins the margins of one dim to a value, or cuts them off. */
function padded(ctx: TranslateContext, x: Value, dim: number, margin: Margin, filler: Value): Value {
  const dims = x.type.dims.map(({ size }) => size);
  const [before, after] = numbersOf(ctx, margin, dims[dim]!);
  const length = constantOf(dims[dim]!) ?? 0;
  const [start, end] = [Math.max(0, -before), length - Math.max(0, -after)];
  if (start > end) return ctx.fail(`cuts ${start} and ${length - end} off a dim of ${length}`);
  const inner = start === 0 && end === length ? x : ctx.build.one('slice', [x], { dim, start, end, step: 1 });
  const block = (count: number): Value[] => {
    const shape: Dims = dims.map((size, i) => (i === dim ? constantSize(count) : size));
    return count > 0 ? [broadcastTo(ctx, filler, shape)] : [];
  };
  const parts = [...block(before), inner, ...block(after)];
  return parts.length === 1 ? inner : ctx.build.one('concat', parts, { dim });
}

const Pad: OnnxOp = {
  values: [0, 2],
  infer: (ctx) => {
    const { dtype, dims } = ctx.operand(0);
    const sizes = marginsOf(ctx).map(({ before, after }, i) => addSizes(dims[i]!, addSizes(before, after)));
    return [{ dtype, dims: sizes }];
  },
  translate: (ctx) => {
    const margins = marginsOf(ctx);
    const { dtype, dims } = ctx.operand(0);
    margins.forEach((margin, i) => numbersOf(ctx, margin, dims[i]!));
    const mode = ctx.text('mode', 'constant');
    if (mode !== 'constant') ctx.fail(`pads in mode ${mode}`, 'export a model that pads with a constant');
    const filler = ctx.has(2)
      ? ctx.build.one('reshape', [ctx.value(2)], { shape: [] })
      : ctx.build.one('constant', [], { dtype: irDtype(dtype), shape: [], data: [0] });
    return [margins.reduce((x, margin, dim) => padded(ctx, x, dim, margin, filler), ctx.value(0))];
  },
};

export const padOps = { Pad } as const satisfies Record<string, OnnxOp>;
