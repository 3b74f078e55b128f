/**
 * Attention over tiles of query rows: the scores of one tile exist inside the model only. Heads lead inside,
 * so that every product is one batch of matrix products.
 */
import { invariant } from '../../../errors.js';
import { numberAttr, type Attrs, type Node } from '../../../ir/graph.js';
import { constantOf, symbolSize } from '../../../ir/size.js';
import { dim, tensorType, type Dim, type Type } from '../../../ir/type.js';
import { modelBuilder, type ModelBuilder, type OrtValue } from './builder.js';
import type { AttentionKernels, AttentionModel } from './lowered.js';
import { elementCode } from './proto.js';

/** All that the models depend on. */
interface Form {
  readonly attrs: Attrs;
  /** Whether several query heads share a K/V head. */
  readonly grouped: boolean;
  readonly kvHeads: Dim;
  readonly headSize: Dim;
  readonly valueSize: Dim;
}

const QUERIES = dim(symbolSize('Tq'));
const KEYS = dim(symbolSize('Tk'));
const HEADS = dim(symbolSize('Hl'));
const KV_HEADS = dim(symbolSize('Hkvl'));
const ONE = dim(1);
const SCORES = tensorType('f32', [HEADS, QUERIES, KEYS]);
const ROWS = tensorType('f32', [HEADS, QUERIES, ONE]);

const f32 = (...dims: readonly Dim[]): Type => tensorType('f32', dims);

/** The tile models of an `attention` or `attention_vjp` node: equal for equal attributes and head sizes. */
export function lowerAttention(node: Node): AttentionKernels {
  invariant(node.op === 'attention' || node.op === 'attention_vjp', `${node.op} is not attention`);
  const constants = node.operands.slice(0, 3).map(({ type }) =>
    type.dims.slice(1).map((d) => {
      const size = constantOf(d.size);
      invariant(size !== undefined, 'heads and head sizes of attention are constant');
      return size;
    }),
  );
  const [[heads, headSize], [kvHeads], [, valueSize]] = constants as [number[], number[], number[]];
  const form: Form = {
    attrs: node.attrs,
    grouped: heads !== kvHeads,
    kvHeads: heads === kvHeads ? HEADS : KV_HEADS,
    headSize: dim(headSize!),
    valueSize: dim(valueSize!),
  };
  return { forward: forwardModel(form), backward: backwardModel(form) };
}

/** A tile model under construction: its operands in the layout of the arena, and small steps over them. */
interface Tile {
  readonly form: Form;
  readonly build: ModelBuilder;
  readonly input: (name: string, type: Type) => OrtValue;
  readonly int64Input: (name: string, length: number | string) => OrtValue;
  readonly finish: (outputs: Readonly<Record<string, OrtValue>>) => AttentionModel;
}

function tileOf(form: Form): Tile {
  const build = modelBuilder();
  const inputs: string[] = [];
  return {
    form,
    build,
    input: (name, type) => {
      inputs.push(name);
      return build.input(name, type);
    },
    int64Input: (name, length) => {
      inputs.push(name);
      return build.int64Input(name, length);
    },
    finish: (outputs) => {
      const named = Object.entries(outputs).map(([name, value]) => ({ name, value }));
      const { bytes, temporaries } = build.finish(named);
      return { bytes, inputs, outputs: named.map(({ name }) => name), temporaries };
    },
  };
}

/** `[T, H, D]` as `[H, T, D]`. */
const headMajor = ({ build }: Tile, x: OrtValue): OrtValue => {
  const [rows, heads, size] = x.type!.dims;
  return build.op('Transpose', [x], f32(heads!, rows!, size!), { perm: [1, 0, 2] });
};

/** K or V `[Tk, Hkvl, D]` as `[Hl, Tk, D]`: each query head gets the K/V head it reads. */
function repeated(tile: Tile, x: OrtValue, headMap: OrtValue | undefined): OrtValue {
  if (headMap === undefined) return headMajor(tile, x);
  const type = f32(HEADS, KEYS, x.type!.dims[2]!);
  return tile.build.op('Gather', [headMajor(tile, x), headMap], type, { axis: 0 });
}

/** Swaps the last two dims: left to ONNX Runtime, which folds it into the product. */
const transposed = ({ build }: Tile, x: OrtValue): OrtValue => {
  const [heads, rows, columns] = x.type!.dims;
  return build.op('Transpose', [x], f32(heads!, columns!, rows!), { perm: [0, 2, 1] });
};

