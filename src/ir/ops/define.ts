import type { Attrs, Value } from '../graph.js';
import type { Builder, OpDef, Tensor } from '../op.js';
import { constantOf, sameSize } from '../size.js';
import { sameDim, type Dim, type DType, type Type } from '../type.js';

/** Choices of a `dtype` or `to` attribute. */
export const DTYPES: readonly DType[] = ['f32', 'i32', 'bool'];

/** Declares an op; the identity, which fixes the types and the literal name. */
export const defineOp = <const N extends string>(
  name: N,
  def: Omit<OpDef, 'name'>,
): OpDef & { readonly name: N } => ({
  name,
  ...def,
});

export const tensor = (shape: readonly number[], data?: ArrayLike<number>): Tensor => {
  const size = shape.reduce((product, n) => product * n, 1);
  return { shape, data: data === undefined ? new Float64Array(size) : Float64Array.from(data) };
};

/** Row-major strides. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = Array.from({ length: shape.length }, () => 1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * shape[i + 1]!;
  return strides;
}

/**
 * For every element of `shape` in row-major order, the flat index into a tensor with the given strides
 * (0 for broadcast dims).
 */
export function gatherIndices(shape: readonly number[], strides: readonly number[]): Int32Array {
  const size = shape.reduce((product, n) => product * n, 1);
  const out = new Int32Array(size);
  const counter = Array.from({ length: shape.length }, () => 0);
  let at = 0;
  for (let i = 0; i < size; i++) {
    out[i] = at;
    for (let d = shape.length - 1; d >= 0; d--) {
      at += strides[d]!;
      if (++counter[d]! < shape[d]!) break;
      at -= strides[d]! * shape[d]!;
      counter[d] = 0;
    }
  }
  return out;
}

/** Strides that read `from` as if broadcast (numpy) to `rank` dims. */
export function broadcastStrides(from: readonly number[], to: readonly number[]): number[] {
  const strides = stridesOf(from);
  return to.map((_, i) => {
    const j = i - to.length + from.length;
    return j < 0 || from[j] === 1 ? 0 : strides[j]!;
  });
}

const sameDims = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((n, i) => n === b[i]);

/** Data of `x` as if broadcast to `shape`: its own where nothing is repeated. */
function broadcastData(x: Tensor, shape: readonly number[], size: number): Float64Array {
  if (sameDims(x.shape, shape)) return x.data;
  if (x.data.length === 1) return new Float64Array(size).fill(x.data[0]!);
  const indices = gatherIndices(shape, broadcastStrides(x.shape, shape));
  const out = new Float64Array(size);
  for (let i = 0; i < size; i++) out[i] = x.data[indices[i]!]!;
  return out;
}

/** Applies a function elementwise with broadcasting to a result shape. */
export function mapElements(
  shape: readonly number[],
  inputs: readonly Tensor[],
  fn: (a: number, b: number, c: number) => number,
): Tensor {
  const out = tensor(shape);
  const { data } = out;
  const [a, b, c] = inputs.map((x) => broadcastData(x, shape, data.length));
  if (c !== undefined) for (let i = 0; i < data.length; i++) data[i] = fn(a![i]!, b![i]!, c[i]!);
  else if (b !== undefined) for (let i = 0; i < data.length; i++) data[i] = fn(a![i]!, b[i]!, 0);
  else for (let i = 0; i < data.length; i++) data[i] = fn(a![i]!, 0, 0);
  return out;
}

/** Sums a cotangent over the dims along which its operand was broadcast. */
export function unbroadcast(build: Builder, cotangent: Value, operand: Type): Value {
  const extra = cotangent.type.dims.length - operand.dims.length;
  const leading = Array.from({ length: extra }, (_, i) => i);
  const g = extra === 0 ? cotangent : build.one('reduce_sum', [cotangent], { dims: leading, keep: false });
  const spread = operand.dims.flatMap((own, i) =>
    constantOf(own.size) === 1 && own.split === undefined && !sameDim(own, g.type.dims[i]!) ? [i] : [],
  );
  return spread.length === 0 ? g : build.one('reduce_sum', [g], { dims: spread, keep: true });
}

/** Global shape of a type as an attribute: constants are numbers. */
export const shapeAttr = (type: Type): Attrs['shape'] => type.dims.map((d) => constantOf(d.size) ?? d.size);

/**
 * Attributes of a reshape back to a type. Where one piece is all there is, the sizes do not tell which dim is
 * split: `split` does.
 */
export function reshapeAttrs(type: Type): Attrs {
  const at = type.dims.findIndex((d) => d.split !== undefined && isOnePiece(d));
  return { shape: shapeAttr(type), ...(at < 0 ? {} : { split: at }) };
}

/** Whether a split dim is a single piece, all of it on the first rank. */
export const isOnePiece = ({ size, split }: Dim): boolean =>
  split !== undefined && sameSize(size, split.unit);

export const scalarConstant = (build: Builder, value: number): Value =>
  build.one('constant', [], { dtype: 'f32', shape: [], data: [value] });
