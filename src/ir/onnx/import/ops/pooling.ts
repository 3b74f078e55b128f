/**
 * Operations that make one row of all the tokens of a sequence: [1, S, …] becomes [batch, …]. The batch is one row of
 * packed documents, so the result has a row for each token, [S, …]; see `../pool.ts` for which of them count. Each
 * operation here pools where that is what it does, and is its own self elsewhere.
 */
import type { Value } from '../../../graph.js';
import type { Pool } from '../../../pooled.js';
import { constantOf, productOfSizes, sameSize, subSizes, type Size } from '../../../size.js';
import { irDtype, type OnnxOp, type OpContext, type Shaped, type TranslateContext } from '../context.js';
import { isOne, isTokens, one, reshapeTarget, tokens, type Dims } from '../shapes.js';
import { contractOps, reducedDims } from './contract.js';
import { layoutOps, reshapeTo } from './layout.js';
import { placeOfLargest } from './reduce.js';
import { cutsOf, selectOps } from './select.js';
import { spell } from './spell.js';

/** What a node pools, and the dims of its result. `read`: which token is decided by the tokens themselves. */
interface Pooling {
  readonly pool: Pool | 'read';
  readonly dims: Dims;
}

/** An operation that pools where `poolingOf` says so. */
const orElse = (
  base: OnnxOp,
  poolingOf: (ctx: OpContext) => Pooling | undefined,
  translate: (ctx: TranslateContext, dims: Dims) => Value,
): OnnxOp => ({
  ...base,
  infer: (ctx) => {
    const found = poolingOf(ctx);
    return found === undefined ? base.infer(ctx) : [{ dtype: ctx.operand(0).dtype, ...found }];
  },
  ...(base.translate === undefined
    ? {}
    : {
        translate: (ctx: TranslateContext) => {
          const found = poolingOf(ctx);
          return found === undefined ? base.translate!(ctx) : [translate(ctx, found.dims)];
        },
      }),
});

/** Rows of every token, as they are: which of them count is known elsewhere. */
const everyRow = (ctx: TranslateContext, dims: Dims): Value => reshapeTo(ctx, ctx.value(0), dims);

/** Whether a value holds [1, S, …] of what the tokens are. */
const isSequence = ({ data, dims }: Shaped): boolean =>
  data === true && dims.length >= 2 && isOne(dims[0]!) && isTokens(dims[1]!);

/** The token at a known index. */
function tokenAt(index: Size | undefined): Pool | undefined {
  if (index === undefined) return undefined;
  if (constantOf(index) === 0) return { kind: 'first' };
  const last = constantOf(index) === -1 || sameSize(index, subSizes(tokens, one));
  return last ? { kind: 'last' } : undefined;
}

const indexed = (ids: Shaped): Pool | 'read' | undefined =>
  ids.ints === undefined ? (ids.data === true ? 'read' : undefined) : tokenAt(ids.ints.at(-1));

function gathered(ctx: OpContext): Pooling | undefined {
  const [x, ids] = [ctx.operand(0), ctx.operand(1)];
  const axis = ctx.axis(ctx.int('axis', 0), x.dims.length);
  if (x.data !== true || x.rows === true || ids.dims.length > 1 || !ids.dims.every(isOne)) return undefined;
  // TorchScript flattens [1, S, …] to [S, …] before it reads a row.
  const flat = axis === 0 && isTokens(x.dims[0]!) && ids.dims.length === 1;
  if (!flat && !(axis === 1 && isSequence(x))) return undefined;
  const pool = indexed(ids);
  const dims = flat ? x.dims : [tokens, ...ids.dims, ...x.dims.slice(2)];
  return pool && { pool, dims };
}

function gatheredNd(ctx: OpContext): Pooling | undefined {
  const [x, ids] = [ctx.operand(0), ctx.operand(1)];
  const batch = ctx.int('batch_dims', 0);
  const [rows, depth, ...more] = ids.dims.map(constantOf);
  if (!isSequence(x) || rows !== 1 || more.length > 0 || batch > 1 || depth !== 2 - batch) return undefined;
  if (batch === 0 && ids.ints !== undefined && constantOf(ids.ints[0]!) !== 0) return undefined;
  const pool = indexed(ids);
  return pool && { pool, dims: [tokens, ...x.dims.slice(2)] };
}

