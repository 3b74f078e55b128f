/**
 * How many tokens a document has, as a number that its pooled rows are scaled by. Padding masks are all ones and
 * the batch is one sequence, so exporters' Σ mask, clamped away from 0, is S; in a packed row it is the length of
 * the document of each token. Shown by structure, whatever the sizes: the base is what is proved to be ones.
 */
import { constantOf, sameSize } from '../../size.js';
import type { OnnxNode } from '../model.js';
import type { Classified, ValueFacts } from './classify.js';
import { contextOf } from './classify.js';
import type { Form } from './forms.js';
import { reducedDims } from './ops/contract.js';
import { isOne, isTokens, tokens } from './shapes.js';

/** factor · (n, or n (n + 1) / 2 where `triangle`)^power, n being the length of a document. */
export interface LengthForm {
  readonly kind: 'length';
  readonly triangle: boolean;
  readonly factor: number;
  readonly power: number;
}

/** A form that is proved for every length; undefined: it has none. */
export type ProvedForm = (name: string) => Promise<Form | undefined>;

/** Ops that give back elements of their first operand. */
const MOVES = new Set(['Cast', 'Identity', 'Unsqueeze', 'Squeeze', 'Reshape', 'Expand', 'Flatten']);
/** What is added to a divisor to keep it from 0 is lost beside a length. */
const NEGLIGIBLE = 1e-7;

export const lengthText = ({ triangle, power }: LengthForm): string =>
  `${power < 0 ? 'one by ' : ''}${Math.abs(power) === 0.5 ? 'the root of ' : ''}${triangle ? 'the sum of positions in a document' : 'the length of a document'}`;

/** Exporters take a few. */
const MAX_STEPS = 100;

/** What a value is as a function of the length, the same in all its elements; undefined: no such function. */
export async function lengthOf(
  classified: Classified,
  name: string,
  proved: ProvedForm,
  steps = MAX_STEPS,
): Promise<LengthForm | undefined> {
  const facts = classified.facts.get(name);
  if (facts === undefined || facts.data || facts.weights || steps === 0) return undefined;
  if (facts.ints !== undefined)
    return facts.ints.length > 0 && facts.ints.every((size) => sameSize(size, tokens)) ? LENGTH : undefined;
  const { node } = facts;
  if (node === undefined) return undefined;
  if (node.opType === 'ReduceSum') return summed(classified, node, proved);
  const inner = await lengthOf(classified, node.inputs[0] ?? '', proved, steps - 1);
  if (inner === undefined) return undefined;
  if (MOVES.has(node.opType)) return facts.dtype === 'bool' ? undefined : inner;
  const other = (index: number): number | undefined =>
    constantElement(classified.facts.get(node.inputs[index] ?? ''));
  switch (node.opType) {
    case 'Clip':
    case 'Max':
      return isAtLeastOne(inner) && (node.inputs[2] ?? '') === '' && (other(1) ?? Infinity) <= 1
        ? inner
        : undefined;
    case 'Add':
      return isAtLeastOne(inner) && Math.abs(other(1) ?? Infinity) <= NEGLIGIBLE ? inner : undefined;
    case 'Sqrt':
      return { ...inner, factor: Math.sqrt(inner.factor), power: inner.power / 2 };
    case 'Reciprocal':
      return { ...inner, factor: 1 / inner.factor, power: -inner.power };
    default:
      return undefined;
  }
}

const LENGTH: LengthForm = { kind: 'length', triangle: false, factor: 1, power: 1 };

/** n, or the triangle of it, is 1 or more. */
const isAtLeastOne = ({ factor, power }: LengthForm): boolean => factor >= 1 && power > 0;

/** A sum over the tokens of ones, or of positions from 1. */
async function summed(
  classified: Classified,
  node: OnnxNode,
  proved: ProvedForm,
): Promise<LengthForm | undefined> {
  const of = classified.facts.get(node.inputs[0] ?? '');
  if (of === undefined) return undefined;
  const { dims } = of;
  const axes = reducedDims(
    contextOf(node, classified.opset, classified.facts, classified.limit),
    dims.length,
  );
  const [axis, ...more] = axes?.filter((i) => !isOne(dims[i]!)) ?? [];
  if (axis === undefined || more.length > 0 || !isTokens(dims[axis]!)) return undefined;
  const form = await proved(node.inputs[0]!);
  if (form?.kind === 'fill' && form.value === 1) return LENGTH;
  return form?.kind === 'iota' && form.offset === 1 ? { ...LENGTH, triangle: true } : undefined;
}

const constantElement = (facts: ValueFacts | undefined): number | undefined => {
  if (facts?.stored?.elementCount === 1 && facts.stored.isPresent())
    return facts.stored.read().toFloat64()[0];
  return facts?.ints?.length === 1 ? constantOf(facts.ints[0]!) : undefined;
};
