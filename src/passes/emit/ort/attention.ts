/**
 * Attention over tiles of query rows: the scores of one tile exist inside the model only. Heads lead inside,
 * so that every product is one batch of matrix products. Rows hold all the keys they see, so softmax is
 * computed again in the backward: neither the output nor the log-sum-exp need to be kept.
 */
import { invariant } from '../../../errors.js';
import { numberAttr, type Attrs, type Node } from '../../../ir/graph.js';
import { aheadOf } from '../../../ir/ops/attention-mask.js';
import { constantOf, mulSizes, symbolSize } from '../../../ir/size.js';
import { dim, tensorType, type Dim, type Type } from '../../../ir/type.js';
import { modelBuilder, type ModelBuilder, type OrtValue } from './builder.js';
import type { AttentionKernels, AttentionModel, AttentionModels } from './lowered.js';
import { elementCode } from './proto.js';

/**
 * How query heads meet K/V heads. `own`: each has its own. `folded`: every K/V head serves the same number of
 * query heads, whose rows are folded into one matrix, so that K and V are never repeated and their gradients
 * need no sum over heads. `mapped`: any map; K and V are gathered for each query head.
 */
type Grouping = 'own' | 'folded' | 'mapped';

/** All that the models depend on. */
interface Form {
  readonly attrs: Attrs;
  readonly grouping: Grouping;
  readonly kvHeads: Dim;
  readonly headSize: Dim;
  readonly valueSize: Dim;
  /** Whether the log-sum-exp of the scores is wanted, and in the backward its cotangent given. */
  readonly lse: boolean;
}

const QUERIES = dim(symbolSize('Tq'));
const KEYS = dim(symbolSize('Tk'));
const HEADS = dim(symbolSize('Hl'));
const KV_HEADS = dim(symbolSize('Hkvl'));
/** Query heads of a K/V head. */
const GROUP = dim(symbolSize('G'));
const GROUP_ROWS = dim(mulSizes(GROUP.size, QUERIES.size));
const ONE = dim(1);

const f32 = (...dims: readonly Dim[]): Type => tensorType('f32', dims);

/**
 * The tile models of an `attention` or `attention_vjp` node: equal for equal attributes and head sizes.
 * @param lse whether they give the log-sum-exp, or take its cotangent
 */
