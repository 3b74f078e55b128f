import { invariant } from '../../errors.js';
import type { Block, Elements } from './engine.js';

/**
 * Packing: the blocks of one payload, read or written end to end, a stretch at a time.
 * Copies go through Int32Array views, which keep every bit (a float copy may rewrite a NaN).
 */

interface Piece {
  readonly words: Int32Array;
  /** The same memory as numbers; absent where the payload is not float32. */
  readonly floats: Float32Array | undefined;
  readonly block: Block;
  /** Arriving elements are added. */
  readonly add: boolean;
}

/** A cursor over the elements of a payload. */
export interface Stream {
  readonly pieces: readonly Piece[];
  readonly total: number;
  left: number;
  piece: number;
  row: number;
  col: number;
}

/** Typed arrays swallow writes beyond their end, so bounds are checked here. */
export function makePiece(array: Elements, block: Block, add: boolean): Piece {
  const { offset, rows, rowStride, cols } = block;
  const sizes = [offset, rows, rowStride, cols];
  const end = rows * cols === 0 ? 0 : offset + (rows - 1) * rowStride + cols;
  invariant(
    sizes.every((size) => Number.isSafeInteger(size) && size >= 0) && end <= array.length,
    `block ${JSON.stringify(block)} does not fit a buffer of ${array.length} elements`,
  );
  invariant(!add || array instanceof Float32Array, 'only float32 elements can be added');
  const whole = rows === 1 || rowStride === cols;
  return {
    words: array instanceof Int32Array ? array : new Int32Array(array.buffer, array.byteOffset, array.length),
    floats: array instanceof Float32Array ? array : undefined,
    block: whole ? { offset, rows: 1, rowStride: rows * cols, cols: rows * cols } : block,
    add,
  };
}

/** Elements of a block. */
export function blockSize(block: Block): number {
  return block.rows * block.cols;
}

/** A contiguous range as a block. */
export function flatBlock(offset: number, length: number): Block {
  return { offset, rows: 1, rowStride: length, cols: length };
}

export function makeStream(pieces: readonly Piece[]): Stream {
  const nonEmpty = pieces.filter((piece) => blockSize(piece.block) > 0);
  const total = nonEmpty.reduce((sum, piece) => sum + blockSize(piece.block), 0);
  return { pieces: nonEmpty, total, left: total, piece: 0, row: 0, col: 0 };
}

/** Takes the next `count` elements out of the payload. */
export function pack(stream: Stream, out: Int32Array, at: number, count: number): void {
  for (let done = 0; done < count;) {
    const piece = current(stream);
    const from = position(stream, piece);
    const run = Math.min(count - done, piece.block.cols - stream.col);
    copyWords(piece.words, from, out, at + done, run);
    advance(stream, piece, run);
    done += run;
  }
}

/** Adds the next `count` elements of the payload to `out`. */
export function packAdding(stream: Stream, out: Float32Array, at: number, count: number): void {
  for (let done = 0; done < count;) {
    const piece = current(stream);
    const from = position(stream, piece);
    const run = Math.min(count - done, piece.block.cols - stream.col);
    addFloats(numbers(piece), from, out, at + done, run);
    advance(stream, piece, run);
    done += run;
  }
}

/** Puts `count` elements into the payload's next places. `floats` is the same memory as `words`. */
export function unpack(
  stream: Stream,
  words: Int32Array,
  floats: Float32Array,
  at: number,
  count: number,
): void {
  for (let done = 0; done < count;) {
    const piece = current(stream);
    const to = position(stream, piece);
    const run = Math.min(count - done, piece.block.cols - stream.col);
    if (piece.add) addFloats(floats, at + done, numbers(piece), to, run);
    else copyWords(words, at + done, piece.words, to, run);
    advance(stream, piece, run);
    done += run;
  }
}

/** Moves the next `count` elements of one payload to the next places of another, without staging. */
export function transfer(from: Stream, to: Stream, count: number): void {
  for (let left = count; left > 0;) {
    const source = current(from);
    const target = current(to);
    const read = position(from, source);
    const write = position(to, target);
    const run = Math.min(left, source.block.cols - from.col, target.block.cols - to.col);
    if (target.add) addFloats(numbers(source), read, numbers(target), write, run);
    else copyWords(source.words, read, target.words, write, run);
    advance(from, source, run);
    advance(to, target, run);
    left -= run;
  }
}

export function addFloats(
  src: Float32Array,
  from: number,
  dst: Float32Array,
  to: number,
  count: number,
): void {
  for (let k = 0; k < count; k++) dst[to + k] = (dst[to + k] ?? 0) + (src[from + k] ?? 0);
}

/** Runs shorter than this are copied by a loop: `set` costs about 40 ns a call. Measured on Node 20. */
const shortRun = 32;

function copyWords(src: Int32Array, from: number, dst: Int32Array, to: number, count: number): void {
  if (count >= shortRun) dst.set(src.subarray(from, from + count), to);
  else for (let k = 0; k < count; k++) dst[to + k] = src[from + k] ?? 0;
}

function current(stream: Stream): Piece {
  const piece = stream.pieces[stream.piece];
  invariant(piece !== undefined, 'payload exhausted');
  return piece;
}

function numbers(piece: Piece): Float32Array {
  invariant(piece.floats !== undefined, 'only float32 elements can be added');
  return piece.floats;
}

function position(stream: Stream, piece: Piece): number {
  return piece.block.offset + stream.row * piece.block.rowStride + stream.col;
}

function advance(stream: Stream, piece: Piece, count: number): void {
  stream.left -= count;
  stream.col += count;
  if (stream.col < piece.block.cols) return;
  stream.col = 0;
  stream.row++;
  if (stream.row < piece.block.rows) return;
  stream.row = 0;
  stream.piece++;
}
