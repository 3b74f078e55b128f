import { closeSync, fstatSync, openSync, readFileSync, statSync } from 'node:fs';
import type { Stats } from 'node:fs';
import { UserError, invariant } from '../../errors.js';
import { readFully } from '../../files/pieces.js';

/** A file read by ranges. Small files are held in memory, so that what was checked is what is used. */
export interface ByteSource {
  readonly path: string;
  readonly size: number;
  /** Bytes [start, end); the caller must not write into them. Long ranges of large files are read anew. */
  slice(start: number, end: number): Uint8Array;
}

/** Protobuf's own limit: lengths are 32-bit signed. */
export const MAX_MODEL_BYTES = 2 ** 31 - 1;
/** Files up to this size are held in memory. */
const MEMORY_BYTES = 256 * 1024 * 1024;
/** Ranges of a file up to this size are cut out of a window that is read ahead. */
const SHORT_BYTES = 4 * 1024;
const WINDOW_BYTES = 1024 * 1024;

/**
 * Opens a file for reading by ranges.
 * @param role what the file is, for messages: "ONNX model", "external data of 'w'"
 * @throws UserError when it does not exist, is no regular file, or cannot be read
 */
export function openBytes(path: string, role: string): ByteSource {
  const stat = statOf(path, role);
  if (stat.size <= MEMORY_BYTES) {
    const data = attempt(path, role, () => readFileSync(path));
    return { path, size: data.length, slice: (start, end) => range(data, start, end) };
  }
  return fileSource(path, role, stat);
}

/** As `openBytes`, but never holds more than the ranges asked for. */
export function openFileRanges(path: string, role: string): ByteSource {
  return fileSource(path, role, statOf(path, role));
}

function fileSource(path: string, role: string, stat: Stats): ByteSource {
  const load = (start: number, end: number): Uint8Array<ArrayBuffer> =>
    attempt(path, role, () => {
      const fd = openSync(path, 'r');
      try {
        const now = fstatSync(fd);
        if (now.size !== stat.size || now.mtimeMs !== stat.mtimeMs) {
          throw new UserError(`${path}: the file changed while it was in use`, 'run the command again');
        }
        const buffer = new Uint8Array(end - start);
        const count = readFully(fd, buffer, start);
        if (count < buffer.length)
          throw new UserError(`${path}: ends at byte ${start + count}`, 'the file is truncated');
        return buffer;
      } finally {
        closeSync(fd);
      }
    });
  let window = new Uint8Array(0);
  let windowStart = 0;
  const slice = (start: number, end: number): Uint8Array => {
    invariant(start >= 0 && start <= end && end <= stat.size, `range ${start}..${end} of ${path}`);
    if (end - start > SHORT_BYTES) return load(start, end);
    if (start < windowStart || end > windowStart + window.length) {
      // Reading ahead is for what is read in order: scattered ranges would load a thousand times what they are.
      const ahead = start >= windowStart && start <= windowStart + window.length + SHORT_BYTES;
      window = load(start, Math.min(stat.size, start + (ahead ? WINDOW_BYTES : SHORT_BYTES)));
      windowStart = start;
    }
    return window.subarray(start - windowStart, end - windowStart);
  };
  return { path, size: stat.size, slice };
}

/** @throws UserError unless `path` is a readable regular file */
function statOf(path: string, role: string): Stats {
  const stat = attempt(path, role, () => statSync(path));
  if (!stat.isFile()) {
    throw new UserError(`${path}: is not a regular file, expected an ${role}`, 'give the path of a file');
  }
  return stat;
}

/** Runs a file operation, turning operating system errors into one line. */
export function attempt<T>(path: string, role: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw fileError(path, role, error);
  }
}

/** The one line for an operating system error. */
export function fileError(path: string, role: string, error: unknown): UserError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const shown = path.replaceAll('\0', '\\0');
  const cause = { cause: error };
  if (code === 'ENOENT' || code === 'ENOTDIR' || path.includes('\0')) {
    return new UserError(`${shown}: no such file (${role})`, 'check the path', cause);
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new UserError(`${shown}: permission denied (${role})`, 'check the permissions', cause);
  }
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new UserError(`${shown}: the disk is full`, 'free some space or choose another output', cause);
  }
  return new UserError(`${shown}: ${error instanceof Error ? error.message : String(error)}`, role, cause);
}

function range(data: Uint8Array, start: number, end: number): Uint8Array {
  invariant(
    start >= 0 && start <= end && end <= data.length,
    `range ${start}..${end} of ${data.length} bytes`,
  );
  return data.subarray(start, end);
}
