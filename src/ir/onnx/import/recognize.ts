/** Recognises index values by evaluation: see docs/decisions/0002-recognition-by-evaluation.md. */
import { subSizes, constantOf } from '../../size.js';
import type { TensorValue } from '../model.js';
import { UserError } from '../../../errors.js';
import type { Classified, ValueFacts } from './classify.js';
import {
  indexEvaluator,
  type IndexEvaluator,
  insideOf,
  isEvaluable,
  MAX_VALUE_BYTES,
  peakBytes,
} from './evaluate.js';
import { deriveForm, fitsForm, formText, missText, sameForm, type Form } from './forms.js';
import { sampledRows } from './sampled.js';
import { numericDims, tokens } from './shapes.js';
import { elementsOf, uniformity } from './uniform.js';

/** Lengths every index value is evaluated at. */
const SMALL_LENGTHS: readonly number[] = [1, 2, 3, 5, 8, 13];
/** Further lengths for what is not uniform. */
const ODD_LENGTHS: readonly number[] = [31, 64, 100, 257, 1000];
/** Constants up to this size may be windows, chunk sizes or table lengths. */
const MAX_CONSTANT = 4096;
/** Lengths beyond are not tried. */
const MAX_LENGTH = 1 << 17;
/** Elements of a constant that stands in the IR itself. */
export const MAX_LITERAL = 1024;

export type Recognized =
  | {
      readonly kind: 'form';
      readonly form: Form;
      /** Undefined: proved for every length. */ readonly provenLength: number | undefined;
    }
  | { readonly kind: 'literal'; readonly data: readonly number[] };

export interface Recognizer {
  /** What an index value is, or undefined. */
  recognize(name: string): Promise<Recognized | undefined>;
  /** Why it was not recognised. */
  miss(name: string): string;
}

/** Evaluates all index values at small lengths, in one session. */
export async function recognizer(classified: Classified): Promise<Recognizer> {
  const heavy = heavyValues(classified);
  const all = [...classified.facts].flatMap(([name, facts]) => {
    const known = facts.ints !== undefined || facts.stored !== undefined || facts.input !== undefined;
    const elements = numericDims(facts.dims)?.reduce((a, b) => a * b, 1) ?? 0;
    return known || !isEvaluable(facts) || heavy.has(name) || elements > MAX_LITERAL * 4 ? [] : [name];
  });
  const candidates = affordable(classified, all);
  const small =
    candidates.length === 0
      ? new Map<number, Values>()
      : await valuesAt(classified, candidates, fitting(classified, candidates, SMALL_LENGTHS));
  const forms = new Map<string, Form>();
  for (const name of candidates) {
    const form = formOver(classified, name, small);
    if (form !== undefined) forms.set(name, form);
  }
  const largest = Math.max(...small.keys());
  const misses = new Map<string, string>();
  return {
    recognize: async (name) => {
      const facts = classified.facts.get(name)!;
      const input = facts.input;
      if (input !== undefined) {
        const form: Form =
          input.role === 'positions' ? { kind: 'iota', offset: 0, inner: 1 } : { kind: 'fill', value: 1 };
        return { kind: 'form', form, provenLength: undefined };
      }
      const value = small.get(largest)?.get(name);
      if (value === undefined) return undefined;
      const form = forms.get(name);
      if (facts.fixed) {
        if (form?.kind === 'fill') return { kind: 'form', form, provenLength: undefined };
        return value.data.length > MAX_LITERAL
          ? undefined
          : { kind: 'literal', data: Array.from(value.data as ArrayLike<number | bigint>, Number) };
      }
      if (form === undefined) {
        misses.set(name, missText(facts, value, largest));
        return undefined;
      }
      const proof = await prove(classified, name, form, (inner) => forms.get(inner));
      if (typeof proof === 'string') {
        misses.set(name, proof);
        return undefined;
      }
      return { kind: 'form', form: proof.form, provenLength: proof.provenLength };
    },
    miss: (name) => misses.get(name) ?? 'it is not a function of positions, masks and constants alone',
  };
}

const isTranslated = ({ data, weights }: ValueFacts): boolean => data || weights;

/** Values too large to evaluate even at small lengths, and what depends on them. */
function heavyValues(classified: Classified): ReadonlySet<string> {
  const heavy = new Set<string>();
  for (const node of classified.nodes) {
    const results = node.outputs.filter((name) => classified.facts.has(name));
    // What depends on tokens or weights is not evaluated, nor is what depends on that.
    if (results.every((name) => isTranslated(classified.facts.get(name)!))) continue;
    const large = peakBytes(classified, results, Math.max(...SMALL_LENGTHS)) > MAX_VALUE_BYTES;
    const known = results.every((name) => classified.facts.get(name)!.ints !== undefined);
    if (!known && (large || node.inputs.some((name) => heavy.has(name))))
      for (const name of results) heavy.add(name);
  }
  return heavy;
}

