import type { CostModel } from '../cost.js';

/** What a search moves about: sequences of at least a token, longest first; very short ones tied into bundles. */
export interface Items {
  readonly count: number;
  /** Tokens, descending. */
  readonly tokens: Float64Array;
  readonly pairs: Float64Array;
  /** `[item]` → indices into the batch. */
  readonly sequences: readonly (readonly number[])[];
}

/**
 * Sorts a batch longest first. More than `most` sequences are too many to move one by one: the shortest are bundled
 * until a bundle holds `bundleTokens`, or until few enough are left.
 */
export function makeItems(
  lengths: readonly number[],
  model: CostModel,
  most: number,
  bundleTokens: number,
): Items {
  const order = Array.from(lengths.keys())
    .filter((index) => lengths[index]! > 0)
    .sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const entries: { tokens: number; pairs: number; sequences: number[] }[] = [];
  let excess = order.length - most;
  let open: { tokens: number; pairs: number; sequences: number[] } | undefined;
  for (const index of order.reverse()) {
    const tokens = lengths[index]!;
    const pairs = model.pairs(tokens);
    if (excess > 0 && open !== undefined && open.tokens + tokens <= bundleTokens) {
      open.tokens += tokens;
      open.pairs += pairs;
      open.sequences.push(index);
      excess--;
    } else {
      open = { tokens, pairs, sequences: [index] };
      entries.push(open);
    }
  }
  entries.reverse();
  entries.sort((a, b) => b.tokens - a.tokens);
  return {
    count: entries.length,
    tokens: Float64Array.from(entries, (entry) => entry.tokens),
    pairs: Float64Array.from(entries, (entry) => entry.pairs),
    sequences: entries.map((entry) => entry.sequences),
  };
}
