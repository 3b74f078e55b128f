import { UserError, invariant } from '../errors.js';

/**
 * A global size: a polynomial with integer coefficients in symbols such as `S` (tokens of a group).
 * Canonical: terms are sorted and non-zero, so equal polynomials have equal `key`s.
 * Local sizes (⌊S/P⌋ + [r < S mod P]) are not polynomials; see `placement.ts`.
 */
export interface Size {
  readonly terms: readonly Term[];
  /** Canonical text, also the printed form: `3*S + 1`. */
  readonly key: string;
}

interface Term {
  readonly coefficient: number;
  /** Sorted symbols, repeated for powers. */
  readonly symbols: readonly string[];
}

export type SizeLike = Size | number;

/** Values of the symbols. */
export type SymbolValues = ReadonlyMap<string, number>;

/** Tensors have few dims that grow; repeated squaring in a hostile file would not end. */
const MAX_DEGREE = 16;

const compareSymbols = (a: readonly string[], b: readonly string[]): number =>
  b.length - a.length || (a.join('*') < b.join('*') ? -1 : a.join('*') > b.join('*') ? 1 : 0);

function make(terms: readonly Term[]): Size {
  if (terms.length === 1 && terms[0]!.symbols.length === 0) return constant(terms[0]!.coefficient);
  const merged = new Map<string, Term>();
  for (const term of terms) {
    const key = term.symbols.join('*');
    const coefficient = (merged.get(key)?.coefficient ?? 0) + term.coefficient;
    if (!Number.isSafeInteger(coefficient))
      throw new UserError(`a size overflows 2^53: ${coefficient}·${key}`);
    if (term.symbols.length > MAX_DEGREE)
      throw new UserError(`a size is a polynomial of degree ${term.symbols.length}, more than ${MAX_DEGREE}`);
    merged.set(key, { coefficient, symbols: term.symbols });
  }
  const sorted = [...merged.values()]
    .filter((t) => t.coefficient !== 0)
    .sort((a, b) => compareSymbols(a.symbols, b.symbols));
  const key = sorted.length === 0 ? '0' : sorted.map(termText).join(' + ');
  return { terms: sorted, key };
}

/** Most sizes are constant: what `make` gives for them, without its sorting. */
function constant(value: number): Size {
  if (!Number.isSafeInteger(value)) throw new UserError(`a size overflows 2^53: ${value}`);
  return value === 0 ? ZERO : { terms: [{ coefficient: value, symbols: [] }], key: String(value) };
}

const ZERO: Size = { terms: [], key: '0' };

const termText = (t: Term): string =>
  t.symbols.length === 0
    ? String(t.coefficient)
    : t.coefficient === 1
      ? t.symbols.join('*')
      : [t.coefficient, ...t.symbols].join('*');

export const constantSize = (value: number): Size => {
  invariant(Number.isSafeInteger(value), `size ${value} is not an integer`);
  return constant(value);
};

export const symbolSize = (name: string): Size => make([{ coefficient: 1, symbols: [name] }]);

export const toSize = (size: SizeLike): Size => (typeof size === 'number' ? constantSize(size) : size);

export const addSizes = (a: SizeLike, b: SizeLike): Size => make([...toSize(a).terms, ...toSize(b).terms]);

export function mulSizes(a: SizeLike, b: SizeLike): Size {
  const [x, y] = [toSize(a), toSize(b)];
  if (x.key === '1') return y;
  if (y.key === '1') return x;
  return make(
    x.terms.flatMap((left) =>
      y.terms.map((right) => ({
        coefficient: left.coefficient * right.coefficient,
        symbols: [...left.symbols, ...right.symbols].sort(),
      })),
    ),
  );
}

export const subSizes = (a: SizeLike, b: SizeLike): Size => addSizes(a, mulSizes(b, -1));

export const productOfSizes = (sizes: readonly SizeLike[]): Size =>
  sizes.reduce<Size>((product, size) => mulSizes(product, size), constantSize(1));

/** The number, if the size has no symbols. */
export const constantOf = (size: Size): number | undefined =>
  size.terms.length === 0
    ? 0
    : size.terms.length === 1 && size.terms[0]!.symbols.length === 0
      ? size.terms[0]!.coefficient
      : undefined;

export const sameSize = (a: SizeLike, b: SizeLike): boolean => a === b || toSize(a).key === toSize(b).key;

/** `a / b` when it is exact for every value of the symbols and `b` is a monomial; undefined otherwise. */
export function divideSizes(a: SizeLike, b: SizeLike): Size | undefined {
  const [dividend, divisor] = [toSize(a), toSize(b)];
  if (dividend.key === divisor.key && divisor.terms.length > 0) return constantSize(1);
  if (divisor.terms.length !== 1) return undefined;
  const by = divisor.terms[0]!;
  const quotient: Term[] = [];
  for (const term of dividend.terms) {
    const symbols = [...term.symbols];
    for (const symbol of by.symbols) {
      const at = symbols.indexOf(symbol);
      if (at < 0) return undefined;
      symbols.splice(at, 1);
    }
    if (term.coefficient % by.coefficient !== 0) return undefined;
    quotient.push({ coefficient: term.coefficient / by.coefficient, symbols });
  }
  return make(quotient);
}

/** The sign, when it is the same for all symbol values ≥ 1: 1, 0, -1, or undefined. */
export function signOfSize(size: Size): -1 | 0 | 1 | undefined {
  if (size.terms.length === 0) return 0;
  const constant = size.terms.find((t) => t.symbols.length === 0)?.coefficient ?? 0;
  const others = size.terms.filter((t) => t.symbols.length > 0).map((t) => t.coefficient);
  const slope = others.reduce((sum, c) => sum + c, 0);
  if (others.every((c) => c >= 0) && slope + constant > 0) return 1;
  if (others.every((c) => c <= 0) && slope + constant < 0) return -1;
  return undefined;
}

/** The value for given symbols. Throws when a symbol is unbound. */
export function evaluateSize(size: SizeLike, symbols: SymbolValues): number {
  if (typeof size === 'number') return size;
  let total = 0;
  for (const term of size.terms) {
    let product = term.coefficient;
    for (const symbol of term.symbols) {
      const value = symbols.get(symbol);
      invariant(value !== undefined, `symbol ${symbol} of size ${size.key} is not bound`);
      product *= value;
    }
    total += product;
  }
  return total;
}

/** The size with one symbol renamed. */
export const renameSymbol = (size: Size, from: string, to: string): Size =>
  make(
    size.terms.map((t) => ({
      coefficient: t.coefficient,
      symbols: t.symbols.map((s) => (s === from ? to : s)).sort(),
    })),
  );

/** Inverse of `key`: `2*S*H + -1`. */
export function parseSize(text: string): Size {
  return make(
    text.split('+').map((part) => {
      let coefficient = 1;
      const symbols: string[] = [];
      for (const factor of part.trim().split('*')) {
        const trimmed = factor.trim();
        if (/^-?\d+$/.test(trimmed)) coefficient *= Number(trimmed);
        else if (/^[A-Za-z_]\w*$/.test(trimmed)) symbols.push(trimmed);
        else throw new UserError(`'${text}' is not a size; expected something like 3*S + 1`);
      }
      return { coefficient, symbols: symbols.sort() };
    }),
  );
}