/** Bytes at the longest small length of one value, and of all: every small length is held, twice where it is converted. */
const [MOST_BYTES, MOST_IN_ALL] = [1 << 22, 1 << 26];

/** Those whose elements may be held; what is not held is not recognised. */
function affordable(classified: Classified, names: readonly string[]): readonly string[] {
  let held = 0;
  return names.filter((name) => {
    const bytes = peakBytes(classified, [name], Math.max(...SMALL_LENGTHS));
    if (bytes > MOST_BYTES || held + bytes > MOST_IN_ALL) return false;
    held += bytes;
    return true;
  });
}

type Values = ReadonlyMap<string, TensorValue>;

async function valuesAt(
  classified: Classified,
  names: readonly string[],
  lengths: readonly number[],
): Promise<Map<number, Values>> {
  const evaluator = await indexEvaluator(classified, names);
  try {
    const values = new Map<number, Values>();
    for (const length of lengths) values.set(length, await evaluator.run(length));
    return values;
  } finally {
    await evaluator.release();
  }
}

/** Lengths within the model's limit and the bound on memory. */
function fitting(
  classified: Classified,
  names: readonly string[],
  lengths: readonly number[],
): readonly number[] {
  const { inside } = insideOf(classified, names);
  const most = longest(classified, inside);
  return [...new Set(lengths)].filter((n) => n >= 1 && n <= most).sort((a, b) => a - b);
}

