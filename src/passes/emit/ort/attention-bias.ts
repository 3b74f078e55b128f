/** What attention adds to the scores of a tile: by distance, by head, and to hide keys. */
import { numberAttr } from '../../../ir/graph.js';
import { aheadOf } from '../../../ir/ops/attention-mask.js';
import { mulSizes } from '../../../ir/size.js';
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

export interface Bias {
  /** What is added to the scores: `[Tq, Tk]`, or by head where heads differ. Undefined: nothing. */
  readonly added: OrtValue | undefined;
  /** Row of the relative bias for every query and key: i32 `[Tq, Tk]`. */
  readonly rows: OrtValue | undefined;
}

export function biasOf(tile: Tile, operands: Operands): Bias {
  const { build, form } = tile;
  const { mask: kind, slopes } = form.attrs;
  if (kind === 'full' && slopes === undefined && form.bias === undefined)
    return { added: undefined, rows: undefined };
  const distance = distanceOf(tile, operands);
  const rows = form.bias && rowsOfBias(tile, form.bias, distance);
  const mask = maskOf(tile, distance);
  const byHead = [
    ...(slopes === undefined ? [] : [slopesBias(tile, operands, distance)]),
    ...(form.bias === undefined ? [] : [relativeBias(tile, operands, form.bias, rows!)]),
  ];
  const added = [...byHead, ...(mask === undefined ? [] : [mask])].reduce((sum, part) =>
    build.op('Add', [sum, part], sum.type!),
  );
  return { added, rows };
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

/** Offsets beyond the first and the last row of the bias have these. */
function rowsOfBias({ build }: Tile, { rows, before }: RelativeBias, distance: OrtValue): OrtValue {
  const type = distance.type!;
  const row = build.op('Sub', [build.float(before), distance], type);
  const below = build.op('Max', [row, build.float(0)], type);
  const within = build.op('Min', [below, build.float(rows - 1)], type);
  return build.op('Cast', [within], tensorType('i32', type.dims), { to: elementCode('i32') });
}

function relativeBias(tile: Tile, { shape }: Operands, { rows }: RelativeBias, at: OrtValue): OrtValue {
  const { build, form } = tile;
  const table = tile.input('bias', f32(dim(rows), HEADS));
  const byHead = build.op('Transpose', [table], f32(HEADS, dim(rows)), { perm: [1, 0] });
  const bias = build.op('Gather', [byHead, at], f32(HEADS, QUERIES, KEYS), { axis: 1 });
  if (form.grouping !== 'folded') return bias;
  return reshape(build, bias, f32(KV_HEADS, GROUP, QUERIES, KEYS), [
    shape.kv,
    shape.group,
    shape.tq,
    shape.tk,
  ]);
}

const PAIRS = dim(mulSizes(QUERIES.size, KEYS.size));

/**
 * The cotangent of the relative bias, added to `dbias_acc`, from that of the scores it was added to. A tile is summed
 * apart from the tiles before it, which keeps long sums exact.
 * @param at the rows that `biasOf` gave
 */
export function biasCotangent(tile: Tile, { shape }: Operands, at: OrtValue, dScores: OrtValue): OrtValue {
  const { build, form } = tile;
  const rows = form.bias!.rows;
  const before = tile.input('dbias_acc', f32(dim(rows), HEADS));
  const count = build.shapeOp('Mul', [shape.tq, shape.tk]);
  const wide = tensorType('i32', [HEADS, PAIRS]);
  const flat = reshape(build, at, tensorType('i32', [PAIRS]), [count]);
  const indices = build.op('Expand', [flat, int64Of(build, shape.heads, count)], wide);
  const updates = reshape(build, dScores, f32(HEADS, PAIRS), [shape.heads, count]);
  const byHead = f32(HEADS, dim(rows));
  const zeros = build.op('ConstantOfShape', [int64Of(build, shape.heads, build.int64s([rows]))], byHead);
  // It keeps its indices as int64 inside.
  const sums = build.op('ScatterElements', [zeros, indices, updates], byHead, { axis: 1, reduction: 'add' }, [
    wide,
    wide,
  ]);
  const own = build.op('Transpose', [sums], before.type!, { perm: [1, 0] });
  return build.op('Add', [before, own], before.type!);
}

/** 0, 1, … for the rows of x. */
function indices({ build }: Tile, x: OrtValue): OrtValue {
  const scalar = (value: OrtValue): OrtValue => build.shapeOp('Squeeze', [value]);
  const length = scalar(build.shapeOp('Shape', [x], { start: 0, end: 1 }));
  return build.shapeOp('Range', [scalar(build.int64s([0])), length, scalar(build.int64s([1]))]);
}

const asFloats = ({ build }: Tile, x: OrtValue, type: Type): OrtValue =>
  build.op('Cast', [x], type, { to: elementCode('f32') });
