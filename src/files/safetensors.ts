import { closeSync, fstatSync, openSync } from 'node:fs';
import { invariant, unreachable, UserError } from '../errors.js';
import { AtomicFile } from './atomic.js';
import { readFloats } from './floats.js';
import { explainReadError, explainWriteError } from './fs-errors.js';
import { bytesOf, readFully, viewsOf, writeFully } from './pieces.js';
import {
  DTYPE_BYTES,
  layOut,
  LENGTH_BYTES,
  malformed,
  MAX_HEADER_BYTES,
  parseHeader,
  type SafetensorsDtype,
  type TensorDeclaration,
  type TensorInfo,
} from './safetensors-header.js';

export type { SafetensorsDtype, TensorDeclaration, TensorInfo } from './safetensors-header.js';

/**
 * Files of named tensors (https://github.com/huggingface/safetensors): uint64 header length, JSON header, bytes.
 * Numbers are little-endian in the file and in every host that Node.js and ONNX Runtime share.
 */

/** What `read` gives: float32 also stands for F16 and BF16, which it holds exactly. */
export type TensorData = Float64Array | Float32Array | BigInt64Array | Int32Array | Uint8Array;
/** What a writer takes: F16 and BF16 as their bits, BOOL as bytes 0 and 1. */
export type StoredData = TensorData | Uint16Array;

/** An open file whose header was checked; tensors are read when asked for, synchronously. Close it. */
export class SafetensorsReader {
  #descriptor: number | undefined;

  private constructor(
    readonly path: string,
    descriptor: number,
    /** in file order */
    readonly tensors: ReadonlyMap<string, TensorInfo>,
    readonly metadata: ReadonlyMap<string, string>,
  ) {
    this.#descriptor = descriptor;
  }

  /** @throws UserError when the file cannot be read or its header does not describe exactly its bytes */
  static open(path: string): SafetensorsReader {
    const descriptor = openFile(path);
    try {
      const { tensors, metadata } = readHeader(path, descriptor);
      return new SafetensorsReader(path, descriptor, tensors, metadata);
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
  }

  /** @throws UserError when there is no tensor of that name */
  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info === undefined) throw new UserError(`${this.path} holds no tensor ${JSON.stringify(name)}`);
    return info;
  }

  /** The whole tensor in a typed array of its own. */
  read(name: string): TensorData {
    const info = this.info(name);
    switch (info.dtype) {
      case 'F64':
        return this.#fill(info, allocate(this.path, info, Float64Array));
      case 'I64':
        return this.#fill(info, allocate(this.path, info, BigInt64Array));
      case 'I32':
        return this.#fill(info, allocate(this.path, info, Int32Array));
      case 'U8':
      case 'BOOL':
        return this.#fill(info, allocate(this.path, info, Uint8Array));
      case 'F32':
      case 'F16':
      case 'BF16': {
        const data = allocate(this.path, info, Float32Array);
        this.readInto(name, data);
        return data;
      }
      default:
        return unreachable(info.dtype);
    }
  }

  /** Fills `target` (as long as the tensor, possibly in shared memory) from a float tensor of any width. */
  readInto(name: string, target: Float32Array): void {
    const { elements } = this.info(name);
    invariant(target.length === elements, `${name} has ${elements} elements, the target ${target.length}`);
    this.readRange(name, 0, target);
  }

  /**
   * Fills `target` with the row-major elements `start … start + target.length` of a float tensor: one rank's
   * shard of it.
   * @throws UserError when the tensor holds no floats
   */
  readRange(name: string, start: number, target: Float32Array): void {
    const info = this.info(name);
    invariant(start >= 0 && start + target.length <= info.elements, `range outside ${name}`);
    const position = info.offset + start * DTYPE_BYTES[info.dtype];
    const read = (bytes: Uint8Array, offset: number): void => this.#readBytes(bytes, position + offset);
    switch (info.dtype) {
      case 'F32':
        return readFloats('f32', target, read);
      case 'F64':
        return readFloats('f64', target, read);
      case 'F16':
        return readFloats('f16', target, read);
      case 'BF16':
        return readFloats('bf16', target, read);
      case 'I64':
      case 'I32':
      case 'U8':
      case 'BOOL':
        throw new UserError(`${this.path}: tensor ${name} has dtype ${info.dtype}, expected floats`);
      default:
        unreachable(info.dtype);
    }
  }

  /** Harmless when repeated. */
  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #fill<Data extends TensorData>(info: TensorInfo, data: Data): Data {
    let position = info.offset;
    for (const part of viewsOf(data)) {
      this.#readBytes(bytesOf(part), position);
      position += part.byteLength;
    }
    return data;
  }

  #readBytes(target: Uint8Array, position: number): void {
    invariant(this.#descriptor !== undefined, `${this.path} is closed`);
    fill(this.path, this.#descriptor, target, position);
  }
}

/** Consecutive parts of a tensor. The memory of one may be used again for the next. */
export type Pieces = Iterable<StoredData> | AsyncIterable<StoredData>;

export interface SafetensorsEntry extends TensorDeclaration {
  /** row-major; a function is called once, when its turn to be written has come, and may give it in pieces */
  readonly data: StoredData | (() => StoredData | Pieces);
}

/**
 * Writes a file atomically, one tensor after the other. Tensors are stored by falling element size, so that each
 * is aligned to its own; the data must not change before the promise settles.
 * @throws UserError as `writeFileAtomic`
 */
export async function writeSafetensors(
  path: string,
  entries: Iterable<SafetensorsEntry>,
  metadata?: ReadonlyMap<string, string>,
): Promise<void> {
  const all = [...entries];
  const writer = await SafetensorsStreamWriter.create(path, all, metadata);
  try {
    for (const { name, data } of all) {
      const given = typeof data === 'function' ? data() : data;
      if (ArrayBuffer.isView(given)) await writer.append(name, given);
      else for await (const piece of given) await writer.append(name, piece);
    }
  } catch (error) {
    await writer.abort();
    throw error;
  }
  await writer.commit();
}

