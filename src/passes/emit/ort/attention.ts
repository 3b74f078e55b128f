/**
 * Attention over tiles of query rows: the scores of one tile exist inside the model only. Heads lead inside,
 * so that every product is one batch of matrix products. Rows hold all the keys they see, so softmax is
 * computed again in the backward: neither the output nor the log-sum-exp need to be kept.
 */
import { invariant } from '../../../errors.js';
import { numberAttr, type Node } from '../../../ir/graph.js';
import { constantOf } from '../../../ir/size.js';
import { dim, type Dim } from '../../../ir/type.js';
import { biasCotangent, biasOf, type Diagonals } from './attention-bias.js';
import {
  batchOf,
  byHead,
  byToken,
  f32,
  GROUP,
  GROUP_ROWS,
  HEADS,
  KEYS,
  keysByHead,
  KV_HEADS,
  ONE,
  operandsOf,
  QUERIES,
  reshape,
  rowsOf,
  scoresType,
  tileOf,
  transposed,
  type Form,
  type Grouping,
  type Operands,
  type RelativeBias,
  type Tile,
} from './attention-tile.js';
import type { OrtValue } from './builder.js';
import type { AttentionKernels, AttentionModel, AttentionModels } from './lowered.js';

/**
 * The tile models of an `attention` or `attention_vjp` node: equal for equal attributes, head sizes and offsets that
 * have a bias.
 * @param lse whether they give the log-sum-exp, or take its cotangent
 * @param dbias whether the backward gives the cotangent of the relative bias, where there is one
 */
export function lowerAttention(node: Node, lse = false, dbias = true): AttentionKernels {
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
  const bias = relativeBiasOf(node, dbias);
  const models = (grouping: Grouping, kvHeads: Dim): AttentionModels => {
    const form: Form = { ...sizes, grouping, kvHeads, bias };
    return { forward: forwardModel(form), backward: backwardModel(form) };
  };
  if (heads === kvHeads) return models('own', HEADS);
  return { ...models('folded', KV_HEADS), mapped: models('mapped', KV_HEADS) };
}

function relativeBiasOf({ attrs, operands }: Node, wanted: boolean): RelativeBias | undefined {
  if (attrs['before'] === undefined) return undefined;
  const rows = constantOf(operands.at(-1)!.type.dims[0]!.size);
  invariant(rows !== undefined, 'the bias of attention is constant in size');
  return { rows, before: numberAttr(attrs, 'before'), wanted };
}

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
  /** Where there is a relative bias. */
  readonly diagonals: Diagonals | undefined;
  /** Derivative of the capped scores by the scores. */
  readonly slope: (() => OrtValue) | undefined;
  /** Log-sum-exp of the masked scores: `[heads, rows, 1]`. */
  readonly lse: () => OrtValue;
}

function weightsOf(tile: Tile, operands: Operands): Weights {
  const { build, form } = tile;
  const { q, k, shape } = operands;
  // ONNX Runtime fuses the products and then runs them first; of what is in the file it runs the last first.
  const before = form.bias === undefined ? undefined : biasOf(tile, operands);
  const queries = byHead(
    tile,
    build.op('Mul', [q, build.float(numberAttr(form.attrs, 'scale'))], q.type!),
    operands,
  );
  const keys = keysByHead(tile, k, operands);
  const type = scoresType(tile);
  const products = build.op('MatMul', [queries, transposed(tile, keys)], type);
  const { scores, slope } = capped(tile, products);
  const { added, diagonals } = before ?? biasOf(tile, operands);
  if (added === undefined || form.grouping !== 'folded') {
    const masked = added === undefined ? scores : build.op('Add', [scores, added], type);
    return { ...softmax(tile, masked), queries, keys, slope, diagonals };
  }
  const unfolded = f32(KV_HEADS, GROUP, QUERIES, KEYS);
  const apart = reshape(build, scores, unfolded, [shape.kv, shape.group, shape.tq, shape.tk]);
  const softened = softmax(tile, build.op('Add', [apart, added], unfolded));
  const rows = build.shapeOp('Mul', [shape.group, shape.tq]);
  const folded = (x: OrtValue, last: Dim, size: OrtValue): OrtValue =>
    reshape(build, x, f32(KV_HEADS, GROUP_ROWS, last), [shape.kv, rows, size]);
  return {
    weights: folded(softened.weights, KEYS, shape.tk),
    lse: () => folded(softened.lse(), ONE, build.int64s([1])),
    queries,
    keys,
    slope,
    diagonals,
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

  const { weights, queries, keys, slope, diagonals } = weightsOf(tile, operands);
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
    ...(form.bias?.wanted === true ? { dbias: biasCotangent(tile, operands, diagonals!, dCapped) } : {}),
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
