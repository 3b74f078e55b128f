import { existsSync } from 'node:fs';
import { UserError, invariant } from '../../errors.js';
import type { ByteSource } from './bytes.js';
import { byteSize, elementBytes } from './dtype.js';
import type { ExternalFiles } from './external.js';
import type { OnnxDtype, OnnxInitializer, OnnxLocation } from './model.js';
import type { DataSpan, ScannedTensor } from './scan.js';
import { makeTensor } from './tensor.js';
import { wireReader } from './wire.js';

/** The largest tensor that passes through one buffer. */
const MAX_READ_BYTES = 2 ** 31 - 1;
/** More than any disk: products of sizes stay exact integers. */
const MAX_TENSOR_BYTES = 2 ** 50;

/** What an initializer is made of, once decoded. */
export interface TensorHeader {
  readonly name: string;
  readonly dtype: OnnxDtype;
  readonly dims: readonly number[];
  readonly external: boolean;
}

/** Checks a stored tensor against its shape and type. @throws UserError naming the tensor */
export function makeInitializer(
  header: TensorHeader,
  scanned: ScannedTensor,
  source: ByteSource,
  files: ExternalFiles,
): OnnxInitializer {
  const { name, dtype, dims } = header;
  const elementCount = countElements(source.path, header);
  const bytes = byteSize(dtype, elementCount);
  const spans = scanned.data.filter((span) => span.end > span.start);
  const location = header.external
    ? files.locate(name, new Map(scanned.external.map(({ key, value }) => [key, value])), bytes)
    : locate(source, header, spans, elementCount, bytes);
  const readRange = (byteOffset: number, byteLength: number): Uint8Array => {
    invariant(
      byteOffset >= 0 && byteLength >= 0 && byteOffset + byteLength <= bytes,
      `range ${byteOffset}+${byteLength} of '${name}', which has ${bytes} bytes`,
    );
    switch (location.kind) {
      case 'inline':
        return source.slice(location.offset + byteOffset, location.offset + byteOffset + byteLength);
      case 'external': {
        const start = location.offset + byteOffset;
        return files.open(name, location).slice(start, start + byteLength);
      }
      case 'fields':
        return readFields(source, dtype, spans, bytes).subarray(byteOffset, byteOffset + byteLength);
    }
  };
  return storedTensor({ name, dtype, dims, elementCount, bytes, location }, readRange);
}

/** Completes an initializer with `read`, bounded. */
export function storedTensor(
  fields: Omit<OnnxInitializer, 'read' | 'readRange' | 'isPresent'>,
  readRange: OnnxInitializer['readRange'],
): OnnxInitializer {
  const read = (): ReturnType<OnnxInitializer['read']> => {
    if (fields.dtype === 'string') {
      throw new UserError(`'${fields.name}' holds strings`, 'string tensors are not supported');
    }
    if (fields.bytes > MAX_READ_BYTES) {
      throw new UserError(
        `'${fields.name}' has ${fields.bytes} bytes, more than one buffer holds`,
        'tensors of 2 GiB or more can only be read in parts',
      );
    }
    return makeTensor(fields.name, fields.dtype, fields.dims, readRange(0, fields.bytes));
  };
  const isPresent = (): boolean => fields.location.kind !== 'external' || existsSync(fields.location.file);
  return Object.freeze({ ...fields, read, readRange, isPresent });
}

function countElements(path: string, { name, dtype, dims }: TensorHeader): number {
  let count = 1;
  for (const dim of dims) {
    if (!Number.isSafeInteger(dim) || dim < 0) fail(path, name, `has a size of ${dim} in its shape`);
    count *= dim;
    if (byteSize(dtype, count) > MAX_TENSOR_BYTES || count > MAX_TENSOR_BYTES) {
      fail(path, name, `has an absurd shape [${dims.slice(0, 8).join(', ')}]`);
    }
  }
  return count;
}

