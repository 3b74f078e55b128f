import type { OnnxDtype } from './model.js';

/** `TensorProto.DataType` numbers and element sizes (bits), onnx.proto of ONNX 1.19. */
const TABLE: readonly (readonly [code: number, dtype: OnnxDtype, bits: number])[] = [
  [1, 'f32', 32],
  [2, 'u8', 8],
  [3, 'i8', 8],
  [4, 'u16', 16],
  [5, 'i16', 16],
  [6, 'i32', 32],
  [7, 'i64', 64],
  [8, 'string', 0],
  [9, 'bool', 8],
  [10, 'f16', 16],
  [11, 'f64', 64],
  [12, 'u32', 32],
  [13, 'u64', 64],
  [14, 'c64', 64],
  [15, 'c128', 128],
  [16, 'bf16', 16],
  [17, 'f8e4m3fn', 8],
  [18, 'f8e4m3fnuz', 8],
  [19, 'f8e5m2', 8],
  [20, 'f8e5m2fnuz', 8],
  [21, 'u4', 4],
  [22, 'i4', 4],
  [23, 'f4e2m1', 4],
  [24, 'f8e8m0', 8],
  [25, 'u2', 2],
  [26, 'i2', 2],
];

const byCode = new Map(TABLE.map(([code, dtype]) => [code, dtype]));
const codes = new Map(TABLE.map(([code, dtype]) => [dtype, code]));
const bits = new Map(TABLE.map(([, dtype, size]) => [dtype, size]));

/** The type of a `DataType` number, undefined for 0 and numbers from the future. */
export function dtypeOfCode(code: number): OnnxDtype | undefined {
  return byCode.get(code);
}

/** The `DataType` number of a type. */
export function codeOfDtype(dtype: OnnxDtype): number {
  return codes.get(dtype) ?? 0;
}

/** Bytes of `count` elements in `raw_data` layout (types below a byte are packed; strings have none: 0). */
export function byteSize(dtype: OnnxDtype, count: number): number {
  return Math.ceil(count * ((bits.get(dtype) ?? 0) / 8));
}

/** Bytes of one element; 0 for strings, a fraction for types below a byte. */
export function elementBytes(dtype: OnnxDtype): number {
  return (bits.get(dtype) ?? 0) / 8;
}

/** The types a parameter may have. */
export function isFloat(dtype: OnnxDtype): dtype is 'f32' | 'f64' | 'f16' | 'bf16' {
  return dtype === 'f32' || dtype === 'f64' || dtype === 'f16' || dtype === 'bf16';
}
