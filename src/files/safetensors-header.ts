import { z } from 'zod';
import { invariant, UserError } from '../errors.js';

/** The header of a safetensors file: which tensors, of what type and shape, at which bytes. */

export const DTYPE_BYTES = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, U8: 1, BOOL: 1 } as const;
export type SafetensorsDtype = keyof typeof DTYPE_BYTES;

export interface TensorDeclaration {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

export interface TensorInfo extends TensorDeclaration {
  /** product of the shape */
  readonly elements: number;
  readonly bytes: number;
  /** in bytes from the start of the file */
  readonly offset: number;
}

/** The format's own limit; the reference implementation refuses longer headers too. */
export const MAX_HEADER_BYTES = 100_000_000;
/** The uint64 before the header. */
export const LENGTH_BYTES = 8;
const METADATA_KEY = '__metadata__';

const tensorEntry = z.object({
  dtype: z.enum(Object.keys(DTYPE_BYTES) as [SafetensorsDtype, ...SafetensorsDtype[]]),
  shape: z.array(z.int().nonnegative()).max(64),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});
const metadataEntry = z.array(z.tuple([z.string(), z.string()]));

export interface Header {
  /** in file order */
  readonly tensors: readonly TensorInfo[];
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * @param header the bytes after {@link LENGTH_BYTES}
 * @param fileBytes size of the whole file
 * @throws UserError unless the tensors describe exactly the bytes of the file
 */
export function parseHeader(path: string, header: Uint8Array, fileBytes: number): Header {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(header));
  } catch (error) {
    throw malformed(path, 'its header is not JSON', error);
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw malformed(path, 'its header is not a JSON object');
  }
  const dataStart = LENGTH_BYTES + header.length;
  const tensors: TensorInfo[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  // `Object.entries` gives own keys only, `__proto__` among them; Maps keep them apart from inherited ones.
  for (const [name, value] of Object.entries(json as Record<string, unknown>)) {
    if (name === METADATA_KEY) metadata = parseMetadata(path, value);
    else tensors.push(parseTensor(path, name, value, dataStart));
  }
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  checkContiguous(path, tensors, dataStart, fileBytes);
  return { tensors, metadata };
}

function parseMetadata(path: string, value: unknown): ReadonlyMap<string, string> {
  const parsed = metadataEntry.safeParse(
    typeof value === 'object' && value !== null ? Object.entries(value) : undefined,
  );
  if (!parsed.success) throw malformed(path, 'its metadata are not strings by name');
  return new Map(parsed.data);
}

function parseTensor(path: string, name: string, value: unknown, dataStart: number): TensorInfo {
  const parsed = tensorEntry.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const key = [name, ...(issue?.path ?? [])].join('.');
    throw malformed(path, `header entry ${JSON.stringify(key)}: ${issue?.message ?? 'invalid'}`);
  }
  const { dtype, shape, data_offsets } = parsed.data;
  const [begin, end] = data_offsets;
  const elements = shape.reduce((product, size) => product * size, 1);
  const bytes = elements * DTYPE_BYTES[dtype];
  if (!Number.isSafeInteger(bytes) || bytes !== end - begin) {
    throw malformed(
      path,
      `tensor ${JSON.stringify(name)} (${dtype} [${shape.join(', ')}]) claims bytes ${begin} to ${end}`,
    );
  }
  return { name, dtype, shape, elements, bytes, offset: dataStart + begin };
}

/** The tensors cover the bytes after the header without hole, overlap or rest. */
function checkContiguous(path: string, tensors: readonly TensorInfo[], start: number, size: number): void {
  let position = start;
  for (const { name, offset, bytes } of tensors) {
    if (offset + bytes > size) {
      throw malformed(path, `tensor ${JSON.stringify(name)} ends at byte ${offset + bytes} of ${size}`);
    }
    if (offset !== position) {
      throw malformed(path, `tensor ${JSON.stringify(name)} starts at byte ${offset}, expected ${position}`);
    }
    position += bytes;
  }
  if (position !== size) throw malformed(path, `it has ${size} bytes, its header describes ${position}`);
}

/** For a file that is cut short, altered or something else. */
export function malformed(path: string, problem: string, cause?: unknown): UserError {
  return new UserError(
    `${path} is no complete safetensors file: ${problem}`,
    'write or download the file again',
    { cause },
  );
}

/** Orders tensors by falling element size (each is aligned to its own) and gives header bytes and offsets. */
export function layOut(declarations: Iterable<TensorDeclaration>, metadata: ReadonlyMap<string, string>) {
  const sorted = [...declarations].sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
  const parts: string[] = [];
  if (metadata.size > 0) parts.push(`"${METADATA_KEY}":${JSON.stringify(Object.fromEntries(metadata))}`);
  const tensors = new Map<string, TensorInfo>();
  let offset = 0;
  for (const { name, dtype, shape } of sorted) {
    invariant(name !== METADATA_KEY && !tensors.has(name), `two tensors named ${name}`);
    const elements = shape.reduce((product, size) => product * size, 1);
    const bytes = elements * DTYPE_BYTES[dtype];
    invariant(Number.isSafeInteger(bytes) && bytes >= 0, `${name} has shape [${shape.join(', ')}]`);
    tensors.set(name, { name, dtype, shape: [...shape], elements, bytes, offset });
    // Written by hand: an object keyed by names would lose one called `__proto__` and reorder integers.
    const entry = JSON.stringify({ dtype, shape, data_offsets: [offset, offset + bytes] });
    parts.push(`${JSON.stringify(name)}:${entry}`);
    offset += bytes;
  }
  const json = Buffer.from(`{${parts.join(',')}}`);
  const headerBytes = Math.ceil(json.length / 8) * 8;
  invariant(headerBytes <= MAX_HEADER_BYTES, `a header of ${headerBytes} bytes`);
  const header = Buffer.alloc(LENGTH_BYTES + headerBytes, ' ');
  header.writeBigUInt64LE(BigInt(headerBytes));
  json.copy(header, LENGTH_BYTES);
  for (const [name, info] of tensors) tensors.set(name, { ...info, offset: info.offset + header.length });
  return { header, tensors };
}
