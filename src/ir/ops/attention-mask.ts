/** Which keys the queries of attention see. */
import type { Attrs } from '../graph.js';
import { numberAttr } from '../graph.js';

/** What a query may see, inside its document: everything, what is not later, or what is near. */
export type MaskKind = 'full' | 'causal' | 'window';

/**
 * What is added to a score at or below this hides its key: e^−9000 is 0 in float32 and in float64, and no other score is
 * as far away. Exporters use −10000 (−9984 in bfloat16), −65504, −1e9, the lowest float and −∞.
 */
export const HIDDEN_SCORE = -9000;

/** How many later keys a query sees of those a window holds; 0: none. */
export const aheadOf = (attrs: Attrs): number =>
  attrs['ahead'] === undefined ? 0 : numberAttr(attrs, 'ahead');

/** Whether query i sees key j of the same document. `window` w, `ahead` a: i − w < j ≤ i + a. */
export const visible = (attrs: Attrs, i: number, j: number): boolean =>
  attrs['mask'] === 'full' ||
  (j <= i + aheadOf(attrs) && (attrs['mask'] === 'causal' || j > i - numberAttr(attrs, 'window')));

/**
 * The symbol for the number of (query, key) pairs seen, summed over documents: Σ s² (full),
 * Σ s(s+1)/2 (causal), the same clipped by the window, and what it holds ahead.
 */
export const pairsSymbol = (attrs: Attrs): string => {
  if (attrs['mask'] !== 'window') return `A_${String(attrs['mask'])}`;
  const ahead = aheadOf(attrs);
  return `A_window_${numberAttr(attrs, 'window')}${ahead === 0 ? '' : `_${ahead}`}`;
};

/** The window of a symbol that `pairsSymbol` made of one. */
export function windowOfSymbol(symbol: string): { window: number; ahead: number } | undefined {
  const found = /^A_window_(\d+)(?:_(\d+))?$/.exec(symbol);
  return found === null ? undefined : { window: Number(found[1]), ahead: Number(found[2] ?? 0) };
}

/** Pairs (i, j) with i − window < j ≤ i + ahead in a sequence of s. */
export function pairsWithin({ window, ahead }: { window: number; ahead: number }, s: number): number {
  const below = (w: number): number => (w * (w + 1)) / 2 + (s - w) * w;
  return below(Math.min(window, s)) + below(Math.min(ahead + 1, s)) - s;
}

/** Value of `pairsSymbol` for the lengths of the documents. */
export function attendedPairs(symbol: string, lengths: readonly number[]): number {
  const window = windowOfSymbol(symbol) ?? { window: Infinity, ahead: 0 };
  return lengths.reduce((sum, s) => sum + (symbol === 'A_full' ? s * s : pairsWithin(window, s)), 0);
}
