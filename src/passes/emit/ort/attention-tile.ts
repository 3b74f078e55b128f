/** A tile model of attention under construction: its dims, its operands, and how rows are laid out by head. */
import type { Attrs } from '../../../ir/graph.js';
import { constantOf, mulSizes, symbolSize } from '../../../ir/size.js';
import { dim, tensorType, type Dim, type Type } from '../../../ir/type.js';
import { modelBuilder, type ModelBuilder, type OrtValue } from './builder.js';
import type { AttentionModel } from './lowered.js';

/**
 * How query heads meet K/V heads. `own`: each has its own. `folded`: every K/V head serves the same number of
 * query heads, whose rows are folded into one matrix, so that K and V are never repeated and their gradients
 * need no sum over heads. `mapped`: any map; K and V are gathered for each query head.
 */
export type Grouping = 'own' | 'folded' | 'mapped';

/** All that the models depend on. */
export interface Form {
  readonly attrs: Attrs;
  readonly grouping: Grouping;
  readonly kvHeads: Dim;
  readonly headSize: Dim;
  readonly valueSize: Dim;
  /** Whether the log-sum-exp of the scores is wanted, and in the backward its cotangent given. */
  readonly lse: boolean;
  /** The relative bias, where there is one. */
  readonly bias: RelativeBias | undefined;
}

export interface RelativeBias {
  /** Offsets that have a row of it. */
  readonly rows: number;
  /** The row for a query's own key. */
  readonly before: number;
  /** Whether the backward gives its cotangent. */
  readonly wanted: boolean;
}

export const QUERIES = dim(symbolSize('Tq'));
export const KEYS = dim(symbolSize('Tk'));
export const HEADS = dim(symbolSize('Hl'));
export const KV_HEADS = dim(symbolSize('Hkvl'));
/** Query heads of a K/V head. */
export const GROUP = dim(symbolSize('G'));
export const GROUP_ROWS = dim(mulSizes(GROUP.size, QUERIES.size));
export const ONE = dim(1);

export const f32 = (...dims: readonly Dim[]): Type => tensorType('f32', dims);

/** A tile model under construction: its operands in the layout of the arena, and small steps over them. */
export interface Tile {
  readonly form: Form;
  readonly build: ModelBuilder;
  readonly input: (name: string, type: Type) => OrtValue;
  readonly int64Input: (name: string, length: number | string) => OrtValue;
  readonly finish: (outputs: Readonly<Record<string, OrtValue>>) => AttentionModel;
}

export function tileOf(form: Form): Tile {
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

export interface Operands {
  readonly q: OrtValue;
  readonly k: OrtValue;
  readonly v: OrtValue;
  readonly headMap: OrtValue | undefined;
  /** int64[1] each: local query heads, rows of queries, rows of keys, local K/V heads, query heads a K/V head. */
  readonly shape: {
    readonly heads: OrtValue;
    readonly tq: OrtValue;
    readonly tk: OrtValue;
    readonly kv: OrtValue;
    readonly group: OrtValue;
  };
}

export function operandsOf({ build, input, int64Input, form }: Tile): Operands {
  const q = input('q', f32(QUERIES, HEADS, form.headSize));
  const k = input('k', f32(KEYS, form.kvHeads, form.headSize));
  const v = input('v', f32(KEYS, form.kvHeads, form.valueSize));
  const size = (x: OrtValue, at: number): OrtValue => build.shapeOp('Shape', [x], { start: at, end: at + 1 });
  const kv = size(k, 1);
  // A rank without heads has no K/V heads either.
  const heads = size(q, 1);
  const group = build.shapeOp('Div', [heads, build.shapeOp('Max', [kv, build.int64s([1])])]);
  const headMap = form.grouping === 'mapped' ? int64Input('head_map', 'Hl') : undefined;
  return { q, k, v, headMap, shape: { heads, tq: size(q, 0), tk: size(k, 0), kv, group } };
}

export const batchOf = ({ form }: Tile): Dim => (form.grouping === 'folded' ? KV_HEADS : HEADS);
export const rowsOf = ({ form }: Tile): Dim => (form.grouping === 'folded' ? GROUP_ROWS : QUERIES);
export const scoresType = (tile: Tile): Type => f32(batchOf(tile), rowsOf(tile), KEYS);

export const int64Of = (build: ModelBuilder, ...parts: readonly OrtValue[]): OrtValue =>
  build.shapeOp('Concat', parts, { axis: 0 });

export const reshape = (build: ModelBuilder, x: OrtValue, type: Type, shape: readonly OrtValue[]): OrtValue =>
  build.op('Reshape', [x, int64Of(build, ...shape)], type, { allowzero: 1 });

export const sizeOf = (build: ModelBuilder, d: Dim): OrtValue => build.int64s([constantOf(d.size)!]);

/** Query rows `[Tq, Hl, D]` as matrices, heads first: `[Hl, Tq, D]`, folded `[Hkvl, G·Tq, D]`. */
export function byHead(tile: Tile, x: OrtValue, { shape }: Operands): OrtValue {
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
export function byToken(tile: Tile, x: OrtValue, { shape }: Operands): OrtValue {
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
export function keysByHead({ build }: Tile, x: OrtValue, { headMap }: Operands): OrtValue {
  const [rows, heads, size] = x.type!.dims;
  const first = build.op('Transpose', [x], f32(heads!, rows!, size!), { perm: [1, 0, 2] });
  return headMap === undefined
    ? first
    : build.op('Gather', [first, headMap], f32(HEADS, rows!, size!), { axis: 0 });
}

/** Swaps the last two dims: left to ONNX Runtime, which folds it into the product. */
export const transposed = ({ build }: Tile, x: OrtValue): OrtValue => {
  const [heads, rows, columns] = x.type!.dims;
  return build.op('Transpose', [x], f32(heads!, columns!, rows!), { perm: [0, 2, 1] });
};
