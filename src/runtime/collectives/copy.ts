import type { Elements } from './engine.js';

/**
 * One stretch of memory of four-byte elements, seen in the ways that copies and sums need.
 * Copies never go through float32 elements: bits of a NaN need not survive that.
 */
export interface Memory {
  readonly words: Int32Array;
  readonly floats: Float32Array;
  /** Two elements at a time; absent where that must not be done (see {@link viewMemory}) or cannot be. */
  readonly pairs: Float64Array | undefined;
}

/**
 * A pair may be a NaN, whose bits JavaScript does not promise to keep: of two float32 that takes a NaN among
 * them, which is lost anyway, but of integers any small negative number. So only float32 memory is copied in pairs.
 */
export function viewMemory(array: Elements): Memory {
  const { buffer, byteOffset, length } = array;
  const even = byteOffset % 8 === 0 && array instanceof Float32Array;
  return {
    words: array instanceof Int32Array ? array : new Int32Array(buffer, byteOffset, length),
    floats: array instanceof Float32Array ? array : new Float32Array(buffer, byteOffset, length),
    pairs: even ? new Float64Array(buffer, byteOffset, length >> 1) : undefined,
  };
}

/*
 * Which copy wins, measured on Node 20 in runs of n elements: `set` costs 100 ns a call and its view is garbage, then
 * moves 20 GB/s in cache; the loop over pairs, unrolled, moves 10 to 16 GB/s; a loop over single elements 2 GB/s.
 * A head's slice of a token is 64 to 128 elements.
 */
const longRun = 512;
const shortRun = 32;

export function copyElements(src: Memory, from: number, dst: Memory, to: number, count: number): void {
  const inPairs = src.pairs !== undefined && dst.pairs !== undefined && ((from | to | count) & 1) === 0;
  if (inPairs && count < longRun) copyPairs(src.pairs, from >>> 1, dst.pairs, to >>> 1, count >>> 1);
  else if (count >= shortRun) dst.words.set(src.words.subarray(from, from + count), to);
  else for (let k = 0; k < count; k++) dst.words[to + k] = src.words[from + k]!;
}

function copyPairs(src: Float64Array, from: number, dst: Float64Array, to: number, count: number): void {
  const s = from;
  const d = to;
  let k = 0;
  for (; k + 3 < count; k += 4) {
    dst[d + k] = src[s + k]!;
    dst[d + k + 1] = src[s + k + 1]!;
    dst[d + k + 2] = src[s + k + 2]!;
    dst[d + k + 3] = src[s + k + 3]!;
  }
  for (; k < count; k++) dst[d + k] = src[s + k]!;
}

/** Adds as float32. */
export function addElements(src: Memory, from: number, dst: Memory, to: number, count: number): void {
  addFloats(src.floats, from, dst.floats, to, count);
}

function addFloats(src: Float32Array, from: number, dst: Float32Array, to: number, count: number): void {
  let k = 0;
  for (; k + 3 < count; k += 4) {
    const s = from + k;
    const d = to + k;
    dst[d] = dst[d]! + src[s]!;
    dst[d + 1] = dst[d + 1]! + src[s + 1]!;
    dst[d + 2] = dst[d + 2]! + src[s + 2]!;
    dst[d + 3] = dst[d + 3]! + src[s + 3]!;
  }
  for (; k < count; k++) dst[to + k] = dst[to + k]! + src[from + k]!;
}
