import type { Value } from '../../ir/graph.js';
import { eitherOrder, operandOf, operandsOf, uniformOf } from '../match.js';

/** A factor of a product; `inverse` when the product is divided by it. */
export interface Factor {
  readonly value: Value;
  readonly inverse: boolean;
}

/** All ways to read a value as a product of `count` factors, by taking apart mul and div. */
export function products(value: Value, count: number): readonly (readonly Factor[])[] {
  return expand({ value, inverse: false }, count);
}

function expand(factor: Factor, count: number): readonly (readonly Factor[])[] {
  if (count === 1) return [[factor]];
  const { op } = factor.value.node;
  if (op !== 'mul' && op !== 'div') return [];
  const [a, b] = factor.value.node.operands as readonly [Value, Value];
  const left = { value: a, inverse: factor.inverse };
  const right = { value: b, inverse: op === 'div' ? !factor.inverse : factor.inverse };
  return Array.from({ length: count - 1 }, (_, i) => i + 1).flatMap((n) =>
    expand(left, n).flatMap((x) => expand(right, count - n).map((y) => [...x, ...y])),
  );
}

/** Takes one factor out of a product: the first that `pick` accepts, and the others. */
export function takeFactor<T>(
  factors: readonly Factor[],
  pick: (factor: Factor) => T | undefined,
): { readonly found: T; readonly others: readonly Factor[] } | undefined {
  for (const [i, factor] of factors.entries()) {
    const found = pick(factor);
    if (found !== undefined) return { found, others: factors.toSpliced(i, 1) };
  }
  return undefined;
}

/** A factor that is the same number everywhere, an inverse one inverted. */
export const numberFactor = ({ value, inverse }: Factor): number | undefined => {
  const number = uniformOf(value);
  return number !== undefined && inverse ? 1 / number : number;
};

/** Whether a value is another one squared. Not by `powerOf`: products of products would be read over and over. */
function isSquare(value: Value, base: Value): boolean {
  const factors = operandsOf(value, 'mul');
  if (factors !== undefined) return factors.every((factor) => factor === base);
  const [raised, exponent] = operandsOf(value, 'pow') ?? [];
  return raised === base && exponent !== undefined && uniformOf(exponent) === 2;
}

/** The base and exponent of pow(x, n), x·x and x·x·x. */
export function powerOf(value: Value): { readonly base: Value; readonly exponent: number } | undefined {
  const [base, exponent] = operandsOf(value, 'pow') ?? [];
  const constant = exponent && uniformOf(exponent);
  if (base !== undefined && constant !== undefined) return { base, exponent: constant };
  for (const [a, b] of eitherOrder(value, 'mul')) {
    if (a === b) return { base: a, exponent: 2 };
    if (isSquare(a, b)) return { base: b, exponent: 3 };
  }
  return undefined;
}

/** x and c of x + c, for a number c. */
export function plusNumber(value: Value): { readonly x: Value; readonly c: number } | undefined {
  for (const [x, other] of eitherOrder(value, 'add')) {
    const c = uniformOf(other);
    if (c !== undefined) return { x, c };
  }
  return undefined;
}

/** x of 1 / x, however it is spelled. */
export const inverted = ({ value, inverse }: Factor): Value | undefined =>
  inverse ? value : operandOf(value, 'reciprocal');
