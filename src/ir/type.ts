import { UserError } from '../errors.js';
import {
  constantOf,
  divideSizes,
  parseSize,
  productOfSizes,
  sameSize,
  toSize,
  type Size,
  type SizeLike,
} from './size.js';

/** Element types of the IR. Integers are ids, positions and labels; they are never differentiated. */
export type DType = 'f32' | 'i32' | 'bool';

/** Mesh axes: `sp` are the ranks of one sequence-parallel group, `world` all ranks; `sp` ⊂ `world`. */
export type Axis = 'sp' | 'world';

/**
 * How a dim is spread over an axis, in `size / unit` pieces of `unit` elements, as evenly as possible,
 * the first ranks holding one piece more.
 *
 * With `of` (printed `2@sp(8)`) the dim follows the split of `of` query heads: a rank holds every
 * K/V head that one of its query heads reads, so neighbours may hold the same head.
 */
export interface Split {
  readonly axis: Axis;
  readonly unit: number;
  readonly of?: number;
}

export interface Dim {
  readonly size: Size;
  readonly split?: Split;
}

/**
 * A placed tensor type. `f32[S@sp, 768]` is split over `sp` on its first dim; `f32[768]{U:sp}` is a sum
 * still pending over `sp`: the value is the sum of what the ranks hold.
 */
export interface Type {
  readonly dtype: DType;
  readonly dims: readonly Dim[];
  readonly pending?: Axis;
}

export const dim = (size: SizeLike, split?: Split): Dim =>
  split === undefined ? { size: toSize(size) } : { size: toSize(size), split };

export const splitOn = (axis: Axis, options: { unit?: number; of?: number } = {}): Split =>
  options.of === undefined
    ? { axis, unit: options.unit ?? 1 }
    : { axis, unit: options.unit ?? 1, of: options.of };

export const tensorType = (dtype: DType, dims: readonly (Dim | SizeLike)[], pending?: Axis): Type => {
  const placed = dims.map((d) => (typeof d === 'object' && 'size' in d ? d : dim(d)));
  return pending === undefined ? { dtype, dims: placed } : { dtype, dims: placed, pending };
};

export const withPending = (type: Type, pending: Axis | undefined): Type =>
  tensorType(type.dtype, type.dims, pending);

export const isWhole = (type: Type): boolean =>
  type.pending === undefined && type.dims.every((d) => d.split === undefined);

export const numberOfElements = (type: Type): Size => productOfSizes(type.dims.map((d) => d.size));

/** Constant size of a dim, or undefined when it depends on symbols. */
export const constantDim = (type: Type, index: number): number | undefined => {
  const at = type.dims[index];
  return at === undefined ? undefined : constantOf(at.size);
};

export const sameSplit = (a: Split | undefined, b: Split | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && a.axis === b.axis && a.unit === b.unit && a.of === b.of);

export const sameDim = (a: Dim, b: Dim): boolean => sameSize(a.size, b.size) && sameSplit(a.split, b.split);

export const sameType = (a: Type, b: Type): boolean =>
  a.dtype === b.dtype &&
  a.pending === b.pending &&
  a.dims.length === b.dims.length &&
  a.dims.every((d, i) => sameDim(d, b.dims[i]!));

/** Same element type and global shape, whatever the placement. */
export const sameShape = (a: Type, b: Type): boolean =>
  a.dims.length === b.dims.length && a.dims.every((d, i) => sameSize(d.size, b.dims[i]!.size));

/**
 * The type of a cotangent: dual to the value's. What is split stays split; what every rank holds
 * whole (or twice, as K/V heads under `of`) collects a pending sum; what was pending is whole.
 */
export function cotangentType(type: Type): Type {
  if (type.pending !== undefined) return tensorType(type.dtype, type.dims);
  const spread = type.dims.some((d) => d.split !== undefined && d.split.of === undefined);
  return spread ? type : tensorType(type.dtype, type.dims, 'sp');
}

/**
 * What is wrong with a placement, or undefined. A tensor has one split dim at most, because `sp` lies inside
 * `world`: two would leave each rank a block of a diagonal. A pending sum is whole on every rank, save for
 * K/V heads, whose holders add up what they hold.
 */
export function placementFault({ dims, pending }: Type): string | undefined {
  const split = dims.filter((d) => d.split !== undefined);
  if (dims.some((d) => (constantOf(d.size) ?? 0) < 0)) return 'a dim has a negative size';
  if (split.length > 1) return 'two dims are split, a tensor can have one split dim';
  const [first] = split;
  if (first?.split === undefined) return undefined;
  const { axis, unit, of } = first.split;
  const pieces = unit >= 1 ? divideSizes(first.size, unit) : undefined;
  if (pieces === undefined) return `${printDim(first)} is not a multiple of its unit`;
  if (of === undefined)
    return pending === undefined ? undefined : `a sum pending over ${pending} meets a dim split over ${axis}`;
  const heads = constantOf(pieces);
  if (axis !== 'sp' || heads === undefined || heads < 1 || of <= heads || of % heads !== 0)
    return `${printDim(first)}: ${of} query heads over sp are expected to be several for each K/V head`;
  return pending === 'world' ? `a sum pending over world meets ${printDim(first)}` : undefined;
}

/** `sp`, `sp/64`, `sp(8)`: what stands after the `@` of a split dim. */
export const printSplit = ({ axis, unit, of }: Split): string =>
  `${axis}${unit === 1 ? '' : `/${unit}`}${of === undefined ? '' : `(${of})`}`;

export function printDim({ size, split }: Dim): string {
  const text = size.terms.length > 1 ? `(${size.key})` : size.key;
  return split === undefined ? text : `${text}@${printSplit(split)}`;
}

export const printType = (type: Type): string =>
  `${type.dtype}[${type.dims.map(printDim).join(', ')}]${type.pending === undefined ? '' : `{U:${type.pending}}`}`;

const TYPE = /^(f32|i32|bool)\[(.*)\](?:\{U:(sp|world)\})?$/;
const DIM = /^(\([^()]*\)|[^@()]+)(?:@(.*))?$/;
const SPLIT = /^(sp|world)(?:\/([1-9]\d*))?(?:\(([1-9]\d*)\))?$/;

/** Inverse of `printSplit`; undefined when the text is not a split. */
export function parseSplit(text: string): Split | undefined {
  const match = SPLIT.exec(text);
  if (match === null) return undefined;
  const [, axis, unit, of] = match;
  return splitOn(axis as Axis, {
    ...(unit === undefined ? {} : { unit: Number(unit) }),
    ...(of === undefined ? {} : { of: Number(of) }),
  });
}

/** Inverse of `printType`. */
export function parseType(text: string): Type {
  const match = TYPE.exec(text.trim());
  if (match === null)
    throw new UserError(`'${text}' is not a type; expected something like f32[S@sp, 64]{U:sp}`);
  const [, dtype, inner, pending] = match;
  const dims = inner!.trim() === '' ? [] : inner!.split(',').map(parseDim);
  const type = tensorType(dtype as DType, dims, pending as Axis | undefined);
  const fault = placementFault(type);
  if (fault !== undefined) throw new UserError(`'${text}' is not a type: ${fault}`);
  return type;
}

/** Inverse of `printDim`. */
export function parseDim(text: string): Dim {
  const match = DIM.exec(text.trim());
  const split = match?.[2] === undefined ? undefined : parseSplit(match[2]);
  if (match === null || (match[2] !== undefined && split === undefined))
    throw new UserError(`'${text.trim()}' is not a dim; expected something like S@sp or 2@sp(8)`);
  return dim(parseSize(match[1]!.replace(/^\(|\)$/g, '')), split);
}
