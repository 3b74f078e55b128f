import { UserError } from '../../errors.js';
import { isFloat } from './dtype.js';
import { bf16ToNumber, f16ToNumber, numberToBf16, numberToF16 } from './half.js';
import type { OnnxDtype, OnnxTensor } from './model.js';

/**
 * A tensor over bytes in `raw_data` layout. Little-endian hosts only, as everything Node runs on in practice.
 * @param name for error messages
 * @param bytes exactly the bytes of the elements; not copied
 */
export function makeTensor(
  name: string,
  dtype: OnnxDtype,
  dims: readonly number[],
  bytes: Uint8Array,
): OnnxTensor {
  const elementCount = dims.reduce((product, dim) => product * dim, 1);
  const at = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const refuse = (wanted: string): never => {
    throw new UserError(
      `tensor '${name}' has element type ${dtype}, expected ${wanted}`,
      'export the model in float32, float16 or bfloat16, without quantisation',
    );
  };
  const integer = (): ((index: number) => bigint | number) => integerReader(dtype, at) ?? refuse('integers');
  return {
    dtype,
    dims,
    elementCount,
    bytes,
    toFloat32: () => {
      const out = new Float32Array(elementCount);
      if (dtype === 'f32') copyInto(out, bytes);
      else fill(out, floatReader(dtype, at) ?? refuse('a floating type'));
      return out;
    },
    toFloat64: () => {
      const out = new Float64Array(elementCount);
      const read = floatReader(dtype, at);
      if (dtype === 'f64') copyInto(out, bytes);
      else if (read !== undefined) fill(out, read);
      else {
        const int = integer();
        fill(out, (index) => Number(int(index)));
      }
      return out;
    },
    toInts: () => {
      const read = integer();
      return Array.from({ length: elementCount }, (_, index) => saturate(read(index)));
    },
    toBigInts: () => {
      const out = new BigInt64Array(elementCount);
      const read = integer();
      for (let index = 0; index < elementCount; index++) {
        const value = BigInt(read(index));
        out[index] = value > MAX_I64 ? MAX_I64 : value;
      }
      return out;
    },
  };
}

/**
 * Float32 values in `raw_data` layout of a floating type, rounded to nearest even.
 * @throws UserError for other types
 */
export function encodeFloats(name: string, dtype: OnnxDtype, values: Float32Array): Uint8Array {
  if (!isFloat(dtype)) {
    throw new UserError(`'${name}' has element type ${dtype}: only floating parameters can be trained`);
  }
  switch (dtype) {
    case 'f32':
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    case 'f64':
      return new Uint8Array(Float64Array.from(values).buffer);
    case 'f16':
      return new Uint8Array(Uint16Array.from(values, numberToF16).buffer);
    case 'bf16':
      return new Uint8Array(Uint16Array.from(values, numberToBf16).buffer);
  }
}

const MAX_I64 = 2n ** 63n - 1n;

/** Nearest number within ±(2⁵³ − 1). */
export function saturate(value: bigint | number): number {
  const limit = Number.MAX_SAFE_INTEGER;
  return Math.max(-limit, Math.min(limit, Number(value)));
}

function floatReader(dtype: OnnxDtype, at: DataView): ((index: number) => number) | undefined {
  switch (dtype) {
    case 'f32':
      return (index) => at.getFloat32(index * 4, true);
    case 'f64':
      return (index) => at.getFloat64(index * 8, true);
    case 'f16':
      return (index) => f16ToNumber(at.getUint16(index * 2, true));
    case 'bf16':
      return (index) => bf16ToNumber(at.getUint16(index * 2, true));
    default:
      return undefined;
  }
}

function integerReader(dtype: OnnxDtype, at: DataView): ((index: number) => number | bigint) | undefined {
  switch (dtype) {
    case 'i64':
      return (index) => at.getBigInt64(index * 8, true);
    case 'u64':
      return (index) => at.getBigUint64(index * 8, true);
    case 'i32':
      return (index) => at.getInt32(index * 4, true);
    case 'u32':
      return (index) => at.getUint32(index * 4, true);
    case 'i16':
      return (index) => at.getInt16(index * 2, true);
    case 'u16':
      return (index) => at.getUint16(index * 2, true);
    case 'i8':
      return (index) => at.getInt8(index);
    case 'u8':
      return (index) => at.getUint8(index);
    case 'bool':
      return (index) => (at.getUint8(index) === 0 ? 0 : 1);
    default:
      return undefined;
  }
}

function fill(out: Float32Array | Float64Array, read: (index: number) => number): void {
  for (let index = 0; index < out.length; index++) out[index] = read(index);
}

function copyInto(out: Float32Array | Float64Array, bytes: Uint8Array): void {
  new Uint8Array(out.buffer).set(bytes);
}
