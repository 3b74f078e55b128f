/**
 * Symbolic shapes and integers. While a graph is imported the only symbol is `S`, the number of tokens,
 * and S ≥ 1; the batch is 1. Undecidable questions answer `undefined`, never a guess.
 */
import {
  addSizes,
  constantOf,
  constantSize,
  divideSizes,
  mulSizes,
  productOfSizes,
  sameSize,
  signOfSize,
  subSizes,
  symbolSize,
  type Size,
} from '../../size.js';

export type Dims = readonly Size[];

/** Symbol of the number of tokens. */
export const TOKENS = 'S';
export const tokens: Size = symbolSize(TOKENS);
export const one: Size = constantSize(1);
export const zero: Size = constantSize(0);

export const isOne = (size: Size): boolean => constantOf(size) === 1;
export const isTokens = (size: Size): boolean => sameSize(size, tokens);

export const sameDims = (a: Dims, b: Dims): boolean =>
  a.length === b.length && a.every((size, i) => sameSize(size, b[i]!));

export const printDims = (dims: Dims): string => `[${dims.map((size) => size.key).join(', ')}]`;

/** Whether a ≥ b for every S ≥ 1. */
export function atLeast(a: Size, b: Size): boolean {
  const difference = subSizes(a, b);
  return signOfSize(addSizes(difference, 1)) === 1;
}

/** Numpy broadcasting, aligned at the right. A dim that cannot be told from 1 makes the result undefined. */
export function broadcastSizes(a: Dims, b: Dims): Dims | undefined {
  const rank = Math.max(a.length, b.length);
  const result: Size[] = [];
  for (let i = 0; i < rank; i++) {
    const [x, y] = [a[i - rank + a.length] ?? one, b[i - rank + b.length] ?? one];
    if (sameSize(x, y) || isOne(y)) result.push(x);
    else if (isOne(x)) result.push(y);
    else return undefined;
  }
  return result;
}

/**
 * Logits as [S, width]: of [1, S, width], or of pooled rows [S, width], [S, 1, width] or [S].
 * @returns undefined when they are no such thing
 */
export function rowsOf(dims: Dims): Dims | undefined {
  const [rows, width = one, ...more] = dims.filter((size, i) => !isOne(size) || i === dims.length - 1);
  return rows !== undefined && isTokens(rows) && constantOf(width) !== undefined && more.length === 0
    ? [rows, width]
    : undefined;
}

/** A numeric shape, when no dim depends on S. */
export function numericDims(dims: Dims): readonly number[] | undefined {
  const numbers = dims.map(constantOf);
  return numbers.every((n) => n !== undefined) ? numbers : undefined;
}

export const elementsOf = (dims: Dims): Size => productOfSizes(dims);

/**
 * The shape a Reshape asks for. 0 copies the operand's dim unless `allowZero`; −1 is inferred.
 * @returns undefined when the element counts do not fit, or −1 does not come out even for every S
 */
export function reshapeTarget(from: Dims, target: Dims, allowZero: boolean): Dims | undefined {
  const asked = target.map((size, i) => (!allowZero && constantOf(size) === 0 ? from[i] : size));
  if (asked.some((size) => size === undefined)) return undefined;
  const sizes = asked as Size[];
  const open = sizes.findIndex((size) => constantOf(size) === -1);
  const known = productOfSizes(sizes.filter((_, i) => i !== open));
  if (open < 0) return sameSize(known, elementsOf(from)) ? sizes : undefined;
  if (known.terms.length === 0) return undefined;
  const inferred = divideSizes(elementsOf(from), known);
  if (inferred === undefined || !atLeast(inferred, zero)) return undefined;
  return sizes.map((size, i) => (i === open ? inferred : size));
}

/** ONNX says "to the end" with INT64_MAX (or INT32_MAX), "from the beginning" with their negatives. */
const FAR = 2 ** 31 - 1;

