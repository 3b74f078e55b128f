import type { Attrs, Value } from '../graph.js';
import type { Builder, OpDef, Tensor } from '../op.js';
import { constantOf } from '../size.js';
import { sameDim, type DType, type Type } from '../type.js';

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

/** Applies a function elementwise with broadcasting to a result shape. */
export function mapElements(
  shape: readonly number[],
  inputs: readonly Tensor[],
  fn: (...values: number[]) => number,
): Tensor {
  const out = tensor(shape);
  const indices = inputs.map((t) => gatherIndices(shape, broadcastStrides(t.shape, shape)));
  for (let i = 0; i < out.data.length; i++)
    out.data[i] = fn(...inputs.map((t, k) => t.data[indices[k]![i]!]!));
  return out;
}

/** Sums a cotangent over the dims along which its operand was broadcast. */
export function unbroadcast(build: Builder, cotangent: Value, operand: Type): Value {
  const dims = cotangent.type.dims;
  const extra = dims.length - operand.dims.length;
  const summed = dims.flatMap((d, i) => {
    const own = operand.dims[i - extra];
    return own === undefined || (constantOf(own.size) === 1 && own.split === undefined && !sameDim(d, own))
      ? [i]
      : [];
  });
  if (summed.length === 0) return cotangent;
  const reduced = build.one('reduce_sum', [cotangent], { dims: summed, keep: true });
  return extra === 0 ? reduced : build.one('reshape', [reduced], { shape: shapeAttr(operand) });
}

/** Global shape of a type as an attribute: constants are numbers. */
export const shapeAttr = (type: Type): Attrs['shape'] => type.dims.map((d) => constantOf(d.size) ?? d.size);

export const scalarConstant = (build: Builder, value: number): Value =>
  build.one('constant', [], { dtype: 'f32', shape: [], data: [value] });
