/** Tensors in the typed fields of TensorProto: numbers one after the other, integers as varints. */
import { UserError } from '../../errors.js';
import type { ByteSource } from './bytes.js';
import type { DataSpan } from './scan.js';
import { wireReader, type WireReader } from './wire.js';

/** Bytes, or fields, of the file that are decoded together. */
const SLICE_BYTES = 1 << 14;
const SLICE_FIELDS = 1 << 12;

/** Where a decoded part begins: the bytes before it in `raw_data` layout, and its place in the file. */
interface Mark {
  readonly offset: number;
  readonly span: number;
  readonly at: number;
}

/**
 * Reads typed fields as if they were `raw_data`. The file has no byte range with that layout, so parts are decoded as
 * they are asked for, and where each begins is remembered: any part is found again without what is before it.
 * @param spans of one field, that hold as many values as the tensor has
 * @param size bytes of a value
 * @throws UserError (the reader) for a number that no varint can be
 */
export function fieldReader(
  source: ByteSource,
  spans: readonly DataSpan[],
  size: number,
): (byteOffset: number, byteLength: number) => Uint8Array {
  const marks: Mark[] = [{ offset: 0, span: 0, at: spans[0]?.start ?? 0 }];
  let reader: WireReader | undefined;
  let held: { readonly mark: number; readonly bytes: Uint8Array } | undefined;

  const decode = (index: number): Uint8Array => {
    if (held?.mark === index) return held.bytes;
    const { offset, span, at } = marks[index]!;
    const from = spans[span];
    if (from === undefined)
      throw new UserError(
        `${source.path}: a tensor stores a number of more than 10 bytes`,
        'the file is damaged: export the model again',
      );
    const { bytes, end } = from.packed
      ? packed(source, from, at, size)
      : unpacked(source, (reader ??= wireReader(source)), from, at, size);
    if (index + 1 === marks.length) {
      const next = end < from.end ? { span, at: end } : { span: span + 1, at: spans[span + 1]?.start ?? 0 };
      marks.push({ offset: offset + bytes.length, ...next });
    }
    held = { mark: index, bytes };
    return bytes;
  };

  return (byteOffset, byteLength) => {
    const out = new Uint8Array(byteLength);
    let index = lastAt(marks, byteOffset);
    for (let done = 0; done < byteLength; index++) {
      const bytes = decode(index);
      const skipped = byteOffset + done - marks[index]!.offset;
      if (skipped >= bytes.length) continue;
      const part = bytes.subarray(skipped, skipped + byteLength - done);
      out.set(part, done);
      done += part.length;
    }
    return out;
  };
}

/** The last mark at or before an offset. */
function lastAt(marks: readonly Mark[], offset: number): number {
  let [low, high] = [0, marks.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (marks[middle]!.offset <= offset) low = middle;
    else high = middle - 1;
  }
  return low;
}

interface Decoded {
  readonly bytes: Uint8Array;
  /** Where in the file the next part begins. */
  readonly end: number;
}

const isFixed = ({ field }: DataSpan): boolean => field === 4 || field === 10;

function packed(source: ByteSource, span: DataSpan, at: number, size: number): Decoded {
  const payload = source.slice(at, Math.min(span.end, at + SLICE_BYTES));
  if (isFixed(span)) return { bytes: payload, end: at + payload.length };
  // Up to the last number that ends here; without one the rest is no number.
  const length = payload.findLastIndex((byte) => byte < 0x80) + 1;
  return { bytes: varints(payload.subarray(0, length), size), end: length === 0 ? span.end : at + length };
}

function unpacked(
  source: ByteSource,
  reader: WireReader,
  span: DataSpan,
  start: number,
  size: number,
): Decoded {
  const bytes = new Uint8Array(SLICE_FIELDS * size);
  let [at, length] = [start, 0];
  while (at < span.end && length < bytes.length) {
    const field = reader.field(at, span.end);
    const payload = source.slice(field.start, field.end);
    const value = isFixed(span) ? payload : varints(payload, size);
    bytes.set(value, length);
    length += value.length;
    at = field.end;
  }
  return { bytes: bytes.subarray(0, length), end: at };
}

/** Each varint's low `size` bytes. */
function varints(payload: Uint8Array, size: number): Uint8Array {
  let count = 0;
  for (const byte of payload) if (byte < 0x80) count++;
  const view = new DataView(new ArrayBuffer(count * size));
  let at = 0;
  let low = 0;
  let value = 0n;
  let shift = 0;
  for (const byte of payload) {
    if (shift < 28) low |= (byte & 0x7f) << shift;
    if (size > 2 && shift < 64) value |= BigInt(byte & 0x7f) << BigInt(shift);
    shift += 7;
    if (byte >= 0x80) continue;
    if (size === 1) view.setUint8(at, low & 0xff);
    else if (size === 2) view.setUint16(at, low & 0xffff, true);
    else if (size === 4) view.setUint32(at, Number(value & 0xffffffffn), true);
    else view.setBigUint64(at, BigInt.asUintN(64, value), true);
    at += size;
    low = 0;
    value = 0n;
    shift = 0;
  }
  return new Uint8Array(view.buffer);
}
