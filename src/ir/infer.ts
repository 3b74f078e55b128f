import { TypeMismatch, type InferContext } from './op.js';
import type { Attrs } from './graph.js';
import { constantOf, sameSize } from './size.js';
import {
  printDim,
  printType,
  sameDim,
  sameSplit,
  tensorType,
  type Axis,
  type Dim,
  type DType,
  type Type,
} from './type.js';

/**
 * In which operands an op is linear, and so lets a pending sum through:
 * `joint`: in all of them together (add); `each`: in any one while the others are settled (mul, matmul);
 * `first`: in the first only (div, scaling by a settled value); `last`: in the last only (the `_vjp` ops, in
 * their cotangent); `none`.
 */
export type Linearity = 'joint' | 'each' | 'first' | 'last' | 'none';

export function pendingOf(types: readonly Type[], linearity: Linearity): Axis | undefined {
  const pending = types.map((t) => t.pending);
  const axes = pending.filter((axis) => axis !== undefined);
  if (axes.length === 0) return undefined;
  const legal =
    (linearity === 'joint' && pending.every((axis) => axis === pending[0])) ||
    (linearity === 'each' && axes.length === 1) ||
    (linearity === 'first' && axes.length === 1 && pending[0] !== undefined) ||
    (linearity === 'last' && axes.length === 1 && pending[pending.length - 1] !== undefined);
  if (!legal)
    throw new TypeMismatch(
      `a sum is still pending in ${types.map(printType).join(', ')}; it must be settled before an op that is not linear in it`,
    );
  return axes[0];
}

export const requireDType = (type: Type, dtype: DType, what: string): void => {
  if (type.dtype !== dtype) throw new TypeMismatch(`${what} is ${type.dtype}, expected ${dtype}`);
};

/** Unifies a dim of two operands: same size and placement, or one of them a broadcast 1. */
export function unifyDims(a: Dim, b: Dim): Dim {
  if (sameSize(a.size, b.size)) {
    if (!sameSplit(a.split, b.split)) {
      if (constantOf(a.size) !== 1 || (a.split !== undefined && b.split !== undefined))
        throw new TypeMismatch(`placements differ: ${printDim(a)} against ${printDim(b)}`);
      return a.split === undefined ? b : a;
    }
    return a;
  }
  if (constantOf(a.size) === 1 && a.split === undefined) return b;
  if (constantOf(b.size) === 1 && b.split === undefined) return a;
  throw new TypeMismatch(`sizes differ: ${printDim(a)} against ${printDim(b)}`);
}

/** Dims of operands broadcast against each other as in numpy: aligned at the right. */
export function broadcastDims(types: readonly Type[]): Dim[] {
  const rank = Math.max(...types.map((t) => t.dims.length));
  const result: Dim[] = [];
  for (let i = 0; i < rank; i++) {
    const here = types.flatMap((t) => {
      const d = t.dims[i - rank + t.dims.length];
      return d === undefined ? [] : [d];
    });
    result.push(here.reduce(unifyDims));
  }
  return result;
}

/**
 * A pending sum must not be broadcast along a split dim: each rank would keep its share of its own part only,
 * and the parts of the others would be lost.
 */
export function refusePendingSplit(types: readonly Type[], dims: readonly Dim[]): void {
  for (const { split } of dims)
    for (const { pending, dims: own } of types)
      if (split !== undefined && pending !== undefined && !own.some((d) => sameSplit(d.split, split)))
        throw new TypeMismatch(`a sum pending over ${pending} meets a dim split over ${split.axis}`);
}

/**
 * The pending sum that summing over `summed` dims leaves behind, where one over `passing` was pending before.
 * Over K/V heads that several ranks hold only a pending sum adds up right: settled copies would count twice.
 */
export function summedOver(summed: readonly Dim[], passing: Axis | undefined): Axis | undefined {
  const split = summed.find((d) => d.split !== undefined)?.split;
  if (split === undefined) return passing;
  if (split.of === undefined ? passing !== undefined : passing !== split.axis)
    throw new TypeMismatch(
      split.of === undefined
        ? `a dim split over ${split.axis} is summed while a sum over ${passing} is pending`
        : `a sum over K/V heads that several ranks hold would count them more than once`,
    );
  return split.axis;
}