/** What a slice of one dim amounts to; `fits`, when given, must hold for it: S ≤ fits. */
export interface SliceBounds {
  readonly start: Size;
  readonly end: Size;
  readonly size: Size;
  readonly fits?: number;
}

/**
 * Bounds of `start:end:step` (step > 0) over a dim, clamped as ONNX does.
 * A table of N rows cut at S rows is taken as cut at S exactly, which holds while S ≤ N (`fits`).
 * @returns undefined when the clamping cannot be decided for every S
 */
export function sliceBounds(start: Size, end: Size, step: number, dim: Size): SliceBounds | undefined {
  const from = clamp(start, dim);
  const to = clamp(end, dim);
  if (from === undefined || to === undefined) return undefined;
  const fits =
    from.fits === undefined ? to.fits : to.fits === undefined ? from.fits : Math.min(from.fits, to.fits);
  const limit = fits === undefined ? {} : { fits };
  const extent = subSizes(to.at, from.at);
  if (!atLeast(extent, zero)) {
    return atLeast(zero, extent) ? { start: from.at, end: from.at, size: zero } : undefined;
  }
  if (step === 1) return { start: from.at, end: to.at, size: extent, ...limit };
  const count = constantOf(extent);
  const size = count === undefined ? divideSizes(extent, step) : constantSize(Math.ceil(count / step));
  return size === undefined ? undefined : { start: from.at, end: to.at, size, ...limit };
}

function clamp(bound: Size, dim: Size): { at: Size; fits?: number } | undefined {
  const value = constantOf(bound);
  if (value !== undefined && value >= FAR) return { at: dim };
  if (value !== undefined && value <= -FAR) return { at: zero };
  const short = (constantOf(addSizes(bound, tokens)) ?? 0) >= 1;
  const negative = value === undefined ? !short && atLeast(constantSize(-1), bound) : value < 0;
  if (!negative && !short && !atLeast(bound, zero)) return undefined;
  const at = negative ? addSizes(bound, dim) : bound;
  if (atLeast(zero, at)) return { at: zero };
  if (atLeast(at, dim)) return { at: dim };
  if (atLeast(at, zero) && atLeast(dim, at)) return { at };
  // S + c rows of a table of N rows: exact while S ≤ N − c.
  const [rows, offset] = [constantOf(dim), constantOf(subSizes(at, tokens))];
  if (rows !== undefined && offset !== undefined && offset >= -1 && rows - offset >= 1)
    return { at, fits: rows - offset };
  // The last S − c rows of such a table: exact while S ≤ c.
  const fromEnd = constantOf(addSizes(at, tokens));
  if (rows !== undefined && fromEnd !== undefined && fromEnd >= 1 && fromEnd <= rows)
    return { at, fits: fromEnd };
  // A constant cut of a dim that grows with S: exact once S is large enough only.
  return undefined;
}

/** Number of elements of Range(start, limit, delta), when exact for every S. */
export function rangeCount(start: Size, limit: Size, delta: Size): Size | undefined {
  const extent = subSizes(limit, start);
  const step = constantOf(delta);
  if (step === undefined || step === 0) return undefined;
  const directed = step > 0 ? extent : mulSizes(extent, -1);
  if (atLeast(zero, directed)) return zero;
  if (!atLeast(directed, zero)) return undefined;
  const count = constantOf(directed);
  if (count !== undefined) return constantSize(Math.ceil(count / Math.abs(step)));
  return divideSizes(directed, Math.abs(step));
}

/** a = b for every S, for no S, or undecided. */
export function compareEqual(a: Size, b: Size): boolean | undefined {
  const sign = signOfSize(subSizes(a, b));
  return sign === undefined ? undefined : sign === 0;
}

/** a < b for every S, for no S, or undecided. */
export function compareLess(a: Size, b: Size): boolean | undefined {
  if (signOfSize(subSizes(b, a)) === 1) return true;
  return atLeast(a, b) ? false : undefined;
}