function locate(
  source: ByteSource,
  { name, dtype, dims }: TensorHeader,
  spans: readonly DataSpan[],
  elementCount: number,
  bytes: number,
): OnnxLocation {
  const field = spans[0]?.field ?? 9;
  if (spans.some((span) => span.field !== field) || (field === 9 && spans.length > 1)) {
    fail(source.path, name, 'stores its data twice');
  }
  if (dtype === 'string') return { kind: 'fields' };
  const [first] = spans;
  const shape = `${dtype} of shape [${dims.join(', ')}]`;
  if (field === 9) {
    const length = first === undefined ? 0 : first.end - first.start;
    if (length !== bytes) {
      fail(source.path, name, `stores ${length} bytes, but ${shape} needs ${bytes}`);
    }
    return { kind: 'inline', offset: first?.start ?? 0, length };
  }
  if (field !== typedField(dtype))
    fail(source.path, name, `stores ${shape} in field ${field} of TensorProto`);
  const values = valuesOf(dtype, bytes);
  const stored = spans.reduce((sum, span) => sum + countValues(source, span), 0);
  if (stored !== values) {
    fail(
      source.path,
      name,
      `stores ${stored} values, but ${shape} needs ${values} (${elementCount} elements)`,
    );
  }
  const direct = (field === 4 || field === 10) && spans.length === 1 && first?.packed === true;
  return direct ? { kind: 'inline', offset: first.start, length: bytes } : { kind: 'fields' };
}

function fail(path: string, name: string, what: string): never {
  throw new UserError(`${path}: tensor '${name}' ${what}`, 'the file is damaged: export the model again');
}

/** The typed field of TensorProto that may hold a type instead of `raw_data` (onnx.proto). */
function typedField(dtype: OnnxDtype): number {
  switch (dtype) {
    case 'f32':
    case 'c64':
      return 4;
    case 'f64':
    case 'c128':
      return 10;
    case 'i64':
      return 7;
    case 'u32':
    case 'u64':
      return 11;
    case 'string':
      return 6;
    default:
      return 5;
  }
}

/** Numbers in the typed field: one an element, two for complex types, one a byte for types below a byte. */
function valuesOf(dtype: OnnxDtype, bytes: number): number {
  return bytes / valueBytes(dtype);
}

function valueBytes(dtype: OnnxDtype): number {
  if (dtype === 'c64') return 4;
  if (dtype === 'c128') return 8;
  return Math.max(1, elementBytes(dtype));
}

const CHUNK_BYTES = 16 * 1024 * 1024;

function countValues(source: ByteSource, span: DataSpan): number {
  if (!span.packed) return [...unpacked(source, span)].length;
  if (span.field === 4) return (span.end - span.start) / 4;
  if (span.field === 10) return (span.end - span.start) / 8;
  let count = 0;
  for (let at = span.start; at < span.end; at += CHUNK_BYTES) {
    for (const byte of source.slice(at, Math.min(span.end, at + CHUNK_BYTES))) if (byte < 0x80) count++;
  }
  return count;
}

/** Payload ranges of a run of unpacked fields. */
function* unpacked(source: ByteSource, span: DataSpan): Generator<{ start: number; end: number }> {
  const reader = wireReader(source);
  for (let at = span.start; at < span.end;) {
    const field = reader.field(at, span.end);
    at = field.end;
    yield field;
  }
}

/** Gathers typed fields into `raw_data` layout. */
function readFields(
  source: ByteSource,
  dtype: OnnxDtype,
  spans: readonly DataSpan[],
  bytes: number,
): Uint8Array {
  invariant(bytes <= MAX_READ_BYTES, 'typed fields lie in a file below 2 GiB');
  const out = new Uint8Array(bytes);
  const view = new DataView(out.buffer);
  const size = valueBytes(dtype);
  let at = 0;
  for (const span of spans) {
    for (const { start, end } of span.packed ? [span] : unpacked(source, span)) {
      const payload = source.slice(start, end);
      if (span.field === 4 || span.field === 10) {
        out.set(payload, at);
        at += payload.length;
      } else {
        at = putVarints(payload, view, at, size);
      }
    }
  }
  return out;
}

/** Writes each varint's low `size` bytes; returns the position after the last. */
function putVarints(payload: Uint8Array, view: DataView, at: number, size: number): number {
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
  return at;
}
