import { existsSync } from 'node:fs';
import { UserError, invariant } from '../../errors.js';
import { PIECE_BYTES, rangesOf } from '../../files/pieces.js';
import type { ByteSource } from './bytes.js';
import { byteSize, elementBytes } from './dtype.js';
import type { ExternalFiles } from './external.js';
import type { OnnxDtype, OnnxInitializer, OnnxLocation } from './model.js';
import { fieldReader } from './fields.js';
import type { DataSpan, ScannedTensor } from './scan.js';
import { makeTensor } from './tensor.js';
import { wireReader } from './wire.js';

/** The largest tensor that is read whole: constants. Weights are read in parts, whatever their size. */
const MAX_READ_BYTES = 2 ** 28;
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
  const fields = location.kind === 'fields' ? fieldReader(source, spans, valueBytes(dtype)) : undefined;
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
        return fields!(byteOffset, byteLength);
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
        `'${fields.name}' has ${fields.bytes} bytes, too many for a constant`,
        'export the model with constant folding on, so that masks and positions are small graphs',
      );
    }
    return makeTensor(fields.name, fields.dtype, fields.dims, readRange(0, fields.bytes));
  };
  const isPresent = (): boolean => fields.location.kind !== 'external' || existsSync(fields.location.file);
  const { name, dtype, dims, elementCount, bytes, location } = fields;
  // One by one: a file may hold 250,000, and spread objects are slow to make and to freeze.
  return Object.freeze({ name, dtype, dims, elementCount, bytes, location, read, readRange, isPresent });
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

function countValues(source: ByteSource, span: DataSpan): number {
  if (span.packed && span.field === 4) return (span.end - span.start) / 4;
  if (span.packed && span.field === 10) return (span.end - span.start) / 8;
  let count = 0;
  if (span.packed)
    for (const { start, end } of rangesOf(span.end - span.start, PIECE_BYTES))
      count += countVarints(source.slice(span.start + start, span.start + end));
  else {
    const reader = wireReader(source);
    for (let at = span.start; at < span.end; count++) at = reader.field(at, span.end).end;
  }
  return count;
}

function countVarints(payload: Uint8Array): number {
  let count = 0;
  for (const byte of payload) if (byte < 0x80) count++;
  return count;
}