/** Inference of an elementwise op with broadcasting. */
export const elementwise =
  (linearity: Linearity, result: DType | 'same' = 'same') =>
  ({ types }: InferContext<Attrs>): readonly Type[] => {
    const dims = broadcastDims(types);
    const pending = pendingOf(types, linearity);
    refusePendingSplit(types, dims);
    return [tensorType(result === 'same' ? types[types.length - 1]!.dtype : result, dims, pending)];
  };

/** Normalises a possibly negative dim index. */
export function dimIndex(index: number, rank: number): number {
  const normal = index < 0 ? index + rank : index;
  if (!Number.isInteger(normal) || normal < 0 || normal >= rank)
    throw new TypeMismatch(`dim ${index} does not exist in a tensor of ${rank} dims`);
  return normal;
}

interface Signature {
  readonly operands: readonly (readonly string[])[];
  readonly results: readonly (readonly string[])[];
}

const parsed = new Map<string, Signature>();

/** Parses `'... m k, ... k n -> ... m n'`. */
export function parseAxes(spec: string): Signature {
  const known = parsed.get(spec);
  if (known !== undefined) return known;
  const side = (text: string): string[][] =>
    text.split(',').map((part) =>
      part
        .trim()
        .split(/\s+/)
        .filter((letter) => letter !== ''),
    );
  const [left, right] = spec.split('->');
  const signature = { operands: side(left!), results: side(right!) };
  parsed.set(spec, signature);
  return signature;
}

/**
 * Inference from an axis string. Letters name dims; equal letters must have equal size and placement.
 * A letter absent from a result is summed there: when it is split, that result is a pending sum.
 * UPPER case letters must be whole. `...` stands for any leading dims, the same in every operand that has
 * it (numpy broadcasting with `broadcast`). Operands are f32 unless `operandDTypes` says otherwise.
 */
export const axes =
  (
    spec: string,
    options: {
      linearity?: Linearity;
      operandDTypes?: readonly DType[];
      broadcast?: boolean;
    } = {},
  ) =>
  ({ types }: InferContext<Attrs>): readonly Type[] => {
    const signature = parseAxes(spec);
    const bound = new Map<string, Dim>();
    let leading: Dim[] | undefined;
    const bind = (letter: string, d: Dim): void => {
      const before = bound.get(letter);
      if (before === undefined) bound.set(letter, d);
      else if (!sameSize(before.size, d.size) || !sameSplit(before.split, d.split))
        throw new TypeMismatch(
          `dim '${letter}' of '${spec}' is ${printDim(before)} in one operand, ${printDim(d)} in another`,
        );
      if (letter !== letter.toLowerCase() && d.split !== undefined)
        throw new TypeMismatch(`dim '${letter}' of '${spec}' must be whole, it is ${printDim(d)}`);
    };
    types.forEach((type, i) => {
      requireDType(type, options.operandDTypes?.[i] ?? 'f32', `operand ${i} of '${spec}'`);
      const letters = signature.operands[i]!;
      const dots = letters[0] === '...';
      const named = dots ? letters.slice(1) : letters;
      const lead = type.dims.length - named.length;
      if (lead < 0 || (!dots && lead > 0))
        throw new TypeMismatch(`${printType(type)} does not fit '${letters.join(' ')}' of '${spec}'`);
      if (dots) {
        const dims = type.dims.slice(0, lead);
        leading = leading === undefined ? dims : unifyLeading(leading, dims, options.broadcast === true);
      }
      named.forEach((letter, j) => bind(letter, type.dims[lead + j]!));
    });
    const passing = pendingOf(types, options.linearity ?? 'each');
    return signature.results.map((letters) => {
      const summed = [...bound].filter(([letter]) => !letters.includes(letter)).map(([, d]) => d);
      if (leading !== undefined && !letters.includes('...')) summed.push(...leading);
      const dims = letters.flatMap((letter) => (letter === '...' ? leading! : [bound.get(letter)!]));
      refusePendingSplit(types, dims);
      return tensorType('f32', dims, summedOver(summed, passing));
    });
  };

function unifyLeading(a: readonly Dim[], b: readonly Dim[], broadcast: boolean): Dim[] {
  if (broadcast && a.length === 0) return [...b];
  if (broadcast && b.length === 0) return [...a];
  if (a.length !== b.length || (!broadcast && !a.every((d, i) => sameDim(d, b[i]!))))
    throw new TypeMismatch(
      `leading dims differ: [${a.map(printDim).join(', ')}] against [${b.map(printDim).join(', ')}]`,
    );
  return a.map((d, i) => unifyDims(d, b[i]!));
}