/** Times the distance of a key that is not seen: beyond any score, and finite for documents of 2^24 tokens. */
const HIDDEN = 1e30;

/**
 * 0 where a query sees a key, at most −HIDDEN where not: `[Tq, Tk]`, for all heads. Undefined: every query
 * sees every key. Float arithmetic, because ONNX Runtime's comparisons and Where are not vectorised: with
 * few heads they would take a third of the time. Indices are exact below 2^24.
 */
function maskOf(tile: Tile, q: OrtValue, k: OrtValue): OrtValue | undefined {
  const { build, form } = tile;
  const { mask } = form.attrs;
  if (mask === 'full') return undefined;
  const type = f32(QUERIES, KEYS);
  const rows = build.shapeOp('Add', [indices(tile, q), tile.int64Input('offset', 1)]);
  const row = asFloats(tile, build.shapeOp('Unsqueeze', [rows, build.int64s([1])]), f32(QUERIES, ONE));
  const distance = build.op('Sub', [row, asFloats(tile, indices(tile, k), f32(KEYS))], type);
  const limits = [distance, build.float(0)];
  if (mask === 'window') {
    const furthest = build.float(numberAttr(form.attrs, 'window') - 1);
    limits.push(build.op('Sub', [furthest, distance], type));
  }
  return build.op('Mul', [build.op('Min', limits, type), build.float(HIDDEN)], type);
}

/** 0, 1, … for the rows of x. */
function indices({ build }: Tile, x: OrtValue): OrtValue {
  const scalar = (value: OrtValue): OrtValue => build.shapeOp('Squeeze', [value]);
  const length = scalar(build.shapeOp('Shape', [x], { start: 0, end: 1 }));
  return build.shapeOp('Range', [scalar(build.int64s([0])), length, scalar(build.int64s([1]))]);
}

const asFloats = ({ build }: Tile, x: OrtValue, type: Type): OrtValue =>
  build.op('Cast', [x], type, { to: elementCode('f32') });

interface Operands {
  readonly q: OrtValue;
  readonly k: OrtValue;
  readonly v: OrtValue;
}

const operandsOf = ({ input, form }: Tile): Operands => ({
  q: input('q', f32(QUERIES, HEADS, form.headSize)),
  k: input('k', f32(KEYS, form.kvHeads, form.headSize)),
  v: input('v', f32(KEYS, form.kvHeads, form.valueSize)),
});

interface Scores {
  readonly scores: OrtValue;
  readonly scaledQueries: OrtValue;
  readonly keys: OrtValue;
}

/** Masked scores `[Hl, Tq, Tk]`, and the head-major operands they come from. */
function scoresOf(tile: Tile, { q, k }: Operands, headMap: OrtValue | undefined): Scores {
  const { build, form } = tile;
  const scale = build.float(numberAttr(form.attrs, 'scale'));
  const scaledQueries = headMajor(tile, build.op('Mul', [q, scale], q.type!));
  const keys = repeated(tile, k, headMap);
  const raw = build.op('MatMul', [scaledQueries, transposed(tile, keys)], SCORES);
  const mask = maskOf(tile, q, k);
  return { scores: mask === undefined ? raw : build.op('Add', [raw, mask], SCORES), scaledQueries, keys };
}

const headMapOf = (tile: Tile): OrtValue | undefined =>
  tile.form.grouped ? tile.int64Input('head_map', 'Hl') : undefined;

/** Softmax spelt out, because its row sums give the log-sum-exp. */
function forwardModel(form: Form): AttentionModel {
  const tile = tileOf(form);
  const { build } = tile;
  const operands = operandsOf(tile);
  const headMap = headMapOf(tile);
  const { scores } = scoresOf(tile, operands, headMap);
  const last = build.int64s([2]);
  const max = build.op('ReduceMax', [scores, last], ROWS, { keepdims: 1 });
  const weights = build.op('Exp', [build.op('Sub', [scores, max], SCORES)], SCORES);
  const total = build.op('ReduceSum', [weights, last], ROWS, { keepdims: 1 });
  const values = repeated(tile, operands.v, headMap);
  const sums = build.op('MatMul', [weights, values], f32(HEADS, QUERIES, form.valueSize));
  const averages = build.op('Div', [sums, total], sums.type!);
  const lse = build.op('Add', [max, build.op('Log', [total], ROWS)], ROWS);
  const flat = build.op('Squeeze', [lse, last], f32(HEADS, QUERIES));
  return tile.finish({
    out: build.op('Transpose', [averages], f32(QUERIES, HEADS, form.valueSize), { perm: [1, 0, 2] }),
    lse: build.op('Transpose', [flat], f32(QUERIES, HEADS), { perm: [1, 0] }),
  });
}

