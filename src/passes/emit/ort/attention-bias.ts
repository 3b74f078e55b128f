/** What attention adds to the scores of a tile: by distance, by head, and to hide keys. */
import { numberAttr } from '../../../ir/graph.js';
import { aheadOf } from '../../../ir/ops/attention-mask.js';
import { addSizes, mulSizes } from '../../../ir/size.js';
import { dim, tensorType, type Type } from '../../../ir/type.js';
import {
  f32,
  GROUP,
  HEADS,
  int64Of,
  KEYS,
  KV_HEADS,
  ONE,
  QUERIES,
  reshape,
  type Operands,
  type RelativeBias,
  type Tile,
} from './attention-tile.js';
import type { ModelBuilder, OrtValue } from './builder.js';
import { elementCode } from './proto.js';

/** Times the distance of a key that is not seen: beyond any score, and finite for documents of 2^24 tokens. */
const HIDDEN = 1e30;

/** How far each key is before each query: `[Tq, Tk]`. */
function distanceOf(tile: Tile, { q, k }: Operands, offset: OrtValue): OrtValue {
  const { build } = tile;
  const rows = build.shapeOp('Add', [indices(tile, q), offset]);
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

export interface Bias {
  /** What is added to the scores: `[Tq, Tk]`, or by head where heads differ. Undefined: nothing. */
  readonly added: OrtValue | undefined;
  readonly diagonals: Diagonals | undefined;
}

/** The offsets of keys that a tile has, and one more: diagonal c is of keys c − Tq after the query, seen from the tile. */
export interface Diagonals {
  /** Row of the relative bias that each has: i32 `[Tq + Tk + 1]`. */
  readonly rows: OrtValue;
  /** int64[1]: Tq + Tk + 1, and Tq + Tk. */
  readonly count: OrtValue;
  readonly joined: OrtValue;
}

export function biasOf(tile: Tile, operands: Operands): Bias {
  const { build, form } = tile;
  const { mask: kind, slopes } = form.attrs;
  const byDistance = kind !== 'full' || slopes !== undefined;
  if (!byDistance && form.bias === undefined) return { added: undefined, diagonals: undefined };
  const offset = tile.int64Input('offset', 1);
  const distance = byDistance ? distanceOf(tile, operands, offset) : undefined;
  const mask = distance && maskOf(tile, distance);
  const diagonals = form.bias && diagonalsOf(tile, operands, form.bias, offset);
  const parts = [
    ...(slopes === undefined ? [] : [slopesBias(tile, operands, distance!)]),
    ...(diagonals === undefined ? [] : [relativeBias(tile, operands, form.bias!, diagonals)]),
    ...(mask === undefined ? [] : [mask]),
  ];
  const added = parts.reduce((sum, part) => build.op('Add', [sum, part], sum.type!));
  return { added, diagonals };
}

function slopesBias(tile: Tile, { shape: { kv, group } }: Operands, distance: OrtValue): OrtValue {
  const { build, form } = tile;
  const perHead = tile.input('slopes', f32(HEADS));
  const [heads, column] =
    form.grouping === 'folded'
      ? [
          [KV_HEADS, GROUP],
          reshape(build, perHead, f32(KV_HEADS, GROUP, ONE, ONE), [kv, group, ...twoOnes(build)]),
        ]
      : [[HEADS], build.op('Unsqueeze', [perHead, build.int64s([1, 2])], f32(HEADS, ONE, ONE))];
  const away = build.op('Neg', [build.op('Abs', [distance], distance.type!)], distance.type!);
  return build.op('Mul', [column, away], f32(...heads, QUERIES, KEYS));
}

const JOINED = dim(addSizes(QUERIES.size, KEYS.size));
const DIAGONALS = dim(addSizes(JOINED.size, 1));
const ROWS_JOINED = dim(mulSizes(QUERIES.size, JOINED.size));
const ROWS_DIAGONALS = dim(mulSizes(QUERIES.size, DIAGONALS.size));

/** Offsets beyond the first and the last row of the bias have these. */
function diagonalsOf(
  tile: Tile,
  { shape: { tq, tk } }: Operands,
  { rows, before }: RelativeBias,
  offset: OrtValue,
): Diagonals {
  const { build } = tile;
  const joined = build.shapeOp('Add', [tq, tk]);
  const count = build.shapeOp('Add', [joined, build.int64s([1])]);
  const first = build.shapeOp('Sub', [build.int64s([before]), build.shapeOp('Add', [offset, tq])]);
  const row = build.shapeOp('Add', [upTo(tile, count), first]);
  const within = build.shapeOp('Min', [
    build.shapeOp('Max', [row, build.int64s([0])]),
    build.int64s([rows - 1]),
  ]);
  const type = tensorType('i32', [DIAGONALS]);
  return { rows: build.op('Cast', [within], type, { to: elementCode('i32') }), count, joined };
}

/**
 * Reads the bias of each diagonal and lays them out: rows of one element less than they have move each row by one
 * against the row before it. To read the bias of every pair would take as long as the products of the forward.
 */
function relativeBias(tile: Tile, { shape }: Operands, bias: RelativeBias, diagonals: Diagonals): OrtValue {
  const { build, form } = tile;
  const { heads, tq, tk, kv, group } = shape;
  const rows = dim(bias.rows);
  const [zero, one, two] = [build.int64s([0]), build.int64s([1]), build.int64s([2])];
  const table = tile.input('bias', f32(rows, HEADS));
  const byHead = build.op('Transpose', [table], f32(HEADS, rows), { perm: [1, 0] });
  const each = build.op('Gather', [byHead, diagonals.rows], f32(HEADS, DIAGONALS), { axis: 1 });
  const apart = build.op('Unsqueeze', [each, one], f32(HEADS, ONE, DIAGONALS));
  const size = int64Of(build, heads, tq, diagonals.count);
  const repeated = build.op('Expand', [apart, size], f32(HEADS, QUERIES, DIAGONALS));
  const all = build.shapeOp('Mul', [tq, diagonals.count]);
  const flat = reshape(build, repeated, f32(HEADS, ROWS_DIAGONALS), [heads, all]);
  const rest = build.op('Slice', [flat, tq, all, one], f32(HEADS, ROWS_JOINED));
  const moved = reshape(build, rest, f32(HEADS, QUERIES, JOINED), [heads, tq, diagonals.joined]);
  const read = build.op('Slice', [moved, zero, tk, two], f32(HEADS, QUERIES, KEYS));
  if (form.grouping !== 'folded') return read;
  return reshape(build, read, f32(KV_HEADS, GROUP, QUERIES, KEYS), [kv, group, tq, tk]);
}

/**
 * The cotangent of the relative bias, added to `dbias_acc`, from that of the scores it was added to. A tile is summed
 * apart from the tiles before it, which keeps long sums exact.
 */
export function biasCotangent(
  tile: Tile,
  operands: Operands,
  diagonals: Diagonals,
  dScores: OrtValue,
): OrtValue {
  const { build, form } = tile;
  const { heads } = operands.shape;
  const rows = dim(form.bias!.rows);
  const before = tile.input('dbias_acc', f32(rows, HEADS));
  const sums = diagonalSums(tile, operands, diagonals, dScores);
  const wide = tensorType('i32', [HEADS, DIAGONALS]);
  const at = build.op('Expand', [diagonals.rows, int64Of(build, heads, diagonals.count)], wide);
  const table = f32(HEADS, rows);
  const size = int64Of(build, heads, build.int64s([form.bias!.rows]));
  const zeros = build.op('ConstantOfShape', [size], table);
  // It keeps its indices as int64 inside.
  const scratch = [wide, wide];
  const added = build.op('ScatterElements', [zeros, at, sums], table, { axis: 1, reduction: 'add' }, scratch);
  const own = build.op('Transpose', [added], before.type!, { perm: [1, 0] });
  return build.op('Add', [before, own], before.type!);
}

/** The opposite of how `relativeBias` lays diagonals out: their sums. */
function diagonalSums(
  { build }: Tile,
  { shape: { heads, tq, tk } }: Operands,
  { count, joined }: Diagonals,
  scores: OrtValue,
): OrtValue {
  const zero = build.int64s([0]);
  const apart = reshape(build, scores, f32(HEADS, QUERIES, KEYS), [heads, tq, tk]);
  const after = int64Of(build, zero, zero, zero, zero, zero, tq);
  const padded = build.op('Pad', [apart, after], f32(HEADS, QUERIES, JOINED));
  const size = build.shapeOp('Mul', [tq, joined]);
  const flat = reshape(build, padded, f32(HEADS, ROWS_JOINED), [heads, size]);
  const led = build.op('Pad', [flat, int64Of(build, zero, tq, zero, zero)], f32(HEADS, ROWS_DIAGONALS));
  const columns = reshape(build, led, f32(HEADS, QUERIES, DIAGONALS), [heads, tq, count]);
  return build.op('ReduceSum', [columns, build.int64s([1])], f32(HEADS, DIAGONALS), { keepdims: 0 });
}

/** 0, 1, … for the rows of x. */
const indices = (tile: Tile, x: OrtValue): OrtValue =>
  upTo(tile, tile.build.shapeOp('Shape', [x], { start: 0, end: 1 }));

/** 0, 1, … below an int64[1]. */
function upTo({ build }: Tile, length: OrtValue): OrtValue {
  const scalar = (value: OrtValue): OrtValue => build.shapeOp('Squeeze', [value]);
  const end = scalar(length);
  return build.shapeOp('Range', [scalar(build.int64s([0])), end, scalar(build.int64s([1]))]);
}

const asFloats = ({ build }: Tile, x: OrtValue, type: Type): OrtValue =>
  build.op('Cast', [x], type, { to: elementCode('f32') });
