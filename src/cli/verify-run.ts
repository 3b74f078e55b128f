import { UserError } from '../errors.js';
import type { Manifest } from '../package/manifest.js';
import type { Package } from '../package/read.js';
import { IGNORED, type Document } from '../runtime/data/document.js';
import { randomExtra } from '../runtime/data/random-extra.js';
import { createRandom, randomBelow } from '../runtime/data/random.js';
import { gradientError, openReference, type ReferenceGradients } from '../runtime/executor/reference.js';
import { checkDegree, type MicroBatchPlan } from '../runtime/session/plan.js';

export interface VerifyRequest {
  readonly degrees: readonly number[];
  /** Tokens of the batches; absent: chosen for each degree. */
  readonly tokens?: readonly number[];
  readonly seed: number;
  readonly onCase: (line: string) => void;
}

export interface CaseResult {
  readonly degree: number;
  /** For each group, the lengths of its documents: `7 + 4`. */
  readonly lanes: readonly string[];
  readonly lossSum: number;
  readonly count: number;
  readonly parameter: string;
  readonly error: number;
  readonly ms: number;
}

export interface Refusal {
  readonly degree: number;
  readonly reason: string;
}

/** Documents of each group of a world of `lanes.length` groups, all of one degree. */
type Case = readonly (readonly number[])[];

/**
 * Compares P ranks with one, batch by batch.
 * @throws UserError when every degree is refused
 */
export function verifyPackage(
  pkg: Package,
  request: VerifyRequest,
): { cases: readonly CaseResult[]; refusals: readonly Refusal[] } {
  const refusals: Refusal[] = [];
  const degrees = request.degrees.filter((degree) => {
    const reason = refusalOf(pkg, degree);
    if (reason !== undefined) refusals.push({ degree, reason: reason.message });
    return reason === undefined;
  });
  if (degrees.length === 0) throw refusalOf(pkg, request.degrees[0]!)!;
  const reference = openReference(pkg);
  const alone = memo((lengths) => reference.gradients(planOf(pkg, request.seed, [lengths], 1)));
  const cases = degrees.flatMap((degree) =>
    casesFor(degree, longest(pkg), request.tokens).map((lanes) => {
      const text = lanes.map((lengths) => (lengths.length === 0 ? 'none' : lengths.join(' + ')));
      request.onCase(`P = ${degree}, tokens ${text.join(' | ')}`);
      const started = performance.now();
      const expected = alone(lanes.flat());
      const actual = reference.gradients(planOf(pkg, request.seed, lanes, degree));
      const { lossSum, count } = actual;
      const ms = performance.now() - started;
      return {
        degree,
        lanes: text,
        lossSum,
        count,
        ms,
        ...worse(gradientError(expected.gradients, actual.gradients), expected, actual),
      };
    }),
  );
  return { cases, refusals };
}

/** The loss itself is held to the same bar. */
function worse(
  found: { readonly parameter: string; readonly error: number },
  expected: ReferenceGradients,
  actual: ReferenceGradients,
): { parameter: string; error: number } {
  const loss = Math.abs(expected.lossSum - actual.lossSum) / Math.max(1, Math.abs(expected.lossSum));
  const error = expected.count === actual.count && !Number.isNaN(loss) ? loss : Infinity;
  return error > found.error ? { parameter: '(the loss)', error } : found;
}

function refusalOf(pkg: Package, degree: number): UserError | undefined {
  try {
    checkDegree(degree, pkg.manifest);
    return undefined;
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
}

const longest = ({ manifest }: Package): number => manifest.maxDocument?.tokens ?? Infinity;

/** One group of an odd number of tokens that few degrees divide, of fewer than P, of one; then three groups. */
function casesFor(degree: number, limit: number, tokens: readonly number[] | undefined): Case[] {
  const fit = (n: number): number => Math.min(n, limit);
  if (tokens !== undefined) return tokens.map((n) => [documentsOf(n, limit)]);
  const cases: Case[] = [[[fit(7), fit(4)]]];
  if (degree > 2) cases.push([[fit(degree - 1)]]);
  cases.push([[1]], [[fit(7)], [fit(4)], []]);
  return cases;
}

/** `tokens` tokens in one document, or in several where the model takes no longer ones. */
function documentsOf(tokens: number, limit: number): number[] {
  const count = Math.max(1, Math.ceil(tokens / limit));
  return Array.from(
    { length: count },
    (_, i) => Math.floor((tokens * (i + 1)) / count) - Math.floor((tokens * i) / count),
  );
}

function memo(compute: (lengths: readonly number[]) => ReferenceGradients): typeof compute {
  const known = new Map<string, ReferenceGradients>();
  return (lengths) => {
    const key = lengths.join();
    const found = known.get(key) ?? compute(lengths);
    known.set(key, found);
    return found;
  };
}

/** Groups of `degree` ranks; the same documents however they are spread. */
function planOf(pkg: Package, seed: number, lanes: Case, degree: number): MicroBatchPlan {
  let number = 0;
  return {
    lanes: lanes.map((lengths, lane) => ({
      ranks: Array.from({ length: degree }, (_, i) => lane * degree + i),
      documents: lengths.map((length) => randomDocument(pkg.manifest, length, seed, number++)),
    })),
  };
}

/** Random ids and labels, about one label in five not counted; the first always is, so that no batch is empty. */
function randomDocument(
  { vocabulary, loss }: Manifest,
  length: number,
  seed: number,
  number: number,
): Document {
  const random = createRandom(seed, length, number);
  const ids = Int32Array.from({ length }, () => randomBelow(random, vocabulary));
  const labels = Int32Array.from({ length }, (_, t) => {
    const label = randomBelow(random, loss.classes);
    return t > 0 && randomBelow(random, 5) === 0 ? IGNORED : label;
  });
  return { ids, labels, ...randomExtra(loss, length, random), origin: `random document ${number}` };
}
