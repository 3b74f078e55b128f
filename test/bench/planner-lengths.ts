import { createRandom } from '../../src/runtime/data/random.js';

/** Quantiles of document lengths in tokens, as published with FlexSP: Wikipedia whole, of the others the first thousands. */
export const CORPORA = {
  wikipedia: { p50: 347, p90: 2112, p99: 10_919, max: 1_823_777 },
  common_crawl: { p50: 1592, p90: 7256, p99: 38_825, max: 316_412 },
  github: { p50: 889, p90: 7055, p99: 52_950, max: 636_539 },
} as const;

export type Corpus = keyof typeof CORPORA;

/** Lengths drawn so that they have a corpus's quantiles, below a limit, rounded up to a multiple. */
export function drawLengths(
  corpus: Corpus,
  count: number,
  below: number,
  multiple: number,
  seed: number,
): number[] {
  const { p50, p90, p99, max } = CORPORA[corpus];
  // Logarithms of lengths, straight between quantiles over the logarithm of the share that is longer.
  const points = [
    [1, p50 / 12],
    [0.5, p50],
    [0.1, p90],
    [0.01, p99],
    [1e-6, max],
  ] as const;
  const random = createRandom(seed, count);
  const lengths: number[] = [];
  while (lengths.length < count) {
    const longer = Math.max(1e-6, random() / 2 ** 32);
    const i = points.findIndex(([share]) => longer >= share);
    const [[highShare, low], [lowShare, high]] = [points[i - 1]!, points[i]!];
    const t = Math.log(highShare / longer) / Math.log(highShare / lowShare);
    const length = Math.ceil(Math.exp(Math.log(low) + t * Math.log(high / low)) / multiple) * multiple;
    if (length <= below) lengths.push(length);
  }
  return lengths;
}
