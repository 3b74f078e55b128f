/** Choices among features by a computed index, as comparisons with a row of indices. */
import type { Value } from '../../../graph.js';
import { constantOf } from '../../../size.js';
import { irDtype, type OnnxOp, type TranslateContext } from '../context.js';
import { one, sameDims } from '../shapes.js';
import { reshapeTo } from './layout.js';
import { spell } from './spell.js';

/** Sizes above are tables, not features. */
export const MAX_CHOICES = 4096;

/** Whether each of `size` indices is the one asked for: ids[…] and −size ≤ id < size give bool[…, size]. */
export function chosen(ctx: TranslateContext, ids: Value, size: number): Value {
  const integer = (shape: readonly number[], data: readonly number[]): Value =>
    ctx.build.one('constant', [], { dtype: 'i32', shape: [...shape], data: [...data] });
  const open = reshapeTo(ctx, ids, [...ids.type.dims.map((d) => d.size), one]);
  const indices = Array.from({ length: size }, (_, i) => i);
  const s = spell(ctx);
  const equals = (from: number): Value =>
    s.equal(
      open,
      integer(
        [size],
        indices.map((i) => i + from),
      ),
    );
  return s.or(equals(0), equals(-size));
}

const OneHot: OnnxOp = {
  values: [0, 2],
  infer: (ctx) => {
    const { dims } = ctx.operand(0);
    const at = ctx.axis(ctx.int('axis', -1), dims.length + 1);
    return [{ dtype: ctx.operand(2).dtype, dims: [...dims.slice(0, at), ctx.scalar(1), ...dims.slice(at)] }];
  },
  translate: (ctx) => {
    const { dims, dtype } = ctx.operand(0);
    const depth = constantOf(ctx.scalar(1));
    if (depth === undefined || depth < 1 || depth > MAX_CHOICES)
      return ctx.fail(`has ${ctx.scalar(1).key} classes`, 'export the model with a constant number of them');
    if (irDtype(dtype) !== 'i32') ctx.fail(`counts classes by ${dtype}`, 'export the model again');
    const at = ctx.axis(ctx.int('axis', -1), dims.length + 1);
    const s = spell(ctx);
    const [off, on] = [0, 1].map((start) => {
      const one = ctx.build.one('slice', [ctx.value(2)], { dim: 0, start, end: start + 1, step: 1 });
      return reshapeTo(ctx, one, []);
    }) as [Value, Value];
    const typed = s.where(chosen(ctx, ctx.value(0), depth), on, off);
    if (at === dims.length) return [typed];
    const perm = [...dims.keys()];
    perm.splice(at, 0, dims.length);
    return [ctx.build.one('transpose', [typed], { perm })];
  },
};

/** Elements of the last dim at computed places: x[…, n], ids[…, k] give […, k]; undefined where it is not that. */
export function lastDimElements(ctx: TranslateContext): Value | undefined {
  const [x, ids] = [ctx.operand(0), ctx.operand(1)];
  const rank = x.dims.length;
  const size = constantOf(x.dims.at(-1) ?? one);
  const isLast = rank > 0 && ctx.axis(ctx.int('axis', 0), rank) === rank - 1;
  if (!isLast || size === undefined || size < 1 || size > MAX_CHOICES) return undefined;
  if (irDtype(x.dtype) !== 'f32' || !sameDims(x.dims.slice(0, -1), ids.dims.slice(0, -1))) return undefined;
  const s = spell(ctx);
  const open = reshapeTo(ctx, ctx.value(0), [...x.dims.slice(0, -1), one, x.dims.at(-1)!]);
  return s.sum(s.where(chosen(ctx, ctx.value(1), size), open, 0), [rank], false);
}

export const oneHotOps = { OneHot } as const satisfies Record<string, OnnxOp>;