/**
 * A file whose tensors are declared at once and arrive in pieces: rows of logits, tiles, shards. Pieces given to
 * `append` come in order within a tensor, those given to `writeAt` in any. End it with `commit` or `abort`.
 */
export class SafetensorsStreamWriter {
  readonly #written = new Map<string, number>();

  private constructor(
    readonly file: AtomicFile,
    readonly tensors: ReadonlyMap<string, TensorInfo>,
  ) {}

  /** @throws UserError as `AtomicFile.create`, and when the disk is full */
  static async create(
    path: string,
    declarations: Iterable<TensorDeclaration>,
    metadata: ReadonlyMap<string, string> = new Map(),
  ): Promise<SafetensorsStreamWriter> {
    const { header, tensors } = layOut(declarations, metadata);
    const file = await AtomicFile.create(path);
    const writer = new SafetensorsStreamWriter(file, tensors);
    await writer.#write(header, 0);
    return writer;
  }

  /** Appends `data` to the part of `name` already there; the memory must not change before the promise settles. */
  async append(name: string, data: StoredData): Promise<void> {
    const info = this.tensors.get(name);
    invariant(info !== undefined, `${name} was not declared`);
    invariant(holds(info.dtype, data), `${name} is ${info.dtype}, got ${data.constructor.name}`);
    const start = this.#written.get(name) ?? 0;
    invariant(start + data.length <= info.elements, `${name} gets more than its ${info.elements} elements`);
    this.#written.set(name, start + data.length);
    let position = info.offset + start * DTYPE_BYTES[info.dtype];
    for (const part of viewsOf(data)) {
      await this.#write(bytesOf(part), position);
      position += part.byteLength;
    }
  }

  /**
   * Writes elements `start …` of `name` before it returns: for pieces that come in any order, from callers that
   * cannot wait. No two may overlap.
   */
  writeAt(name: string, start: number, data: StoredData): void {
    const info = this.tensors.get(name);
    invariant(info !== undefined && holds(info.dtype, data), `${name} was not declared so`);
    invariant(start >= 0 && start + data.length <= info.elements, `a piece outside ${name}`);
    this.#written.set(name, (this.#written.get(name) ?? 0) + data.length);
    let position = info.offset + start * DTYPE_BYTES[info.dtype];
    try {
      for (const part of viewsOf(data)) {
        writeFully(this.file.handle.fd, bytesOf(part), position);
        position += part.byteLength;
      }
    } catch (error) {
      throw explainWriteError(error, this.file.path);
    }
  }

  /** @throws (internal) when a tensor is incomplete */
  async commit(): Promise<void> {
    for (const { name, elements } of this.tensors.values()) {
      const written = this.#written.get(name) ?? 0;
      if (written === elements) continue;
      await this.abort();
      invariant(false, `${name} got ${written} of ${elements} elements`);
    }
    await this.file.commit();
  }

  /** Removes what was written; harmless when repeated or after `commit`. */
  async abort(): Promise<void> {
    await this.file.abort();
  }

  async #write(data: Uint8Array, position: number): Promise<void> {
    try {
      for (let done = 0; done < data.length;) {
        const { bytesWritten } = await this.file.handle.write(
          data,
          done,
          data.length - done,
          position + done,
        );
        done += bytesWritten;
      }
    } catch (error) {
      await this.abort();
      throw explainWriteError(error, this.file.path);
    }
  }
}

function openFile(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (error) {
    throw explainReadError(error, path);
  }
}

function readHeader(path: string, descriptor: number) {
  const stats = fstatSync(descriptor);
  if (!stats.isFile()) throw malformed(path, 'it is not a regular file');
  if (stats.size < LENGTH_BYTES) throw malformed(path, `${stats.size} bytes are too few`);
  const prefix = Buffer.alloc(LENGTH_BYTES);
  fill(path, descriptor, prefix, 0);
  const headerBytes = Number(prefix.readBigUInt64LE());
  const dataBytes = stats.size - LENGTH_BYTES - headerBytes;
  if (headerBytes > MAX_HEADER_BYTES || dataBytes < 0) {
    throw malformed(path, `its header claims ${headerBytes} bytes, the file has ${stats.size}`);
  }
  const header = new Uint8Array(headerBytes);
  fill(path, descriptor, header, LENGTH_BYTES);
  const { tensors, metadata } = parseHeader(path, header, stats.size);
  return { tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])), metadata };
}

function fill(path: string, descriptor: number, target: Uint8Array, position: number): void {
  const count = readFully(descriptor, target, position);
  if (count < target.length) throw malformed(path, `it ends at byte ${position + count}`);
}

function allocate<Data>(path: string, info: TensorInfo, create: new (length: number) => Data): Data {
  try {
    return new create(info.elements);
  } catch (error) {
    throw new UserError(
      `${path}: tensor ${info.name} has ${info.bytes} bytes, more than this machine can allocate`,
      'use a machine with more memory',
      { cause: error },
    );
  }
}

function holds(dtype: SafetensorsDtype, data: StoredData): boolean {
  switch (dtype) {
    case 'F64':
      return data instanceof Float64Array;
    case 'I64':
      return data instanceof BigInt64Array;
    case 'F32':
      return data instanceof Float32Array;
    case 'I32':
      return data instanceof Int32Array;
    case 'F16':
    case 'BF16':
      return data instanceof Uint16Array;
    case 'U8':
    case 'BOOL':
      return data instanceof Uint8Array;
    default:
      return unreachable(dtype);
  }
}