export function lowerAttention(node: Node, lse = false): AttentionKernels {
  invariant(node.op === 'attention' || node.op === 'attention_vjp', `${node.op} is not attention`);
  const constants = node.operands.slice(0, 3).map(({ type }) =>
    type.dims.slice(1).map((d) => {
      const size = constantOf(d.size);
      invariant(size !== undefined, 'heads and head sizes of attention are constant');
      return size;
    }),
  );
  const [[heads, headSize], [kvHeads], [, valueSize]] = constants as [number[], number[], number[]];
  const sizes = { attrs: node.attrs, headSize: dim(headSize!), valueSize: dim(valueSize!), lse };
  const models = (grouping: Grouping, kvHeads: Dim): AttentionModels => {
    const form: Form = { ...sizes, grouping, kvHeads };
    return { forward: forwardModel(form), backward: backwardModel(form) };
  };
  if (heads === kvHeads) return models('own', HEADS);
  return { ...models('folded', KV_HEADS), mapped: models('mapped', KV_HEADS) };
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

interface Operands {
  readonly q: OrtValue;
  readonly k: OrtValue;
  readonly v: OrtValue;
  readonly headMap: OrtValue | undefined;
  /** int64[1] each: rows of queries, rows of keys, local K/V heads, query heads a K/V head. */
  readonly shape: {
    readonly tq: OrtValue;
    readonly tk: OrtValue;
    readonly kv: OrtValue;
    readonly group: OrtValue;
  };
}

function operandsOf({ build, input, int64Input, form }: Tile): Operands {
  const q = input('q', f32(QUERIES, HEADS, form.headSize));
  const k = input('k', f32(KEYS, form.kvHeads, form.headSize));
  const v = input('v', f32(KEYS, form.kvHeads, form.valueSize));
  const size = (x: OrtValue, at: number): OrtValue => build.shapeOp('Shape', [x], { start: at, end: at + 1 });
  const kv = size(k, 1);
  // A rank without heads has no K/V heads either.
  const group = build.shapeOp('Div', [size(q, 1), build.shapeOp('Max', [kv, build.int64s([1])])]);
  const headMap = form.grouping === 'mapped' ? int64Input('head_map', 'Hl') : undefined;
  return { q, k, v, headMap, shape: { tq: size(q, 0), tk: size(k, 0), kv, group } };
}

const batchOf = ({ form }: Tile): Dim => (form.grouping === 'folded' ? KV_HEADS : HEADS);
const rowsOf = ({ form }: Tile): Dim => (form.grouping === 'folded' ? GROUP_ROWS : QUERIES);
const scoresType = (tile: Tile): Type => f32(batchOf(tile), rowsOf(tile), KEYS);

const int64Of = (build: ModelBuilder, ...parts: readonly OrtValue[]): OrtValue =>
  build.shapeOp('Concat', parts, { axis: 0 });

const reshape = (build: ModelBuilder, x: OrtValue, type: Type, shape: readonly OrtValue[]): OrtValue =>
  build.op('Reshape', [x, int64Of(build, ...shape)], type, { allowzero: 1 });

const sizeOf = (build: ModelBuilder, d: Dim): OrtValue => build.int64s([constantOf(d.size)!]);

/** Query rows `[Tq, Hl, D]` as matrices, heads first: `[Hl, Tq, D]`, folded `[Hkvl, G·Tq, D]`. */
function byHead(tile: Tile, x: OrtValue, { shape }: Operands): OrtValue {
  const { build, form } = tile;
  const d = x.type!.dims[2]!;
  if (form.grouping !== 'folded')
    return build.op('Transpose', [x], f32(HEADS, QUERIES, d), { perm: [1, 0, 2] });
  const size = sizeOf(build, d);
  const grouped = reshape(build, x, f32(QUERIES, KV_HEADS, GROUP, d), [
    shape.tq,
    shape.kv,
    shape.group,
    size,
  ]);
  const first = build.op('Transpose', [grouped], f32(KV_HEADS, GROUP, QUERIES, d), { perm: [1, 2, 0, 3] });
  const rows = build.shapeOp('Mul', [shape.group, shape.tq]);
  return reshape(build, first, f32(KV_HEADS, GROUP_ROWS, d), [shape.kv, rows, size]);
}

/** The opposite of `byHead`. */
function byToken(tile: Tile, x: OrtValue, { shape }: Operands): OrtValue {
  const { build, form } = tile;
  const d = x.type!.dims[2]!;
  const type = f32(QUERIES, HEADS, d);
  if (form.grouping !== 'folded') return build.op('Transpose', [x], type, { perm: [1, 0, 2] });
  const size = sizeOf(build, d);
  const grouped = reshape(build, x, f32(KV_HEADS, GROUP, QUERIES, d), [
    shape.kv,
    shape.group,
    shape.tq,
    size,
  ]);
  const last = build.op('Transpose', [grouped], f32(QUERIES, KV_HEADS, GROUP, d), { perm: [2, 0, 1, 3] });
  return reshape(build, last, type, [shape.tq, build.shapeOp('Mul', [shape.kv, shape.group]), size]);
}

/** K or V `[Tk, Hkvl, D]` as matrices, heads first; mapped: each query head gets the K/V head it reads. */
function keysByHead({ build }: Tile, x: OrtValue, { headMap }: Operands): OrtValue {
  const [rows, heads, size] = x.type!.dims;
  const first = build.op('Transpose', [x], f32(heads!, rows!, size!), { perm: [1, 0, 2] });
  return headMap === undefined
    ? first
    : build.op('Gather', [first, headMap], f32(HEADS, rows!, size!), { axis: 0 });
}

/** Swaps the last two dims: left to ONNX Runtime, which folds it into the product. */
const transposed = ({ build }: Tile, x: OrtValue): OrtValue => {
  const [heads, rows, columns] = x.type!.dims;
  return build.op('Transpose', [x], f32(heads!, columns!, rows!), { perm: [0, 2, 1] });
};

/** Times the distance of a key that is not seen: beyond any score, and finite for documents of 2^24 tokens. */
const HIDDEN = 1e30;

/** How far each key is before each query: `[Tq, Tk]`. */
function distanceOf(tile: Tile, { q, k }: Operands): OrtValue {
  const { build } = tile;
  const rows = build.shapeOp('Add', [indices(tile, q), tile.int64Input('offset', 1)]);
  const row = asFloats(tile, build.shapeOp('Unsqueeze', [rows, build.int64s([1])]), f32(QUERIES, ONE));
  return build.op('Sub', [row, asFloats(tile, indices(tile, k), f32(KEYS))], f32(QUERIES, KEYS));
}

/**
 * 0 where a query sees a key, at most −HIDDEN where not: `[Tq, Tk]`, for all heads. Undefined: every query
 * sees every key. Float arithmetic, because ONNX Runtime's comparisons and Where are not vectorised: with
 * few heads they would take a third of the time. Indices are exact below 2^24.
 */
function maskOf({ build, form }: Tile, distance: OrtValue): OrtValue | undefined {
  const { mask } = form.attrs;
  if (mask === 'full') return undefined;
  const type = f32(QUERIES, KEYS);
  const ahead = aheadOf(form.attrs);
  const before = ahead === 0 ? distance : build.op('Add', [distance, build.float(ahead)], type);
  const limits = [before, build.float(0)];
  if (mask === 'window') {
    const furthest = build.float(numberAttr(form.attrs, 'window') - 1);
    limits.push(build.op('Sub', [furthest, distance], type));
  }
  return build.op('Mul', [build.op('Min', limits, type), build.float(HIDDEN)], type);
}

const twoOnes = (build: ModelBuilder): readonly OrtValue[] => [build.int64s([1]), build.int64s([1])];

/** What is added to the scores: `[Tq, Tk]`, or by head where heads have slopes. Undefined: nothing. */
function biasOf(tile: Tile, operands: Operands): OrtValue | undefined {
  const { build, form } = tile;
  const distance =
    form.attrs['mask'] === 'full' && form.attrs['slopes'] === undefined
      ? undefined
      : distanceOf(tile, operands);
  if (distance === undefined) return undefined;
  const mask = maskOf(tile, distance);
  if (form.attrs['slopes'] === undefined) return mask;
  const { kv, group } = operands.shape;
  const perHead = tile.input('slopes', f32(HEADS));
  const [heads, column] =
    form.grouping === 'folded'
      ? [
          [KV_HEADS, GROUP],
          reshape(build, perHead, f32(KV_HEADS, GROUP, ONE, ONE), [kv, group, ...twoOnes(build)]),
        ]
      : [[HEADS], build.op('Unsqueeze', [perHead, build.int64s([1, 2])], f32(HEADS, ONE, ONE))];
  const type = f32(...heads, QUERIES, KEYS);
  const away = build.op('Neg', [build.op('Abs', [distance], distance.type!)], distance.type!);
  const bias = build.op('Mul', [column, away], type);
  return mask === undefined ? bias : build.op('Add', [bias, mask], type);
}

/** 0, 1, … for the rows of x. */
function indices({ build }: Tile, x: OrtValue): OrtValue {
  const scalar = (value: OrtValue): OrtValue => build.shapeOp('Squeeze', [value]);
  const length = scalar(build.shapeOp('Shape', [x], { start: 0, end: 1 }));
  return build.shapeOp('Range', [scalar(build.int64s([0])), length, scalar(build.int64s([1]))]);
}

const asFloats = ({ build }: Tile, x: OrtValue, type: Type): OrtValue =>
  build.op('Cast', [x], type, { to: elementCode('f32') });

/**
 * Spelt out, because ONNX Runtime's own Softmax is less exact: it put three AdamW steps of gpt2 beyond the bar
 * (1.05 to 1.17 of it, where this is at 0.35 to 0.39).
 */
function softmax({ build }: Tile, x: OrtValue): { weights: OrtValue; lse: () => OrtValue } {
  const type = x.type!;
  const last = build.int64s([type.dims.length - 1]);
  const row = f32(...type.dims.slice(0, -1), ONE);
  const max = build.op('ReduceMax', [x, last], row, { keepdims: 1 });
  const weights = build.op('Exp', [build.op('Sub', [x, max], type)], type);
  const total = build.op('ReduceSum', [weights, last], row, { keepdims: 1 });
  return {
    weights: build.op('Div', [weights, total], type),
    lse: () => build.op('Add', [max, build.op('Log', [total], row)], row),
  };
}

interface Weights {
  /** softmax of the masked scores: `[heads, rows, Tk]`. */
  readonly weights: OrtValue;
  readonly queries: OrtValue;
  readonly keys: OrtValue;
  /** Derivative of the capped scores by the scores. */
  readonly slope: (() => OrtValue) | undefined;
  /** Log-sum-exp of the masked scores: `[heads, rows, 1]`. */
  readonly lse: () => OrtValue;
}

function weightsOf(tile: Tile, operands: Operands): Weights {
  const { build, form } = tile;
  const { q, k, shape } = operands;
  const queries = byHead(
    tile,
    build.op('Mul', [q, build.float(numberAttr(form.attrs, 'scale'))], q.type!),
    operands,
  );
  const keys = keysByHead(tile, k, operands);
  const type = scoresType(tile);
  const products = build.op('MatMul', [queries, transposed(tile, keys)], type);
  const { scores, slope } = capped(tile, products);
  const mask = biasOf(tile, operands);
  if (mask === undefined || form.grouping !== 'folded') {
    const masked = mask === undefined ? scores : build.op('Add', [scores, mask], type);
    return { ...softmax(tile, masked), queries, keys, slope };
  }
  const unfolded = f32(KV_HEADS, GROUP, QUERIES, KEYS);
  const apart = reshape(build, scores, unfolded, [shape.kv, shape.group, shape.tq, shape.tk]);
  const softened = softmax(tile, build.op('Add', [apart, mask], unfolded));
  const rows = build.shapeOp('Mul', [shape.group, shape.tq]);
  const folded = (x: OrtValue, last: Dim, size: OrtValue): OrtValue =>
    reshape(build, x, f32(KV_HEADS, GROUP_ROWS, last), [shape.kv, rows, size]);
  return {
    weights: folded(softened.weights, KEYS, shape.tk),
    lse: () => folded(softened.lse(), ONE, build.int64s([1])),
    queries,
    keys,
    slope,
  };
}

/** c · tanh(scores / c), and 1 − tanh², where scores are capped. */
function capped({ build, form }: Tile, scores: OrtValue): Pick<Weights, 'slope'> & { scores: OrtValue } {
  if (form.attrs['softcap'] === undefined) return { scores, slope: undefined };
  const cap = build.float(numberAttr(form.attrs, 'softcap'));
  const type = scores.type!;
  const tanh = build.op('Tanh', [build.op('Div', [scores, cap], type)], type);
  const slope = (): OrtValue => build.op('Sub', [build.float(1), build.op('Mul', [tanh, tanh], type)], type);
  return { scores: build.op('Mul', [tanh, cap], type), slope };
}

function forwardModel(form: Form): AttentionModel {
  const tile = tileOf(form);
  const operands = operandsOf(tile);
  const { weights, lse } = weightsOf(tile, operands);
  const values = keysByHead(tile, operands.v, operands);
  const out = tile.build.op('MatMul', [weights, values], f32(batchOf(tile), rowsOf(tile), form.valueSize));
  const given = { out: byToken(tile, out, operands) };
  if (!form.lse) return tile.finish(given);
  const rows = byToken(tile, lse(), operands);
  return tile.finish({
    ...given,
    lse: tile.build.op('Squeeze', [rows, tile.build.int64s([2])], f32(QUERIES, HEADS)),
  });
}

/**
 * Flash attention's backward (arXiv 2205.14135, appendix B.4), but over whole rows of keys: the row sums of
 * dP ∘ P then need no `out`, and cancel exactly where a query sees one key, as the true gradient does.
 */
function backwardModel(form: Form): AttentionModel {
  const tile = tileOf(form);
  const { build } = tile;
  const operands = operandsOf(tile);
  const g = byHead(tile, tile.input('g', f32(QUERIES, HEADS, form.valueSize)), operands);
  const glse = form.lse ? lseCotangent(tile, operands) : undefined;
  const dkSum = tile.input('dk_acc', operands.k.type!);
  const dvSum = tile.input('dv_acc', operands.v.type!);
  const onehot = form.grouping === 'mapped' ? tile.input('head_onehot', f32(KV_HEADS, HEADS)) : undefined;
  const scores = scoresType(tile);

  const { weights, queries, keys, slope } = weightsOf(tile, operands);
  const dv = build.op('MatMul', [transposed(tile, weights), g], f32(batchOf(tile), KEYS, form.valueSize));
  const dvTotal = addToKeys(tile, dvSum, dv, onehot);

  const values = keysByHead(tile, operands.v, operands);
  const dWeights = build.op('MatMul', [g, transposed(tile, values)], scores);
  const along = build.op('Mul', [dWeights, weights], scores);
  const perRow = f32(batchOf(tile), rowsOf(tile), ONE);
  const sums = build.op('ReduceSum', [along, build.int64s([2])], perRow, { keepdims: 1 });
  const delta = glse === undefined ? sums : build.op('Sub', [sums, glse], perRow);
  const centred = build.op('Sub', [dWeights, delta], scores);
  const dCapped = build.op('Mul', [centred, weights], scores);
  const dScores = slope === undefined ? dCapped : build.op('Mul', [dCapped, slope()], scores);
  const dk = build.op(
    'MatMul',
    [transposed(tile, dScores), queries],
    f32(batchOf(tile), KEYS, form.headSize),
  );
  const dq = build.op('MatMul', [dScores, keys], f32(batchOf(tile), rowsOf(tile), form.headSize));
  const scale = build.float(numberAttr(form.attrs, 'scale'));
  return tile.finish({
    dq: build.op('Mul', [byToken(tile, dq, operands), scale], operands.q.type!),
    dk: addToKeys(tile, dkSum, dk, onehot),
    dv: dvTotal,
  });
}

/** The cotangent of the log-sum-exp `[Tq, Hl]`, a number a row of scores: a score's share of it is its weight. */
function lseCotangent(tile: Tile, operands: Operands): OrtValue {
  const { build } = tile;
  const given = tile.input('glse', f32(QUERIES, HEADS));
  return byHead(tile, build.op('Unsqueeze', [given, build.int64s([2])], f32(QUERIES, HEADS, ONE)), operands);
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
