import { invariant } from '../errors.js';
import { divideSizes, evaluateSize, type SymbolValues } from './size.js';
import type { Axis, Dim, Split, Type } from './type.js';

/** Half-open range of indices. */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * Where one rank stands. Bound per micro-batch: groups (`sp`) change, the world does not.
 * `symbols` holds the global sizes of this rank's group; `tile`, inside a `tiled` body, is the number of
 * tokens of the current tile and stands for the local length of the symbol `T`.
 */
export interface RankBinding {
  readonly sp: AxisPosition;
  readonly world: AxisPosition;
  readonly symbols: SymbolValues;
  readonly tile?: number;
}

export interface AxisPosition {
  readonly index: number;
  readonly degree: number;
}

/** Symbol of the tile length inside a `tiled` body. */
export const TILE = 'T';

/** Share of `rank` when `pieces` are spread over `degree` ranks: the first `pieces mod degree` get one more. */
export function shardRange(pieces: number, degree: number, rank: number): Range {
  const [base, rest] = [Math.floor(pieces / degree), pieces % degree];
  const start = rank * base + Math.min(rank, rest);
  return { start, end: start + base + (rank < rest ? 1 : 0) };
}

/**
 * K/V heads that the query heads of `rank` read, when `heads` query heads are spread over `degree`
 * ranks and query head h reads K/V head ⌊h·kvHeads/heads⌋.
 */
export function followingRange(kvHeads: number, heads: number, degree: number, rank: number): Range {
  const { start, end } = shardRange(heads, degree, rank);
  const perKv = heads / kvHeads;
  invariant(Number.isInteger(perKv), `${heads} query heads are not a multiple of ${kvHeads} K/V heads`);
  if (start === end)
    return {
      start: Math.min(Math.floor(start / perKv), kvHeads),
      end: Math.min(Math.floor(start / perKv), kvHeads),
    };
  return { start: Math.floor(start / perKv), end: Math.floor((end - 1) / perKv) + 1 };
}

/** Elements of a split dim of `size` elements that `index` of `degree` ranks holds. */
export function splitRange(size: number, split: Split, position: AxisPosition): Range {
  const pieces = size / split.unit;
  invariant(Number.isInteger(pieces), `size ${size} is not a multiple of its split unit ${split.unit}`);
  const range =
    split.of === undefined
      ? shardRange(pieces, position.degree, position.index)
      : followingRange(pieces, split.of, position.degree, position.index);
  return { start: range.start * split.unit, end: range.end * split.unit };
}

export const positionOn = (axis: Axis, binding: RankBinding): AxisPosition =>
  axis === 'sp' ? binding.sp : binding.world;

/** Number of elements of `dim` on a rank. */
export function localSize(d: Dim, binding: RankBinding): number {
  if (d.split === undefined) return evaluateSize(d.size, symbolsOf(binding));
  if (binding.tile !== undefined) {
    const rows = divideSizes(d.size, d.split.unit);
    if (rows?.key === TILE) return binding.tile * d.split.unit;
  }
  const { start, end } = splitRange(
    evaluateSize(d.size, binding.symbols),
    d.split,
    positionOn(d.split.axis, binding),
  );
  return end - start;
}

const symbolsOf = (binding: RankBinding): SymbolValues =>
  binding.tile === undefined ? binding.symbols : new Map([...binding.symbols, [TILE, binding.tile]]);

export const localShape = (type: Type, binding: RankBinding): number[] =>
  type.dims.map((d) => localSize(d, binding));

/** Elements of a value on a rank; throws above 2^53. */
export function localElements(type: Type, binding: RankBinding): number {
  const elements = type.dims.reduce((product, d) => product * localSize(d, binding), 1);
  invariant(Number.isSafeInteger(elements), 'a tensor has more than 2^53 elements');
  return elements;
}

/** Bytes of an element in the `ort` executor's memory: bool and integers are stored as 4 bytes too. */
export const BYTES_PER_ELEMENT = 4;

export const localBytes = (type: Type, binding: RankBinding): number =>
  localElements(type, binding) * BYTES_PER_ELEMENT;
