import type { Items } from '../search/items.js';

/** Items of like lengths, which a plan may exchange. */
export interface Bucket {
  /** Of the longest item: what each of them is counted as. */
  readonly tokens: number;
  readonly pairs: number;
  /** Longest first. */
  readonly items: readonly number[];
}

/**
 * Cuts a list, longest first, into at most `count` runs so that counting every item as long as the longest of its
 * run adds the fewest tokens (FlexSP, arXiv 2412.01523, section 4.2). Dynamic programme over distinct lengths.
 */
export function bucketItems(items: Items, list: readonly number[], count: number): readonly Bucket[] {
  const starts: number[] = [];
  list.forEach((item, i) => {
    if (i === 0 || items.tokens[item] !== items.tokens[list[i - 1]!]) starts.push(i);
  });
  const n = starts.length;
  const runs = Math.min(count, n);
  const sum = new Float64Array(list.length + 1);
  list.forEach((item, i) => (sum[i + 1] = sum[i]! + items.tokens[item]!));
  const at = (k: number): number => starts[k] ?? list.length;
  // Tokens added by one bucket of the distinct lengths from … to − 1.
  const added = (from: number, to: number): number =>
    (at(to) - at(from)) * items.tokens[list[at(from)]!]! - (sum[at(to)]! - sum[at(from)]!);
  let best = Float64Array.from({ length: n + 1 }, (_, to) => (to === 0 ? 0 : Infinity));
  const cuts: Int32Array[] = [];
  for (let k = 0; k < runs; k++) {
    const next = new Float64Array(n + 1).fill(Infinity);
    const cut = new Int32Array(n + 1);
    next[0] = 0;
    for (let to = 1; to <= n; to++)
      for (let from = 0; from < to; from++) {
        const cost = best[from]! + added(from, to);
        if (cost < next[to]!) [next[to], cut[to]] = [cost, from];
      }
    best = next;
    cuts.push(cut);
  }
  const buckets: Bucket[] = [];
  for (let k = runs - 1, to = n; to > 0; k--) {
    const from = cuts[k]![to]!;
    const members = list.slice(at(from), at(to));
    const longest = members[0]!;
    buckets.unshift({ tokens: items.tokens[longest]!, pairs: items.pairs[longest]!, items: members });
    to = from;
  }
  return buckets;
}
