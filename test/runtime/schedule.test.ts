import { describe, expect, test } from 'vitest';
import { learningRate, type Schedule } from '../../src/runtime/optimizer/schedule.js';

const schedule: Schedule = { kind: 'cosine', peak: 3e-4, warmupSteps: 10, totalSteps: 110, minRatio: 0.1 };

describe('learningRate', () => {
  test.each(['cosine', 'linear', 'constant'] as const)('%s warms up to the peak, continuously', (kind) => {
    const rate = (step: number) => learningRate(step, { ...schedule, kind });
    expect(rate(0)).toBeCloseTo(3e-5, 12);
    expect(rate(4)).toBeCloseTo(1.5e-4, 12);
    expect(rate(9)).toBe(3e-4);
    expect(rate(10)).toBe(3e-4);
  });

  test('closed forms half way and at the end', () => {
    const rate = (kind: Schedule['kind'], step: number) => learningRate(step, { ...schedule, kind });
    expect(rate('cosine', 60)).toBeCloseTo(3e-4 * 0.55, 12);
    expect(rate('cosine', 35)).toBeCloseTo(3e-4 * (0.1 + (0.9 * (1 + Math.SQRT1_2)) / 2), 12);
    expect(rate('linear', 60)).toBeCloseTo(3e-4 * 0.55, 12);
    expect(rate('linear', 35)).toBeCloseTo(3e-4 * 0.775, 12);
    for (const step of [110, 111, 5000]) {
      expect(rate('cosine', step)).toBeCloseTo(3e-5, 12);
      expect(rate('linear', step)).toBeCloseTo(3e-5, 12);
      expect(rate('constant', step)).toBe(3e-4);
    }
  });

  test('never rises after the warm-up', () => {
    for (const kind of ['cosine', 'linear'] as const) {
      for (let step = 10; step < 120; step++) {
        const next = learningRate(step + 1, { ...schedule, kind });
        expect(next).toBeLessThanOrEqual(learningRate(step, { ...schedule, kind }));
      }
    }
  });

  test('no warm-up, nothing but warm-up, a run of one step', () => {
    expect(learningRate(0, { ...schedule, warmupSteps: 0 })).toBe(3e-4);
    expect(learningRate(9, { ...schedule, totalSteps: 10 })).toBe(3e-4);
    expect(learningRate(0, { ...schedule, warmupSteps: 0, totalSteps: 1 })).toBe(3e-4);
    expect(learningRate(1, { ...schedule, warmupSteps: 0, totalSteps: 1, minRatio: 0 })).toBeCloseTo(0, 12);
  });
});
