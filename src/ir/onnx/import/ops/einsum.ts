/** Einstein sums, operand by operand, as products of matrices between reorderings. */
import type { Value } from '../../../graph.js';
import { constantOf, productOfSizes, sameSize, type Size } from '../../../size.js';
import { irDtype, type OnnxOp, type OpContext, type TranslateContext } from '../context.js';
import { isOne, printDims } from '../shapes.js';
import { reshapeTo } from './layout.js';

/** An equation with its ellipses named: letters of each operand, and of the result. */
interface Equation {
  readonly operands: readonly (readonly string[])[];
  readonly result: readonly string[];
  readonly sizes: ReadonlyMap<string, Size>;
}

const refuse = (ctx: OpContext, problem: string): never =>
  ctx.fail(
    `equation '${ctx.text('equation', '')}' ${problem}`,
    'write the sum as matmul, transpose and reshape before the export',
  );

function equationOf(ctx: OpContext): Equation {
  const text = ctx.text('equation', '').replaceAll(/\s/g, '');
  const [left = '', right, ...more] = text.split('->');
  const terms = left.split(',');
  if (more.length > 0 || terms.length !== ctx.operands.length || !/^[A-Za-z.,]*$/.test(left + (right ?? '')))
    return refuse(ctx, `does not fit ${ctx.operands.length} operands`);
  const ranks = terms.map((term, i) => ctx.operand(i).dims.length - term.replaceAll('.', '').length);
  const deepest = Math.max(0, ...ranks.filter((_, i) => terms[i]!.includes('...')));
  const dots = (count: number): string[] =>
    Array.from({ length: count }, (_, i) => `.${deepest - count + i}`);
  const lettersOf = (term: string, count: number): string[] => {
    const [before, after] = term.includes('...') ? (term.split('...') as [string, string]) : [term, ''];
    return [...before, ...(term.includes('...') ? dots(count) : []), ...after];
  };
  const operands = terms.map((term, i) => lettersOf(term, ranks[i]!));
  const sizes = new Map<string, Size>();
  operands.forEach((letters, i) => {
    const { dims } = ctx.operand(i);
    if (letters.length !== dims.length || letters.includes('.'))
      refuse(ctx, `does not fit an operand of ${printDims(dims)}`);
    letters.forEach((letter, at) => {
      const [known, size] = [sizes.get(letter), dims[at]!];
      if (known === undefined || isOne(known)) sizes.set(letter, size);
      else if (!sameSize(known, size) && !isOne(size))
        refuse(ctx, `gives ${letter} sizes of ${known.key} and ${size.key}`);
    });
  });
  const all = operands.flat();
  const implied = [
    ...dots(deepest),
    ...[...new Set(all)].filter((c) => !c.startsWith('.') && all.indexOf(c) === all.lastIndexOf(c)).sort(),
  ];
  const result = right === undefined ? implied : lettersOf(right, deepest);
  if (result.some((letter) => !sizes.has(letter)) || new Set(result).size !== result.length)
    refuse(ctx, 'has a result of other letters than its operands');
  return { operands, result, sizes };
}

/** A value with a letter for each dim. */
interface Lettered {
  readonly value: Value;
  readonly letters: readonly string[];
}

/** Sums out the letters that are needed nowhere else. */
function summed(ctx: TranslateContext, { value, letters }: Lettered, needed: ReadonlySet<string>): Lettered {
  const dims = letters.flatMap((letter, i) => (needed.has(letter) ? [] : [i]));
  if (dims.length === 0) return { value, letters };
  if (dims.some((i) => constantOf(value.type.dims[i]!.size) === undefined))
    return refuse(ctx, 'sums over the tokens');
  return {
    value: ctx.build.one('reduce_sum', [value], { dims, keep: false }),
    letters: letters.filter((letter) => needed.has(letter)),
  };
}

const ordered = (ctx: TranslateContext, { value, letters }: Lettered, order: readonly string[]): Value => {
  const perm = order.map((letter) => letters.indexOf(letter));
  return perm.every((p, i) => p === i) ? value : ctx.build.one('transpose', [value], { perm });
};

/** Two operands: letters of both and the result are a batch, of both alone are contracted. */
function product(ctx: TranslateContext, a: Lettered, b: Lettered, { result, sizes }: Equation): Lettered {
  const shared = (letter: string): boolean => a.letters.includes(letter) && b.letters.includes(letter);
  const batch = result.filter(shared);
  const inner = a.letters.filter((letter) => shared(letter) && !result.includes(letter));
  const [rows, columns] = [a, b].map((x) => x.letters.filter((letter) => !shared(letter))) as [
    string[],
    string[],
  ];
  const sizesOf = (letters: readonly string[]): Size[] => letters.map((letter) => sizes.get(letter)!);
  const flat = (letters: readonly string[]): Size => productOfSizes(sizesOf(letters));
  const matrix = (x: Lettered, order: readonly (readonly string[])[]): Value => {
    const turned = ordered(ctx, x, order.flat());
    if (!turned.type.dims.every(({ size }, i) => sameSize(size, sizes.get(order.flat()[i]!)!)))
      return refuse(ctx, 'repeats a dim of 1');
    return reshapeTo(ctx, turned, [...sizesOf(batch), ...order.slice(1).map(flat)]);
  };
  const out = ctx.build.one('matmul', [matrix(a, [batch, rows, inner]), matrix(b, [batch, inner, columns])]);
  const letters = [...batch, ...rows, ...columns];
  return { value: reshapeTo(ctx, out, sizesOf(letters)), letters };
}

export const Einsum: OnnxOp = {
  infer: (ctx) => {
    const { result, sizes } = equationOf(ctx);
    return [{ dtype: ctx.operand(0).dtype, dims: result.map((letter) => sizes.get(letter)!) }];
  },
  translate: (ctx) => {
    const equation = equationOf(ctx);
    const { operands, result } = equation;
    if (operands.some((letters) => new Set(letters).size !== letters.length)) refuse(ctx, 'takes a diagonal');
    if (irDtype(ctx.operand(0).dtype) !== 'f32') refuse(ctx, `sums ${ctx.operand(0).dtype} values`);
    const terms = operands.map((letters, i) => {
      const elsewhere = new Set([...result, ...operands.filter((_, k) => k !== i).flat()]);
      return summed(ctx, { value: ctx.value(i), letters }, elsewhere);
    });
    const last = terms.reduce((a, b, i) => {
      const later = new Set([...result, ...operands.slice(i + 1).flat()]);
      const kept = [...new Set([...a.letters, ...b.letters])].filter((letter) => later.has(letter));
      return product(ctx, a, b, { ...equation, result: kept });
    });
    return [ordered(ctx, last, result)];
  },
};
