import { open, type FileHandle } from 'node:fs/promises';
import { UserError } from '../../../errors.js';
import { explainReadError } from '../../../files/fs-errors.js';

/** A file read here and there. Nothing is allocated for bytes that it does not have. */
export interface Source {
  readonly file: string;
  readonly bytes: number;
  /** @throws UserError if the file ends before `offset + length` */
  read(offset: number, length: number): Promise<Buffer>;
  close(): Promise<void>;
}

/** @throws UserError for a file that cannot be opened */
export async function openSource(file: string): Promise<Source> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(file, 'r');
    const { size } = await handle.stat();
    return sourceOf(file, handle, size);
  } catch (error) {
    await handle?.close();
    throw explainReadError(error, file);
  }
}

function sourceOf(file: string, handle: FileHandle, bytes: number): Source {
  return {
    file,
    bytes,
    async read(offset, length) {
      if (!(offset >= 0 && length >= 0 && offset + length <= bytes))
        throw damaged(file, `it ends at byte ${bytes}, before byte ${offset + length}`);
      const buffer = Buffer.allocUnsafe(length);
      let filled = 0;
      try {
        while (filled < length) {
          const { bytesRead } = await handle.read(buffer, filled, length - filled, offset + filled);
          if (bytesRead === 0) throw damaged(file, `it ends at byte ${offset + filled} since it was opened`);
          filled += bytesRead;
        }
      } catch (error) {
        throw explainReadError(error, file);
      }
      return buffer;
    },
    close: () => handle.close(),
  };
}

/** For a file that is not what it says it is. */
export const damaged = (file: string, what: string): UserError =>
  new UserError(`${file}: the file is damaged: ${what}`, 'write or copy it again');

/** How whole numbers are stored, lowest byte first. */
export interface IntegerType {
  readonly bytes: 1 | 2 | 4 | 8;
  readonly signed: boolean;
}

/** The number at a byte of a buffer; of 8 bytes, those beyond 2⁵³ are rounded. */
export function integerAt(buffer: Buffer, at: number, { bytes, signed }: IntegerType): number {
  if (bytes < 8) return signed ? buffer.readIntLE(at, bytes) : buffer.readUIntLE(at, bytes);
  const high = signed ? buffer.readInt32LE(at + 4) : buffer.readUInt32LE(at + 4);
  return high * 2 ** 32 + buffer.readUInt32LE(at);
}

const CHUNK = 1 << 16;

/** The numbers of a range, 65,536 at a time. */
export async function* integersOf(
  source: Source,
  offset: number,
  count: number,
  type: IntegerType,
): AsyncGenerator<Float64Array, void, undefined> {
  for (let from = 0; from < count; from += CHUNK) {
    const numbers = new Float64Array(Math.min(CHUNK, count - from));
    const bytes = await source.read(offset + from * type.bytes, numbers.length * type.bytes);
    for (let i = 0; i < numbers.length; i++) numbers[i] = integerAt(bytes, i * type.bytes, type);
    yield numbers;
  }
}

/** Numbers one by one; undefined after the last. */
export function cursorOf(parts: AsyncGenerator<Float64Array>): () => Promise<number | undefined> {
  let part: Float64Array = new Float64Array(0);
  let at = 0;
  return async () => {
    if (at === part.length) {
      const { value, done } = await parts.next();
      if (done === true) return undefined;
      [part, at] = [value, 0];
    }
    return part[at++];
  };
}
