/** Something measured: what it should be a sum of, and what it was. */
export interface Observation {
  readonly terms: readonly number[];
  readonly measured: number;
}

/** How far a model is from measurements, relatively: |predicted − measured| / measured. */
export interface FitError {
  readonly samples: number;
  readonly mean: number;
  readonly worst: number;
}

const ROUNDS = 20;
/** Huber's constant: 95 % efficient where errors are normal. */
const HUBER = 1.345;

/**
 * Factors β ≥ 0 with which Σ β·term comes closest to what was measured, relatively: an error of a tenth weighs the same
 * in long measurements and in short ones. Huber's weights, found anew in every round, keep what disturbed a few of
 * them out of the factors. A term that is always 0 gets 0.
 */
export function fitFactors(observations: readonly Observation[]): number[] {
  const used = observations.filter(({ measured }) => measured > 0);
  const rows = used.map(({ terms, measured }) => terms.map((term) => term / measured));
  let weights = rows.map(() => 1);
  let factors: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    factors = leastSquares(rows, weights, observations[0]?.terms.length ?? 0);
    const errors = rows.map((row) => Math.abs(dot(row, factors) - 1));
    // 1.4826 times the median of absolute errors estimates a standard deviation.
    const limit = Math.max(HUBER * 1.4826 * median(errors), 1e-9);
    weights = errors.map((error) => (error <= limit ? 1 : limit / error));
  }
  return factors;
}

/** min Σ w (row·β − 1)² over β ≥ 0: coordinate descent, which ends at the minimum because the problem is convex. */
function leastSquares(rows: readonly number[][], weights: readonly number[], terms: number): number[] {
  const columns = Array.from({ length: terms }, (_, k) => k);
  const weighted = (pick: (row: readonly number[]) => number): number =>
    rows.reduce((sum, row, i) => sum + weights[i]! * pick(row), 0);
  const scale = columns.map((k) => Math.sqrt(weighted((row) => row[k]! ** 2)) || 1);
  const gram = columns.map((j) =>
    columns.map((k) => weighted((row) => row[j]! * row[k]!) / (scale[j]! * scale[k]!)),
  );
  const target = columns.map((k) => weighted((row) => row[k]!) / scale[k]!);
  const found = columns.map(() => 0);
  for (let sweep = 0; sweep < 20_000; sweep++) {
    let change = 0;
    for (const k of columns) {
      const own = gram[k]![k]!;
      if (own === 0) continue;
      const next = Math.max(0, (target[k]! - dot(gram[k]!, found)) / own + found[k]!);
      change = Math.max(change, Math.abs(next - found[k]!));
      found[k] = next;
    }
    if (change < 1e-12 * Math.max(...found)) break;
  }
  return found.map((value, k) => value / scale[k]!);
}

export const dot = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, x, i) => sum + x * b[i]!, 0);

/** The middle one, or the mean of both; 0 of nothing. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const { length } = sorted;
  return length === 0 ? 0 : (sorted[(length - 1) >> 1]! + sorted[length >> 1]!) / 2;
}

/** @param pairs predicted and measured */
export function errorOf(pairs: readonly (readonly [predicted: number, measured: number])[]): FitError {
  const errors = pairs
    .filter(([, measured]) => measured > 0)
    .map(([predicted, measured]) => Math.abs(predicted - measured) / measured);
  return {
    samples: errors.length,
    mean: errors.reduce((sum, error) => sum + error, 0) / Math.max(1, errors.length),
    worst: errors.reduce((most, error) => Math.max(most, error), 0),
  };
}
