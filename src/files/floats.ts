import { f16ToNumber } from '../ir/onnx/half.js';
import { unreachable } from '../errors.js';
import { bytesOf, PIECE_BYTES, rangesOf, viewsOf } from './pieces.js';

/** Floating types that files hold; memory holds float32. */
export type StoredFloat = 'f64' | 'f32' | 'f16' | 'bf16';

const WIDTHS = { f64: 8, f32: 4, f16: 2, bf16: 2 } as const satisfies Record<StoredFloat, number>;

/** Bytes of an element; undefined for what is no floating type. */
export const floatBytes = (dtype: string): number | undefined =>
  Object.hasOwn(WIDTHS, dtype) ? WIDTHS[dtype as StoredFloat] : undefined;

/**
 * Fills `target` (possibly in shared memory) with stored floats: f16 and bf16 exactly, f64 rounded. float32 goes
 * where it belongs at once, the others through one piece that is used again.
 * @param read fills `bytes` with what is stored `offset` bytes after the first element
 */
export function readFloats(
  dtype: StoredFloat,
  target: Float32Array,
  read: (bytes: Uint8Array, offset: number) => void,
  pieceBytes: number = PIECE_BYTES,
): void {
  if (dtype === 'f32') {
    let offset = 0;
    for (const part of viewsOf(target, pieceBytes)) {
      read(bytesOf(part), offset);
      offset += part.byteLength;
    }
    return;
  }
  const width = WIDTHS[dtype];
  const most = Math.max(1, Math.min(target.length, Math.floor(pieceBytes / width)));
  const piece = new Uint8Array(most * width);
  for (const { start, end } of rangesOf(target.length, most)) {
    const bytes = piece.subarray(0, (end - start) * width);
    read(bytes, start * width);
    widen(dtype, bytes, target.subarray(start, end));
  }
}

function widen(dtype: Exclude<StoredFloat, 'f32'>, bytes: Uint8Array, target: Float32Array): void {
  const { buffer, byteOffset } = bytes;
  switch (dtype) {
    case 'f64':
      return target.set(new Float64Array(buffer, byteOffset, target.length));
    case 'f16':
      return widenHalf(new Uint16Array(buffer, byteOffset, target.length), target);
    case 'bf16':
      return widenBrain(new Uint16Array(buffer, byteOffset, target.length), target);
    default:
      return unreachable(dtype);
  }
}

let halves: Float32Array | undefined;

function widenHalf(bits: Uint16Array, target: Float32Array): void {
  halves ??= Float32Array.from({ length: 1 << 16 }, (_, half) => f16ToNumber(half));
  for (let i = 0; i < bits.length; i++) target[i] = halves[bits[i]!]!;
}

/** bfloat16 is the upper half of a float32. */
function widenBrain(bits: Uint16Array, target: Float32Array): void {
  const words = new Uint32Array(target.buffer, target.byteOffset, target.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
}