function sliced(ctx: OpContext): Pooling | undefined {
  const x = ctx.operand(0);
  if (!isSequence(x)) return undefined;
  const cuts = cutsOf(ctx).filter((cut) => !cut.whole);
  const [cut] = cuts;
  if (cut === undefined || cuts.length > 1 || cut.axis !== 1 || !isOne(cut.size)) return undefined;
  const pool = tokenAt(cut.start);
  return pool && { pool, dims: [tokens, one, ...x.dims.slice(2)] };
}

function reduced(ctx: OpContext): Pooling | undefined {
  const x = ctx.operand(0);
  const dims = isSequence(x) ? reducedDims(ctx, x.dims.length) : undefined;
  if (dims?.length !== 1 || dims[0] !== 1) return undefined;
  const kept = ctx.int('keepdims', 1) === 1 ? [one] : [];
  return { pool: { kind: 'mean' }, dims: [tokens, ...kept, ...x.dims.slice(2)] };
}

/** Σ over the document of each token, [S, …]. */
function documentSum(ctx: TranslateContext, dims: Dims): Value {
  const width = productOfSizes(ctx.operand(0).dims.slice(2));
  const flat = reshapeTo(ctx, ctx.value(0), [tokens, width]);
  return reshapeTo(ctx, ctx.build.one('document_sum', [flat, ctx.documents()]), dims);
}

function documentMean(ctx: TranslateContext, dims: Dims): Value {
  const lengths = ctx.build.one('cast', [ctx.lengths()], { to: 'f32' });
  const column = reshapeTo(ctx, lengths, [tokens, ...dims.slice(1).map(() => one)]);
  return ctx.build.one('div', [documentSum(ctx, dims), column]);
}

const refusedMax = (base: OnnxOp): OnnxOp => ({
  ...base,
  infer: (ctx) =>
    reduced(ctx) === undefined
      ? base.infer(ctx)
      : ctx.fail(
          'takes the maximum over the tokens of a document',
          'export a model that pools by the mean, or by the first or last token',
        ),
});

/** Where a row stands for the batch, a batch of 1 in a shape is one of S. */
const Reshape: OnnxOp = {
  ...layoutOps.Reshape,
  infer: (ctx) => {
    const x = ctx.operand(0);
    const [batch, ...target] = ctx.ints(1);
    const dims =
      x.rows === true && batch !== undefined && isOne(batch) && isTokens(x.dims[0]!)
        ? reshapeTarget(x.dims, [tokens, ...target], ctx.int('allowzero', 0) === 1)
        : undefined;
    return dims === undefined ? layoutOps.Reshape.infer(ctx) : [{ dtype: x.dtype, dims }];
  },
};

/** Understood where it says which token stands for a document. */
const ArgMax: OnnxOp = {
  translate: (ctx) => {
    const { dims, dtype } = ctx.operand(0);
    const at = ctx.axis(ctx.int('axis', 0), dims.length);
    const size = constantOf(dims[at]!);
    if (size === undefined || size < 1 || irDtype(dtype) !== 'f32' || ctx.int('select_last_index', 0) !== 0)
      ctx.fail(
        'looks for the largest of the tokens, or of integers, or the last of them',
        'use a model that compares the features of each token only',
      );
    const s = spell(ctx);
    const x = ctx.node.opType === 'ArgMin' ? s.neg(ctx.value(0)) : ctx.value(0);
    return [reshapeTo(ctx, placeOfLargest(ctx, x, at), ctx.results[0]!.dims)];
  },
  infer: (ctx) => {
    const { dims } = ctx.operand(0);
    const at = ctx.axis(ctx.int('axis', 0), dims.length);
    const kept = ctx.int('keepdims', 1) === 1 ? [one] : [];
    return [{ dtype: 'i64', dims: [...dims.slice(0, at), ...kept, ...dims.slice(at + 1)] }];
  },
};

export const poolingOps = {
  Gather: orElse(selectOps.Gather, gathered, everyRow),
  GatherND: orElse(selectOps.GatherND, gatheredNd, everyRow),
  Slice: orElse(selectOps.Slice, sliced, everyRow),
  ReduceMean: orElse(contractOps.ReduceMean, reduced, documentMean),
  ReduceSum: orElse(contractOps.ReduceSum, reduced, documentSum),
  ReduceMax: refusedMax(contractOps.ReduceMax),
  Reshape,
  ArgMax,
  ArgMin: ArgMax,
} as const satisfies Record<string, OnnxOp>;
