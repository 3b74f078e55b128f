import { groupMs, type CostModel, type DegreeCost } from '../cost.js';

/** Sequences of one length. */
export interface Kind {
  readonly tokens: number;
  readonly pairs: number;
  readonly count: number;
  /** `[degree]` → time alone in a group; ∞ where it does not fit. */
  readonly aloneMs: readonly number[];
  /**
   * `[degree]` → what it adds to the time of any group at least; ∞ where it does not fit. Overlap can hide exchanges
   * behind compute but no more than its share of them: compute + (1 − overlap) · exchange, latency left out.
   */
  readonly shareMs: readonly number[];
}

/** Distinct lengths, longest first. Sequences without tokens cost nothing and are left out. */
export function kindsOf(lengths: readonly number[], model: CostModel): readonly Kind[] {
  const counts = new Map<number, number>();
  for (const length of lengths) if (length > 0) counts.set(length, (counts.get(length) ?? 0) + 1);
  return [...counts]
    .sort((a, b) => b[0] - a[0])
    .map(([tokens, count]): Kind => {
      const pairs = model.pairs(tokens);
      const fits = ({ capacity }: DegreeCost): boolean => tokens <= capacity;
      return {
        tokens,
        pairs,
        count,
        aloneMs: model.degrees.map((cost) => (fits(cost) ? groupMs(cost, tokens, pairs) : Infinity)),
        shareMs: model.degrees.map((cost) => (fits(cost) ? shareMs(cost, tokens, pairs) : Infinity)),
      };
    });
}

export const shareMs = (cost: DegreeCost, tokens: number, pairs: number): number =>
  cost.msPerToken * tokens + cost.msPerPair * pairs + (1 - cost.overlap) * cost.exchangeMsPerToken * tokens;

/** Ranks' worth of memory that a token takes at least: its smallest share of a group's capacity, times the ranks. */
export const memoryPerToken = (model: CostModel): number =>
  model.degrees.reduce((least, { degree, capacity }) => Math.min(least, degree / capacity), Infinity);
