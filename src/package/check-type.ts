import { UserError } from '../errors.js';
import { parseDim, parseType, placementFault, tensorType, type Dim, type Type } from '../ir/type.js';

/** What a type of a stranger's program may say, so that evaluating it on a rank cannot go astray. */

const MAX_DIMS = 16;
const MAX_TERMS = 16;
/** More than any tensor has elements: products with token counts stay exact integers in most programs. */
const MAX_COEFFICIENT = 2 ** 40;

/** Symbols a program may use: outside tiles, inside them, and inside the attention models (rows and local heads). */
export const SYMBOLS: ReadonlySet<string> = new Set(['S']);
export const TILE_SYMBOLS: ReadonlySet<string> = new Set(['S', 'T']);
export const KERNEL_SYMBOLS: ReadonlySet<string> = new Set(['Tq', 'Tk', 'Hl', 'Hkvl', 'G']);

/** @throws UserError saying what is wrong with the type, without naming the file */
export function checkedType(text: string, symbols: ReadonlySet<string>): Type {
  const type = parseType(text);
  if (type.dims.length > MAX_DIMS) throw new UserError(`type ${text} has more than ${MAX_DIMS} dims`);
  for (const dim of type.dims) checkDim(text, dim, symbols);
  return type;
}

/** @throws UserError as {@link checkedType} */
export function checkedDim(text: string, symbols: ReadonlySet<string>): Dim {
  const dim = parseDim(text);
  const fault = placementFault(tensorType('i32', [dim]));
  if (fault !== undefined) throw new UserError(`${text} is not a dim: ${fault}`);
  checkDim(text, dim, symbols);
  return dim;
}

function checkDim(text: string, { size }: Dim, symbols: ReadonlySet<string>): void {
  if (size.terms.length > MAX_TERMS) throw new UserError(`${text} has a size of too many terms`);
  for (const term of size.terms) {
    if (Math.abs(term.coefficient) > MAX_COEFFICIENT || term.symbols.length > MAX_DIMS)
      throw new UserError(`${text} has a size that is out of bounds: ${size.key}`);
    for (const symbol of term.symbols)
      if (!symbols.has(symbol)) throw new UserError(`${text} has the unknown symbol ${symbol}`);
  }
}
