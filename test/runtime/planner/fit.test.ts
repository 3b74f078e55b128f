import { describe, expect, it } from 'vitest';
import {
  dot,
  errorOf,
  fitFactors,
  median,
  type Observation,
} from '../../../src/runtime/planner/calibrate/fit.js';
import { fitMicroBatches } from '../../../src/runtime/planner/calibrate/model.js';
import { groupMs } from '../../../src/runtime/planner/cost.js';
import { numbers } from '../../support/tiny.js';
import { physicalModel } from './models.js';

/** Normal noise of this size, relative. */
function noisy(seed: number, size: number): (value: number) => number {
  const next = numbers(seed);
  return (value) => {
    let sum = 0;
    for (let i = 0; i < 12; i++) sum += next();
    return value * (1 + size * sum);
  };
}

describe('factors', () => {
  const truth = [0.8, 0.02, 3, 0];
  const observe = (seed: number, noise: number, count = 60): Observation[] => {
    const next = numbers(seed);
    const disturb = noisy(seed + 1, noise);
    return Array.from({ length: count }, () => {
      const size = 10 ** (2 + 2 * next());
      const terms = [size, size * size * (1.2 + next()), 1 + next(), size * (0.6 + next())];
      return { terms, measured: disturb(dot(terms, truth)) };
    });
  };

  it('are found again exactly without noise, over four orders of size', () => {
    const found = fitFactors(observe(1, 0));
    truth.forEach((value, k) => expect(found[k]).toBeCloseTo(value, 5));
  });

  it('are found again within the noise, and never negative', () => {
    for (const seed of [2, 3, 4, 5]) {
      const observations = observe(seed, 0.05, 200);
      const found = fitFactors(observations);
      expect(Math.min(...found)).toBeGreaterThanOrEqual(0);
      const exact = observations.map(({ terms }) => dot(terms, truth));
      const error = errorOf(observations.map(({ terms }, i) => [dot(terms, found), exact[i]!]));
      expect(error.mean).toBeLessThan(0.02);
    }
  });

  it('do not follow a few measurements that something disturbed', () => {
    const observations = observe(6, 0.03, 120).map((one, i) =>
      i % 9 === 4 ? { ...one, measured: one.measured * 5 } : one,
    );
    const found = fitFactors(observations);
    expect(found[0]! / truth[0]!).toBeCloseTo(1, 1);
    expect(found[1]! / truth[1]!).toBeCloseTo(1, 1);
  });

  it('of terms that are always zero are zero; of nothing, none', () => {
    expect(fitFactors([{ terms: [2, 0], measured: 4 }])).toEqual([2, 0]);
    expect(fitFactors([])).toEqual([]);
    expect(fitFactors([{ terms: [1], measured: 0 }])).toEqual([0]);
  });

  it('come with their errors', () => {
    expect(
      errorOf([
        [11, 10],
        [8, 10],
        [1, 0],
      ]),
    ).toEqual({ samples: 2, mean: (0.1 + 0.2) / 2, worst: 0.2 });
    expect(median([5, 1, 3, 2])).toBe(2.5);
    expect(median([])).toBe(0);
  });
});

describe('the coefficients of a cost model', () => {
  const unit = physicalModel({ nodes: 1, ranksPerNode: 8, heads: 12, overlap: 0, tokensPerRank: 8000 });
  const factors = { compute: 1.7, attention: 2.5, exchange: 1.4, latency: 3, rowUs: 0.05 };
  const rows = (degree: number): number => (8 * (degree - 1)) / degree;
  const samplesOf = (degrees: readonly number[], noise: number) => {
    const disturb = noisy(9, noise);
    return degrees.flatMap((degree) =>
      [16, 100, 1000, 7000].flatMap((perRank) =>
        [1, 8].map((documents) => {
          const tokens = degree * perRank;
          const pairs = documents * unit.pairs(tokens / documents);
          const cost = unit.degrees.find((one) => one.degree === degree)!;
          const scaled = {
            ...cost,
            msPerToken: factors.compute * cost.msPerToken,
            msPerPair: factors.attention * cost.msPerPair,
            exchangeMsPerToken:
              factors.exchange * cost.exchangeMsPerToken + (factors.rowUs / 1000) * rows(degree),
            exchangeMs: factors.latency * cost.exchangeMs,
          };
          return { degree, tokens, pairs, ms: disturb(0.7 + groupMs(scaled, tokens, pairs)) };
        }),
      ),
    );
  };

  it('are recovered from micro-batches', () => {
    const fit = fitMicroBatches(samplesOf([1, 2, 3, 8], 0), unit, rows);
    expect(fit).toMatchObject({
      compute: expect.closeTo(1.7, 4) as number,
      attention: expect.closeTo(2.5, 4) as number,
      exchange: expect.closeTo(1.4, 3) as number,
      latency: expect.closeTo(3, 3) as number,
      exchangeRowUs: expect.closeTo(0.05, 4) as number,
      microBatchMs: expect.closeTo(0.7, 4) as number,
    });
    expect(fit.error.worst).toBeLessThan(1e-4);
  });

  it('are close with noise, and the error says how close', () => {
    const fit = fitMicroBatches(samplesOf([1, 2, 3, 5, 8], 0.03), unit, rows);
    expect(fit.compute / 1.7).toBeCloseTo(1, 1);
    expect(fit.attention / 2.5).toBeCloseTo(1, 0);
    expect(fit.error.mean).toBeLessThan(0.05);
  });

  it('of exchanges stay as they are described where there was none to measure', () => {
    expect(fitMicroBatches(samplesOf([1], 0), unit, rows)).toMatchObject({ exchange: 1, latency: 1 });
  });
});
