import { invariant } from '../../errors.js';
import { addElements, copyElements, viewMemory, type Memory } from './copy.js';
import type { Block, Elements } from './engine.js';

/** Packing: the blocks of one payload, read or written end to end, a stretch at a time. */

export interface Piece {
  readonly memory: Memory;
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
  const end = rows * cols === 0 ? 0 : offset + (rows - 1) * rowStride + cols;
  const sound = [offset, rows, rowStride, cols].every((size) => Number.isSafeInteger(size) && size >= 0);
  if (!sound || end > array.length) {
    invariant(false, `block ${JSON.stringify(block)} does not fit a buffer of ${array.length} elements`);
  }
  invariant(!add || array instanceof Float32Array, 'only float32 elements can be added');
  const whole = rows === 1 || rowStride === cols;
  return {
    memory: viewMemory(array),
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
export function pack(stream: Stream, out: Memory, at: number, count: number): void {
  for (let done = 0; done < count;) {
    const piece = current(stream);
    const from = position(stream, piece);
    const run = Math.min(count - done, piece.block.cols - stream.col);
    copyElements(piece.memory, from, out, at + done, run);
    advance(stream, piece, run);
    done += run;
  }
}

/** Adds the next `count` elements of the payload to `out`. */
export function packAdding(stream: Stream, out: Memory, at: number, count: number): void {
  for (let done = 0; done < count;) {
    const piece = current(stream);
    const from = position(stream, piece);
    const run = Math.min(count - done, piece.block.cols - stream.col);
    addElements(piece.memory, from, out, at + done, run);
    advance(stream, piece, run);
    done += run;
  }
}

/** Puts `count` elements into the payload's next places. */
export function unpack(stream: Stream, from: Memory, at: number, count: number): void {
  for (let done = 0; done < count;) {
    const piece = current(stream);
    const to = position(stream, piece);
    const run = Math.min(count - done, piece.block.cols - stream.col);
    if (piece.add) addElements(from, at + done, piece.memory, to, run);
    else copyElements(from, at + done, piece.memory, to, run);
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
    if (target.add) addElements(source.memory, read, target.memory, write, run);
    else copyElements(source.memory, read, target.memory, write, run);
    advance(from, source, run);
    advance(to, target, run);
    left -= run;
  }
}

function current(stream: Stream): Piece {
  const piece = stream.pieces[stream.piece];
  invariant(piece !== undefined, 'payload exhausted');
  return piece;
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