function longest(classified: Classified, inside: readonly string[]): number {
  let [low, high] = [1, Math.min(classified.limit.value() ?? MAX_LENGTH, MAX_LENGTH)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (peakBytes(classified, inside, middle) <= MAX_VALUE_BYTES) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The form of a value at its largest length, if it holds at the others. */
function formOver(
  classified: Classified,
  name: string,
  values: ReadonlyMap<number, Values>,
): Form | undefined {
  const facts = classified.facts.get(name)!;
  const lengths = [...values.keys()].sort((a, b) => b - a);
  const top = values.get(lengths[0]!)?.get(name);
  const form = top && deriveForm(facts, top, lengths[0]!);
  if (form === undefined) return undefined;
  return lengths.every((n) => fitsForm(form, values.get(n)!.get(name)!, n)) ? form : undefined;
}

/**
 * Checks a form at every length where it could break, re-deriving it from the largest: a window of 16 looks
 * causal up to 16 tokens.
 * @returns why it does not hold, as text
 */
async function prove(
  classified: Classified,
  name: string,
  hint: Form,
  formOf: (name: string) => Form | undefined,
): Promise<{ form: Form; provenLength: number | undefined } | string> {
  const facts = classified.facts.get(name)!;
  const { inside, given } = insideOf(classified, [name]);
  const { reach, assumed } = uniformity(classified, inside, formOf);
  const longestFitting = longest(classified, inside);
  const around = lengthsAround(classified, [...inside, ...given]);
  const enough = reach === undefined ? Infinity : 3 * (Math.ceil(reach) + 1);
  const evaluator = await indexEvaluator(classified, [name, ...assumed.keys()]);
  try {
    const asked = [...SMALL_LENGTHS, ...around, ...(enough <= longestFitting ? [enough] : ODD_LENGTHS)];
    const most = await longestRun(evaluator, asked, longestFitting);
    if (most < longestFitting) classified.limit.lower(most);
    const far =
      enough > most && enough <= MAX_LENGTH && most === longestFitting
        ? await sampledForm(classified, name, enough, around)
        : undefined;
    const longestWhole = far === undefined ? most : Math.min(most, MAX_WHOLE);
    const lengths = [...new Set(asked)].filter((n) => n >= 1 && n <= longestWhole).sort((a, b) => a - b);
    const last = lengths.at(-1)!;
    let uniform = enough <= most || far !== undefined;
    const top = (await evaluator.run(last)).get(name)!;
    const derived = far ?? deriveForm(facts, top, last);
    // A table knows the offsets it was made of.
    const form =
      derived?.kind === 'relative' && !uniform ? await tableAt(evaluator, facts, name, most) : derived;
    // The longest comes at the end: what does not fit is refused before it costs.
    const tried = uniform ? lengths : [...lengths, most];
    if (form === undefined || !(sameForm(form, hint) || REDERIVED.has(form.kind)))
      return await upTo(evaluator, name, hint, tried, form ? formText(form) : missText(facts, top, last));
    for (const length of tried) {
      const values = await evaluator.run(length);
      if (!fitsForm(form, values.get(name)!, length)) {
        const other = `it is ${formText(form)} at ${far === undefined ? last : enough} tokens, not at ${length}`;
        return sameForm(form, hint) ? await upTo(evaluator, name, hint, tried, other) : other;
      }
      for (const [inner, innerForm] of assumed) uniform &&= fitsForm(innerForm, values.get(inner)!, length);
    }
    return { form, provenLength: uniform ? undefined : Math.max(...tried) };
  } finally {
    await evaluator.release();
  }
}

const tableAt = async (
  evaluator: IndexEvaluator,
  facts: ValueFacts,
  name: string,
  length: number,
): Promise<Form | undefined> => deriveForm(facts, (await evaluator.run(length)).get(name)!, length);

/** Kinds that a short length shows in part only. */
const REDERIVED: ReadonlySet<Form['kind']> = new Set(['mask', 'distance', 'relative']);

/** The largest n in [low, high) for which `holds`, given that it does at `low`, not at `high`, and changes once. */
async function boundary(low: number, high: number, holds: (n: number) => Promise<boolean>): Promise<number> {
  while (high - low > 1) {
    const middle = low + Math.floor((high - low) / 2);
    if (await holds(middle)) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * The longest document, up to `most`, for which onnxruntime computes the value: a table that is read beyond its end
 * is refused.
 */
async function longestRun(
  evaluator: IndexEvaluator,
  asked: readonly number[],
  most: number,
): Promise<number> {
  const runs = async (n: number): Promise<boolean> => {
    try {
      await evaluator.run(n);
      return true;
    } catch (error) {
      if (error instanceof UserError) return false;
      throw error;
    }
  };
  const tried = [...new Set(asked)].filter((n) => n <= most).sort((a, b) => a - b);
  const [first, last] = [tried[0] ?? 1, tried.at(-1) ?? most];
  if ((await runs(last)) || !(await runs(first))) return most;
  return boundary(first, last, runs);
}

/** Shorter prefixes are chance: any two-branch expression is constant over a few tokens. */
const SHORTEST_PREFIX = 16;

/**
 * What holds for documents of up to some length and not beyond, as where frequencies change with the length: the form
 * is proved up to there.
 * @param beyond what it is at the longest
 */
async function upTo(
  evaluator: IndexEvaluator,
  name: string,
  form: Form,
  lengths: readonly number[],
  beyond: string,
): Promise<{ form: Form; provenLength: number } | string> {
  if (form.kind === 'distance' || form.kind === 'relative') return beyond;
  const holds = async (n: number): Promise<boolean> => fitsForm(form, (await evaluator.run(n)).get(name)!, n);
  let held = 0;
  for (const length of lengths) {
    if (await holds(length)) {
      held = length;
      continue;
    }
    if (held === 0) break;
    const provenLength = await boundary(held, length, holds);
    if (provenLength < SHORTEST_PREFIX) break;
    return { form, provenLength };
  }
  return `it is ${formText(form)} at few tokens, ${beyond} at more`;
}

const MAX_ROWS = 64;
/** Lengths up to here are checked whole where rows were sampled at a greater one. */
const MAX_WHOLE = 2048;

/** The form of a mask too long to be evaluated whole, from rows on both sides of every constant. */
async function sampledForm(
  classified: Classified,
  name: string,
  length: number,
  around: readonly number[],
): Promise<Form | undefined> {
  const third = Math.floor(length / 3);
  const asked = [0, 1, 2, third - 1, third, third + 1, 2 * third, length - 2, length - 1, ...around];
  const rows = [...new Set(asked)].filter((row) => row >= 0 && row < length).sort((a, b) => a - b);
  if (rows.length > MAX_ROWS) return undefined;
  const value = await sampledRows(classified, name, length, rows);
  return value && deriveForm(classified.facts.get(name)!, value, length, rows);
}

/** Both sides of every integer constant that a subgraph computes with; axes and permutations are no such. */
function lengthsAround(classified: Classified, names: readonly string[]): readonly number[] {
  const axes = axisOperands(classified, new Set(names));
  const found = new Set<number>();
  for (const name of names) {
    if (axes.has(name)) continue;
    const facts = classified.facts.get(name);
    const offsets = facts?.ints?.map((size) => constantOf(subSizes(size, tokens))) ?? [];
    for (const value of [...(elementsOf(facts) ?? []), ...offsets]) {
      const size = Math.abs(value ?? 0);
      if (Number.isInteger(size) && size >= 3 && size <= MAX_CONSTANT)
        for (const n of [size - 1, size, size + 1]) found.add(n);
    }
  }
  return [...found];
}

const AXIS_OPERAND = new Map([
  ['Squeeze', 1],
  ['Unsqueeze', 1],
  ['ReduceMax', 1],
  ['ReduceMin', 1],
  ['ReduceSum', 1],
  ['ReduceMean', 1],
  ['CumSum', 1],
  ['Slice', 3],
]);

/** Names that are axes wherever a subgraph reads them. */
function axisOperands(classified: Classified, names: ReadonlySet<string>): ReadonlySet<string> {
  const [axes, others] = [new Set<string>(), new Set<string>()];
  for (const node of classified.nodes) {
    if (!node.outputs.some((name) => names.has(name))) continue;
    node.inputs.forEach((name, i) => (AXIS_OPERAND.get(node.opType) === i ? axes : others).add(name));
  }
  return new Set([...axes].filter((name) => !others.has(name)));
}