/** `[Tq, Hl]` as `[Hl, Tq, 1]`. */
const perRow = ({ build }: Tile, x: OrtValue): OrtValue =>
  build.op(
    'Unsqueeze',
    [build.op('Transpose', [x], f32(HEADS, QUERIES), { perm: [1, 0] }), build.int64s([2])],
    ROWS,
  );

/**
 * Flash attention's backward (arXiv 2205.14135, appendix B.4), but over whole rows of keys: the row sums of
 * dP ∘ P then need no `out`, and cancel exactly where a query sees one key, as the true gradient does.
 */
function backwardModel(form: Form): AttentionModel {
  const tile = tileOf(form);
  const { build } = tile;
  const operands = operandsOf(tile);
  const lse = tile.input('lse', f32(QUERIES, HEADS));
  const g = tile.input('g', f32(QUERIES, HEADS, form.valueSize));
  const dkSum = tile.input('dk_acc', operands.k.type!);
  const dvSum = tile.input('dv_acc', operands.v.type!);
  const headMap = headMapOf(tile);
  const onehot = form.grouped ? tile.input('head_onehot', f32(KV_HEADS, HEADS)) : undefined;

  const { scores, scaledQueries, keys } = scoresOf(tile, operands, headMap);
  const shifted = build.op('Sub', [scores, perRow(tile, lse)], SCORES);
  const weights = build.op('Exp', [shifted], SCORES);
  const gHeads = headMajor(tile, g);
  const dv = build.op('MatMul', [transposed(tile, weights), gHeads], f32(HEADS, KEYS, form.valueSize));
  const dvTotal = addToKeys(tile, dvSum, dv, onehot);

  const values = repeated(tile, operands.v, headMap);
  const dWeights = build.op('MatMul', [gHeads, transposed(tile, values)], SCORES);
  const along = build.op('Mul', [dWeights, weights], SCORES);
  const delta = build.op('ReduceSum', [along, build.int64s([2])], ROWS, { keepdims: 1 });
  const centred = build.op('Sub', [dWeights, delta], SCORES);
  const dScores = build.op('Mul', [centred, weights], SCORES);
  const dk = build.op('MatMul', [transposed(tile, dScores), scaledQueries], f32(HEADS, KEYS, form.headSize));
  const dq = build.op('MatMul', [dScores, keys], f32(HEADS, QUERIES, form.headSize));
  const dqRows = build.op('Transpose', [dq], operands.q.type!, { perm: [1, 0, 2] });
  return tile.finish({
    dq: build.op('Mul', [dqRows, build.float(numberAttr(form.attrs, 'scale'))], operands.q.type!),
    dk: addToKeys(tile, dkSum, dk, onehot),
    dv: dvTotal,
  });
}

/** sum[Tk, Hkvl, D] + x[Hl, Tk, D], query heads added up into the K/V heads they read. */
function addToKeys(tile: Tile, sum: OrtValue, x: OrtValue, onehot: OrtValue | undefined): OrtValue {
  const { build } = tile;
  const type = sum.type!;
  const perKv = onehot === undefined ? x : groupedSum(tile, x, onehot);
  const rows = build.op('Transpose', [perKv], type, { perm: [1, 0, 2] });
  return build.op('Add', [sum, rows], type);
}

/** onehot[Hkvl, Hl] · x[Hl, Tk, D] → [Hkvl, Tk, D]. */
function groupedSum({ build }: Tile, x: OrtValue, onehot: OrtValue): OrtValue {
  const size = x.type!.dims[2]!;
  const part = (of: OrtValue, start: number, end: number): OrtValue =>
    build.shapeOp('Shape', [of], { start, end });
  const flat = build.shapeOp(
    'Concat',
    [part(x, 0, 1), build.shapeOp('Mul', [part(x, 1, 2), part(x, 2, 3)])],
    { axis: 0 },
  );
  const spread = build.op('Reshape', [x, flat], x.type!, { allowzero: 1 });
  const summed = build.op('MatMul', [onehot, spread], f32(KV_HEADS, KEYS, size));
  const shape = build.shapeOp('Concat', [part(onehot, 0, 1), part(x, 1, 3)], { axis: 0 });
  return build.op('Reshape', [summed, shape], summed.type!, { allowzero: 1 });
}
