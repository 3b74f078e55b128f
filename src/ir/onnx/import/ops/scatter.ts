/** Writes into tensors: at places known when the model is imported, or among the features of each token. */
import type { Value } from '../../../graph.js';
import { constantOf } from '../../../size.js';
import { irDtype, type OnnxOp, type TranslateContext } from '../context.js';
import { one, sameDims } from '../shapes.js';
import { reshapeTo } from './layout.js';
import { chosen, MAX_CHOICES } from './one-hot.js';
import { spell } from './spell.js';

const REDUCTION_HINT = 'export the model without writes into tensors';

/** Rows of the first dim at known places: cut apart and put together again, as `x[:, a:b] = y` is exported. */
const ScatterND: OnnxOp = {
  values: [0, 2],
  infer: (ctx) => [{ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }],
  translate: (ctx) => {
    const [data, ids] = [ctx.operand(0), ctx.operand(1)];
    const [rows, depth] = [constantOf(data.dims[0] ?? one), constantOf(ids.dims.at(-1) ?? one)];
    if (ids.ints === undefined || depth !== 1 || rows === undefined || ids.dims.length !== 2)
      return ctx.fail(
        'writes at places that are no known rows of its first dim',
        'use a model that does not write into tensors by computed index',
      );
    if (ctx.text('reduction', 'none') !== 'none')
      ctx.fail(`combines by ${ctx.text('reduction', '')}`, REDUCTION_HINT);
    const source = new Map<number, number>();
    ctx.numbers(1).forEach((place, i) => source.set(place < 0 ? place + rows : place, i));
    if ([...source.keys()].some((place) => place < 0 || place >= rows))
      ctx.fail(`writes outside of ${rows} rows`, 'export the model again');
    return [joined(ctx, piecesOf(source, rows))];
  },
};

/** A run of rows that lie in order in the operand they come from. */
interface Piece {
  readonly operand: 0 | 2;
  readonly start: number;
  readonly rows: number;
}

/** @param source the row of the updates that each written row comes from */
function piecesOf(source: ReadonlyMap<number, number>, rows: number): readonly Piece[] {
  const pieces: Piece[] = [];
  for (let row = 0; row < rows; row++) {
    const [operand, at] = source.has(row) ? ([2, source.get(row)!] as const) : ([0, row] as const);
    const last = pieces.at(-1);
    if (last?.operand === operand && last.start + last.rows === at)
      pieces[pieces.length - 1] = { ...last, rows: last.rows + 1 };
    else pieces.push({ operand, start: at, rows: 1 });
  }
  return pieces;
}

function joined(ctx: TranslateContext, pieces: readonly Piece[]): Value {
  const parts = pieces.map(({ operand, start, rows }) => {
    const value = ctx.value(operand);
    return start === 0 && constantOf(value.type.dims[0]!.size) === rows
      ? value
      : ctx.build.one('slice', [value], { dim: 0, start, end: start + rows, step: 1 });
  });
  return parts.length === 1 ? parts[0]! : ctx.build.one('concat', parts, { dim: 0 });
}

/** Among the elements of the last dim, at computed places that are all different, as those of TopK are. */
const ScatterElements: OnnxOp = {
  infer: ScatterND.infer,
  translate: (ctx) => {
    const [data, ids] = [ctx.operand(0), ctx.operand(1)];
    const [rank, size] = [data.dims.length, constantOf(data.dims.at(-1) ?? one)];
    const axis = ctx.axis(ctx.int('axis', 0), Math.max(1, rank));
    const aligned = sameDims(data.dims.slice(0, -1), ids.dims.slice(0, -1));
    if (axis !== rank - 1 || size === undefined || size < 1 || size > MAX_CHOICES || !aligned)
      return ctx.fail(
        'writes at computed places of other tokens',
        'use a model that does not write into tensors by computed index',
      );
    const reduction = ctx.text('reduction', 'none');
    if (irDtype(data.dtype) !== 'f32' || (reduction !== 'none' && reduction !== 'add'))
      ctx.fail(`writes ${data.dtype} values, combined by ${reduction}`, REDUCTION_HINT);
    const s = spell(ctx);
    const hit = chosen(ctx, ctx.value(1), size);
    const updates = reshapeTo(ctx, ctx.value(2), [...ids.dims, one]);
    const over = [rank - 1];
    const written = s.sum(s.where(hit, updates, 0), over, false);
    if (reduction === 'add') return [s.add(ctx.value(0), written)];
    const count = s.sum(s.where(hit, 1, 0), over, false);
    return [s.where(s.less(0, count), written, ctx.value(0))];
  },
};

export const scatterOps = { ScatterND, ScatterElements } as const satisfies Record<string, OnnxOp>;
