/**
 * Closed forms of index values: what a subgraph of masks and positions computes, whatever its spelling.
 * A form is derived from the value at one length and must then hold, element by element, at all others.
 */
import type { TensorValue } from '../model.js';
import { HIDDEN_SCORE } from '../../ops/attention.js';
import { constantOf } from '../../size.js';
import type { ValueFacts } from './classify.js';
import { deriveDistance, fitsDistance, numbersOf, type DistanceForm, type Numbers } from './distance.js';
import { deriveRelative, fitsRelative, type RelativeForm } from './relative.js';
import { isOne, isTokens } from './shapes.js';

export type Form =
  /** Every element is `value`. */
  | { readonly kind: 'fill'; readonly value: number }
  /** Element t of the one dim that is S is t + offset, whatever the other dims, `inner` elements of them after it. */
  | { readonly kind: 'iota'; readonly offset: number; readonly inner: number }
  /**
   * Over two dims of S, queries then keys: key j is seen by query i when j ≤ i (causal), or i − window < j ≤ i + ahead.
   * Seen is true (false where inverted), or 0 where additive; unseen is the other, or ≤ −9000.
   */
  | MaskForm
  | DistanceForm
  | RelativeForm;

/** `inverted`: a boolean mask that is true where a key is not seen. */
export type MaskForm = {
  readonly kind: 'mask';
  readonly additive: boolean;
  readonly inverted?: true;
  /** A boolean mask as numbers 0 and 1. */
  readonly cast?: true;
  /** An additive mask to be subtracted: unseen is ≥ 9000. */
  readonly negated?: true;
} & (
  { readonly mask: 'causal' } | { readonly mask: 'window'; readonly window: number; readonly ahead?: number }
);

/** Which forms a value can have by its type alone. */
interface Layout {
  /** Number of dims that are S; −1 where another depends on it. */
  readonly lengths: number;
  /** Elements of the dims after the last that is S. */
  readonly inner: number;
  /** All other dims are 1. */
  readonly plain: boolean;
  readonly additive: boolean;
  readonly masks: boolean;
}

function layoutOf(facts: Pick<ValueFacts, 'dtype' | 'dims'>): Layout {
  const { dims } = facts;
  const known = dims.every((size) => isTokens(size) || constantOf(size) !== undefined);
  const after = dims.slice(dims.findLastIndex(isTokens) + 1);
  return {
    lengths: known ? dims.filter(isTokens).length : -1,
    inner: after.reduce((product, size) => product * (constantOf(size) ?? 1), 1),
    plain: dims.every((size) => isTokens(size) || isOne(size)),
    additive: facts.dtype !== 'bool',
    masks: facts.dtype === 'bool' || facts.dtype === 'f32' || facts.dtype === 'f64',
  };
}

/**
 * The only form that fits the value at length `n`, if any. Unambiguous from 3 tokens on.
 * @param rows of a mask, where not all rows were evaluated: their numbers, the last one n − 1
 */
export function deriveForm(
  facts: Pick<ValueFacts, 'dtype' | 'dims'>,
  value: TensorValue,
  n: number,
  rows?: readonly number[],
): Form | undefined {
  const { data } = value;
  if (data.length === 0) return undefined;
  const [first, layout] = [Number(data[0]), layoutOf(facts)];
  const candidates: Form[] = [{ kind: 'fill', value: first }];
  if (layout.lengths === 1 && facts.dtype !== 'bool')
    candidates.push({ kind: 'iota', offset: first, inner: layout.inner });
  if (layout.lengths === 2 && layout.plain && layout.masks) {
    const last = ((rows?.length ?? n) - 1) * n;
    const cast = layout.additive && Number(data[last + n - 1]) === 1;
    const additive = layout.additive && !cast;
    const inverted = !additive && Number(data[last + n - 1]) === 0;
    let seen = 0;
    while (seen < n && isSeen(Number(data[last + n - 1 - seen]), additive) === !inverted) seen++;
    const common = {
      kind: 'mask',
      additive,
      ...(inverted ? { inverted } : {}),
      ...(cast ? { cast } : {}),
    } as const;
    // What the first query sees beyond its own token is what all see ahead.
    let reach = 1;
    if (rows === undefined || rows[0] === 0)
      while (reach < n && isSeen(Number(data[reach]), additive) === !inverted) reach++;
    const ahead = reach > 1 && reach < n ? { ahead: reach - 1 } : {};
    candidates.push(
      seen === n ? { ...common, mask: 'causal' } : { ...common, mask: 'window', window: seen, ...ahead },
    );
  }
  const distance =
    layout.additive && layout.inner === 1 ? deriveDistance(layout.lengths, value, n, rows) : undefined;
  if (distance !== undefined) candidates.push(distance);
  const found =
    candidates.find((form) => fitsForm(form, value, n, rows)) ?? negatedMask(facts, value, n, rows);
  const pairs = layout.lengths === 2 && layout.inner === 1 && facts.dtype !== 'bool' && rows === undefined;
  const relative = found === undefined && pairs ? deriveRelative(value, n) : undefined;
  return found ?? (relative !== undefined && fitsForm(relative, value, n) ? relative : undefined);
}

