/**
 * Closed forms of index values: what a subgraph of masks and positions computes, whatever its spelling.
 * A form is derived from the value at one length and must then hold, element by element, at all others.
 */
import type { TensorValue } from '../model.js';
import { BLOCKED, type ValueFacts } from './classify.js';
import { isOne, isTokens } from './shapes.js';

export type Form =
  /** Every element is `value`. */
  | { readonly kind: 'fill'; readonly value: number }
  /** Element t of the one dim that is S is t + offset. */
  | { readonly kind: 'iota'; readonly offset: number }
  /**
   * Over two dims of S, queries then keys: key j is seen by query i when j ≤ i (causal), or i − window < j ≤ i.
   * Seen is true, or 0 where additive; unseen is false, or ≤ −1e30.
   */
  | { readonly kind: 'mask'; readonly mask: 'causal'; readonly additive: boolean }
  | { readonly kind: 'mask'; readonly mask: 'window'; readonly window: number; readonly additive: boolean };

/** Which forms a value can have by its type alone. */
interface Layout {
  readonly lengths: number;
  readonly additive: boolean;
  readonly masks: boolean;
}

function layoutOf(facts: Pick<ValueFacts, 'dtype' | 'dims'>): Layout {
  const lengths = facts.dims.filter(isTokens).length;
  const plain = facts.dims.every((size) => isTokens(size) || isOne(size));
  return {
    lengths: plain ? lengths : -1,
    additive: facts.dtype !== 'bool',
    masks: facts.dtype === 'bool' || facts.dtype === 'f32' || facts.dtype === 'f64',
  };
}

/** The only form that fits the value at length `n`, if any. Unambiguous from 3 tokens on. */
export function deriveForm(
  facts: Pick<ValueFacts, 'dtype' | 'dims'>,
  value: TensorValue,
  n: number,
): Form | undefined {
  const { data } = value;
  if (data.length === 0) return undefined;
  const [first, layout] = [Number(data[0]), layoutOf(facts)];
  const candidates: Form[] = [{ kind: 'fill', value: first }];
  if (layout.lengths === 1 && facts.dtype !== 'bool') candidates.push({ kind: 'iota', offset: first });
  if (layout.lengths === 2 && layout.masks) {
    const last = (n - 1) * n;
    let seen = 0;
    while (seen < n && isSeen(Number(data[last + n - 1 - seen]), layout.additive) === true) seen++;
    const { additive } = layout;
    candidates.push(
      seen === n
        ? { kind: 'mask', mask: 'causal', additive }
        : { kind: 'mask', mask: 'window', window: seen, additive },
    );
  }
  return candidates.find((form) => fitsForm(form, value, n));
}

const isSeen = (element: number, additive: boolean): boolean | undefined => {
  if (!additive) return element !== 0;
  return element === 0 ? true : element <= BLOCKED ? false : undefined;
};

/** Whether a value is of a form at length `n`. */
export function fitsForm(form: Form, { data }: TensorValue, n: number): boolean {
  if (form.kind === 'fill') {
    for (const element of data) if (!Object.is(Number(element) + 0, form.value + 0)) return false;
    return true;
  }
  if (form.kind === 'iota') {
    if (data.length !== n || !Number.isSafeInteger(form.offset)) return false;
    for (let i = 0; i < n; i++) if (Number(data[i]) !== i + form.offset) return false;
    return true;
  }
  const window = form.mask === 'window' ? form.window : n;
  if (data.length !== n * n || window < 1) return false;
  for (let i = 0, at = 0; i < n; i++)
    for (let j = 0; j < n; j++, at++)
      if (isSeen(Number(data[at]), form.additive) !== (j <= i && j > i - window)) return false;
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
      return form.mask === 'causal' ? 'a causal mask' : `a causal mask of window ${form.window}`;
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
  if (layout.lengths !== 2 || !layout.masks) return `at length ${n} its elements are ${sample(data)}`;
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
