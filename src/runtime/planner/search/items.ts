import type { CostModel } from '../cost.js';

/** What a search moves about: sequences of at least a token, longest first; very short ones tied into bundles. */
export interface Items {
  readonly count: number;
  /** Tokens, descending. */
  readonly tokens: Float64Array;
  readonly pairs: Float64Array;
  /** Indices into the batch; those of item i stand at first[i] … first[i + 1] − 1. */
  readonly sequences: Int32Array;
  readonly first: Int32Array;
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
  const order = withTokens(lengths).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const n = order.length;
  if (n <= most)
    return {
      count: n,
      tokens: Float64Array.from(order, (index) => lengths[index]!),
      pairs: Float64Array.from(order, (index) => model.pairs(lengths[index]!)),
      sequences: order,
      first: Int32Array.from({ length: n + 1 }, (_, i) => i),
    };
  // From the shortest on: borders of bundles, tokens and pairs in each.
  const [tokens, pairs, end]: [number[], number[], number[]] = [[], [], []];
  let excess = n - most;
  let last = -1;
  for (let i = n - 1; i >= 0; i--) {
    const length = lengths[order[i]!]!;
    if (excess > 0 && last >= 0 && tokens[last]! + length <= bundleTokens) {
      tokens[last]! += length;
      pairs[last]! += model.pairs(length);
      excess--;
    } else {
      last = tokens.push(length) - 1;
      pairs.push(model.pairs(length));
      end.push(i + 1);
    }
  }
  // A bundle may hold more tokens than the sequences before it.
  const rank = Array.from(tokens.keys()).sort((a, b) => tokens[b]! - tokens[a]! || b - a);
  const sequences = new Int32Array(n);
  const first = new Int32Array(rank.length + 1);
  rank.forEach((bundle, i) => {
    const from = end[bundle + 1] ?? 0;
    sequences.set(order.subarray(from, end[bundle]), first[i]);
    first[i + 1] = first[i]! + end[bundle]! - from;
  });
  return {
    count: rank.length,
    tokens: Float64Array.from(rank, (bundle) => tokens[bundle]!),
    pairs: Float64Array.from(rank, (bundle) => pairs[bundle]!),
    sequences,
    first,
  };
}

/** Indices of the sequences that have tokens. */
function withTokens(lengths: readonly number[]): Int32Array {
  const indices = new Int32Array(lengths.length);
  let n = 0;
  for (let i = 0; i < lengths.length; i++) if (lengths[i]! > 0) indices[n++] = i;
  return indices.slice(0, n);
}

/** Numbers of all items. */
export const allItems = ({ count }: Items): Int32Array => Int32Array.from({ length: count }, (_, i) => i);
