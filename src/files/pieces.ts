import { createReadStream, readSync, writeSync } from 'node:fs';
import { explainReadError } from './fs-errors.js';

/**
 * How weights move: between files, threads and formats, a piece at a time. A tensor may be larger than one call of
 * the system moves (2³¹ − 1 bytes) and than one Uint8Array spans (2³² bytes), and a second copy of it more than
 * the machine has.
 */

/** The largest piece. Two are in hand where one is made while another is written. */
export const PIECE_BYTES = 1 << 22;

/** Elements `start … end` of something. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Covers `0 … length` in order, `most` (at least one) at a time. */
export function* rangesOf(length: number, most: number): Generator<Range> {
  const step = Math.max(1, Math.floor(most));
  for (let start = 0; start < length; start += step) yield { start, end: Math.min(length, start + step) };
}

type Elements =
  Float64Array | Float32Array | BigInt64Array | Int32Array | Uint32Array | Uint16Array | Uint8Array;

/** The memory of an array of at most 2³² bytes, as bytes. */
export const bytesOf = ({ buffer, byteOffset, byteLength }: Elements): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** Views of an array's elements, in order. */
export function* viewsOf<Array extends Elements>(
  array: Array,
  pieceBytes: number = PIECE_BYTES,
): Generator<Array> {
  for (const { start, end } of rangesOf(array.length, pieceBytes / array.BYTES_PER_ELEMENT))
    yield array.subarray(start, end) as Array;
}

/** Rows and columns of a matrix that are in hand together. */
export interface Tile {
  readonly row: number;
  readonly rows: number;
  readonly column: number;
  readonly columns: number;
}

/**
 * Covers a matrix with tiles of at most `elements`, about as many rows as columns: read by rows and written by
 * columns, neither is short.
 */
export function* tilesOf(rows: number, columns: number, elements: number): Generator<Tile> {
  const width = Math.min(columns, Math.max(1, Math.floor(Math.sqrt(elements))));
  for (const { start: row, end } of rangesOf(rows, elements / width))
    for (const { start: column, end: right } of rangesOf(columns, width))
      yield { row, rows: end - row, column, columns: right - column };
}

/** Fills `target` from a position on. @returns the bytes read: fewer when the file ends before */
export function readFully(descriptor: number, target: Uint8Array, position: number): number {
  for (let done = 0; done < target.length;) {
    const length = Math.min(PIECE_BYTES, target.length - done);
    const count = readSync(descriptor, target, done, length, position + done);
    if (count === 0) return done;
    done += count;
  }
  return target.length;
}

/** Writes all bytes at a position, or where the file stands. */
export function writeFully(descriptor: number, bytes: Uint8Array, position: number | undefined): void {
  for (let done = 0; done < bytes.length;) {
    const length = Math.min(PIECE_BYTES, bytes.length - done);
    const at = position === undefined ? null : position + done;
    done += writeSync(descriptor, bytes, done, length, at);
  }
}

/** The content of a file, whatever its size. @throws UserError when it cannot be read */
export async function* chunksOf(file: string): AsyncGenerator<Buffer> {
  try {
    yield* createReadStream(file, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>;
  } catch (error) {
    throw explainReadError(error, file);
  }
}