/** A mask whose elements have the other sign. */
function negatedMask(
  facts: Pick<ValueFacts, 'dtype' | 'dims'>,
  value: TensorValue,
  n: number,
  rows: readonly number[] | undefined,
): Form | undefined {
  if (facts.dtype === 'bool' || !(Number(value.data[n - 1]) >= -HIDDEN_SCORE)) return undefined;
  const form = deriveForm(facts, negatedValue(value), n, rows);
  return form?.kind === 'mask' && form.additive ? { ...form, negated: true } : undefined;
}

function negatedValue(value: TensorValue): TensorValue {
  const numbers = numbersOf(value.data);
  const data = new Float64Array(numbers.length);
  for (let i = 0; i < data.length; i++) data[i] = 0 - numbers[i]!;
  return { ...value, data };
}

const isSeen = (element: number, additive: boolean): boolean | undefined => {
  if (!additive) return element !== 0;
  return element === 0 ? true : element <= HIDDEN_SCORE ? false : undefined;
};

/** Whether a value, or the given rows of a mask, is of a form at length `n`. */
export function fitsForm(form: Form, value: TensorValue, n: number, rows?: readonly number[]): boolean {
  if (form.kind === 'mask' && form.negated === true) {
    const { negated: _negated, ...plain } = form;
    return fitsForm(plain, negatedValue(value), n, rows);
  }
  const elements = numbersOf(value.data);
  if (form.kind === 'fill') {
    const { value } = form;
    for (let i = 0; i < elements.length; i++) if (elements[i] !== value) return false;
    return true;
  }
  if (form.kind === 'iota') {
    const { inner, offset } = form;
    if (elements.length % (n * inner) !== 0 || !Number.isSafeInteger(offset)) return false;
    return elements.every((element: number, i: number) => element === (Math.floor(i / inner) % n) + offset);
  }
  if (form.kind === 'distance') return fitsDistance(form, elements, n, rows);
  if (form.kind === 'relative') return fitsRelative(form, elements, n);
  const [window, ahead] = form.mask === 'window' ? [form.window, form.ahead ?? 0] : [n, 0];
  const inverted = form.inverted === true;
  if (form.cast === true && !elements.every((element: number) => element === 0 || element === 1))
    return false;
  const count = rows?.length ?? n;
  if (elements.length !== count * n || window < 1) return false;
  for (let r = 0; r < count; r++) {
    const i = rows === undefined ? r : rows[r]!;
    const [first, end, at] = [Math.max(0, i - window + 1), Math.min(n, i + ahead + 1), r * n];
    const fits =
      allBlocked(elements, at, at + first, form.additive, inverted) &&
      allSeen(elements, at + first, at + end, form.additive, inverted) &&
      allBlocked(elements, at + end, at + n, form.additive, inverted);
    if (!fits) return false;
  }
  return true;
}

function allSeen(
  elements: Numbers,
  start: number,
  end: number,
  additive: boolean,
  inverted: boolean,
): boolean {
  for (let at = start; at < end; at++) if ((elements[at] === 0) !== (additive || inverted)) return false;
  return true;
}

function allBlocked(
  elements: Numbers,
  start: number,
  end: number,
  additive: boolean,
  inverted: boolean,
): boolean {
  for (let at = start; at < end; at++)
    if (additive ? !(elements[at]! <= HIDDEN_SCORE) : (elements[at] !== 0) !== inverted) return false;
  return true;
}

export const sameForm = (a: Form, b: Form): boolean => JSON.stringify(a) === JSON.stringify(b);

export function formText(form: Form): string {
  switch (form.kind) {
    case 'fill':
      return `constant ${form.value}`;
    case 'iota':
      return form.offset === 0 ? 'positions' : `positions + ${form.offset}`;
    case 'mask':
      if (form.mask === 'causal') return 'a causal mask';
      return form.ahead === undefined
        ? `a causal mask of window ${form.window}`
        : `a mask of ${form.window - 1} tokens back and ${form.ahead} ahead`;
    case 'distance':
      return form.of === 'end' ? 'the distance to the last token' : 'the distance of query and key';
    case 'relative':
      return `a function of the offset between key and query, from ${-form.before} to ${form.count - 1 - form.before}`;
  }
}

/**
 * What is wrong with a value that fits no form, for the error that names it.
 * @param n at least 3
 */
export function missText(
  facts: Pick<ValueFacts, 'dtype' | 'dims'>,
  { data }: TensorValue,
  n: number,
): string {
  const layout = layoutOf(facts);
  if (layout.lengths === 1)
    return `at length ${n} its elements are ${sample(data)}, neither constant nor positions`;
  if (layout.lengths !== 2 || !layout.plain || !layout.masks)
    return `at length ${n} its elements are ${sample(data)}`;
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) {
      const seen = isSeen(Number(data[i * n + j]), layout.additive);
      if (seen === undefined)
        return `at query ${i}, key ${j} it is ${Number(data[i * n + j])}, neither 0 nor −∞`;
      if (seen !== j <= i)
        return `query ${i} ${seen ? 'sees the later' : 'does not see'} key ${j}, and it is no window`;
    }
  return 'it is causal at this length';
}

const sample = (data: TensorValue['data']): string =>
  `${Array.from(data.subarray(0, 4) as ArrayLike<number | bigint>, Number).join(', ')}${data.length > 4 ? ', …' : ''}`;
