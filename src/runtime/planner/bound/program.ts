import type { CostModel } from '../cost.js';
import { buildProgram, type LinearProgram, type Term } from '../highs/program.js';
import { kindsOf, memoryPerToken, shareMs, type Kind } from './kinds.js';

export interface BoundOptions {
  /** Lengths that stay apart; shorter ones are a fluid in bands of like lengths. */
  readonly apart: number;
  /** Longest lengths whose sequences are not divided. */
  readonly whole: number;
  /** Borders of the intervals of micro-batch times, ascending from 0; none beyond the last. */
  readonly borders: readonly number[];
  /** Time of a known plan, without what the step pays. */
  readonly knownMs: number;
  /** Whether numbers of groups are whole. */
  readonly wholeGroups: boolean;
}

/** An interval of micro-batch times, and its columns for their number and for the sum of their times. */
export interface Interval {
  readonly from: number;
  readonly upTo: number;
  readonly count: number;
  readonly sum: number;
}

export interface BoundProgram {
  readonly program: LinearProgram;
  readonly intervals: readonly Interval[];
}

/** What is placed: sequences of one length, or tokens of a band of short ones. */
interface Part {
  readonly amount: number;
  readonly tokens: number;
  readonly integer: boolean;
  readonly aloneMs: readonly number[];
  readonly shareMs: readonly number[];
}

/**
 * A relaxation of planning whose optimum no plan beats. Micro-batches are sorted by their time into intervals
 * [from, upTo]; n counts those of an interval, c adds up their times, g counts their groups by degree, x says how
 * much of each length their groups hold:
 *
 *     minimise Σ fixed·n + c
 *     from·n ≤ c ≤ upTo·n                         Σ_d d·g ≤ ranks·n
 *     Σ tokens·x ≤ capacity·g                     Σ share·x ≤ upTo·g
 *     Σ_d Σ d·share·x ≤ ranks·c                   everything is placed
 *     Σ x over lengths of which no two share a group ≤ g
 *
 * What it forgets: that groups hold whole sequences, that groups of one micro-batch end together, that times of
 * one interval differ.
 */
export function boundProgram(
  lengths: readonly number[],
  model: CostModel,
  options: BoundOptions,
): BoundProgram {
  const kinds = kindsOf(lengths, model);
  const parts = partsOf(kinds, model, options);
  const times = options.borders;
  const intervals: Interval[] = [];
  const builder = buildProgram();
  const placed: Term[][] = parts.map(() => []);
  const micro: Term[] = [];
  const total: Term[] = [];
  for (let t = 0; t + 1 < times.length; t++) {
    const [from, upTo] = [times[t]!, times[t + 1]!];
    const n = builder.column({ cost: model.microBatchMs, integer: true, upper: 64 });
    const c = builder.column({ cost: 1 });
    micro.push([n, 1]);
    intervals.push({ from, upTo, count: n, sum: c });
    total.push([n, model.microBatchMs], [c, 1]);
    builder.row(0, Infinity, [
      [c, 1],
      [n, -from],
    ]);
    builder.row(-Infinity, 0, [
      [c, 1],
      [n, -upTo],
    ]);
    const ranks: Term[] = [[n, -model.ranks]];
    const busy: Term[] = [[c, -model.ranks]];
    model.degrees.forEach(({ degree, capacity }, k) => {
      const inside: Term[] = [];
      const load: Term[] = [];
      const [halfTokens, halfMs]: [Term[], Term[]] = [[], []];
      parts.forEach((part, i) => {
        // A micro-batch of exactly upTo belongs to the next interval.
        if (part.aloneMs[k]! >= upTo && t + 2 < times.length) return;
        if (part.aloneMs[k]! > upTo || part.shareMs[k] === Infinity) return;
        const x = builder.column({ upper: part.amount, integer: part.integer });
        placed[i]!.push([x, 1]);
        inside.push([x, part.tokens]);
        load.push([x, part.shareMs[k]!]);
        busy.push([x, degree * part.shareMs[k]!]);
        if (2 * part.tokens > capacity) halfTokens.push([x, 1]);
        if (2 * part.shareMs[k]! > upTo) halfMs.push([x, 1]);
      });
      if (inside.length === 0) return;
      const g = builder.column({ integer: options.wholeGroups && degree * 4 >= model.ranks });
      ranks.push([g, degree]);
      builder.row(-Infinity, 0, [...inside, [g, -capacity]]);
      builder.row(-Infinity, 0, [...load, [g, -upTo]]);
      if (halfTokens.length > 0) builder.row(-Infinity, 0, [...halfTokens, [g, -1]]);
      if (halfMs.length > 0) builder.row(-Infinity, 0, [...halfMs, [g, -1]]);
    });
    builder.row(-Infinity, 0, ranks);
    builder.row(-Infinity, 0, busy);
  }
  parts.forEach((part, i) => builder.row(part.amount, part.amount, placed[i]!));
  const tokens = kinds.reduce((sum, kind) => sum + kind.tokens * kind.count, 0);
  builder.row(Math.ceil((tokens * memoryPerToken(model)) / model.ranks - 1e-9), Infinity, micro);
  builder.row(-Infinity, options.knownMs, total);
  return { program: builder.build(), intervals };
}

function partsOf(kinds: readonly Kind[], model: CostModel, { apart, whole }: BoundOptions): readonly Part[] {
  const parts: Part[] = kinds.slice(0, apart).map((kind, i) => ({
    amount: kind.count,
    tokens: kind.tokens,
    integer: i < whole,
    aloneMs: kind.aloneMs,
    shareMs: kind.shareMs,
  }));
  // A band's tokens cost what those of its shortest sequence cost: pairs per token grow with the length.
  for (let i = apart; i < kinds.length;) {
    const longest = kinds[i]!.tokens;
    let [tokens, density] = [0, Infinity];
    let shortest = kinds[i]!;
    for (; i < kinds.length && kinds[i]!.tokens > 0.8 * longest - 128; i++) {
      shortest = kinds[i]!;
      tokens += shortest.tokens * shortest.count;
      density = Math.min(density, shortest.pairs / shortest.tokens);
    }
    // In thousands of tokens: coefficients of like size.
    const unit = 1000;
    parts.push({
      amount: tokens / unit,
      tokens: unit,
      integer: false,
      aloneMs: shortest.aloneMs,
      shareMs: model.degrees.map((cost) =>
        cost.capacity < shortest.tokens ? Infinity : shareMs(cost, unit, unit * density),
      ),
    });
  }
  return parts;
}
