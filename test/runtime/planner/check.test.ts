import { describe, expect, it } from 'vitest';
import { checkPlan } from '../../../src/runtime/planner/check.js';
import type { PlannedGroup, StepPlan } from '../../../src/runtime/planner/plan.js';
import { planByLengths, planTimes } from '../../../src/runtime/planner/plan.js';
import { flexSpModel } from './models.js';

const model = flexSpModel(16, { tokensPerRank: 100 });
const lengths = [150, 90, 60];

const group = (first: number, degree: number, sequences: number[] = []): PlannedGroup => ({
  degree,
  ranks: Array.from({ length: degree }, (_, i) => first + i),
  sequences,
});

const plan = (...microBatches: PlannedGroup[][]): StepPlan => ({
  microBatches: microBatches.map((groups) => ({ groups })),
});

const rules = (wrong: StepPlan): string[] => checkPlan(wrong, lengths, model).map((finding) => finding.rule);

describe('the checker', () => {
  it('finds nothing wrong with a legal plan', () => {
    expect(rules(plan([group(0, 8, [0]), group(8, 8, [1, 2])]))).toEqual([]);
    expect(rules(plan([group(0, 8, [0, 1]), group(8, 8)], [group(0, 16, [2])]))).toEqual([]);
  });

  it('names sequences that are missing, repeated or unknown', () => {
    expect(rules(plan([group(0, 16, [0, 1])]))).toEqual(['sequence']);
    expect(rules(plan([group(0, 16, [0, 1, 2])], [group(0, 16, [1])]))).toEqual(['sequence']);
    expect(rules(plan([group(0, 16, [0, 1, 2, 3])]))).toEqual(['sequence']);
  });

  it('names ranks that are idle, shared, unknown or out of order', () => {
    expect(rules(plan([group(0, 8, [0, 1, 2])]))).toEqual(['partition']);
    expect(rules(plan([group(0, 8, [0]), group(7, 8, [1, 2])]))).toContain('partition');
    expect(rules(plan([group(8, 16, [0, 1, 2])]))).toContain('partition');
    const backwards = { ...group(0, 16, [0, 1, 2]), ranks: Array.from({ length: 16 }, (_, i) => 15 - i) };
    expect(rules(plan([backwards]))).toContain('partition');
  });

  it('names degrees that are not allowed or not kept', () => {
    expect(rules(plan([group(0, 3, [1]), group(3, 13, [0, 2])]))).toContain('degree');
    expect(rules(plan([{ ...group(0, 16, [0, 1, 2]), degree: 8 }]))).toContain('degree');
  });

  it('names groups that do not fit in memory, by tokens and by bytes', () => {
    expect(
      rules(plan([group(0, 1, [0]), group(1, 1), group(2, 2), group(4, 4), group(8, 8, [1, 2])])),
    ).toEqual(['memory', 'memory']);
    const tight = { ...model, memoryLimitBytes: 10 };
    expect(checkPlan(plan([group(0, 16, [0, 1, 2])]), lengths, tight).map((f) => f.rule)).toEqual(['memory']);
  });

  it('names groups that straddle nodes, micro-batches without work', () => {
    expect(rules(plan([group(0, 4), group(4, 8, [0, 1, 2]), group(12, 4)]))).toEqual(['topology']);
    expect(rules(plan([group(0, 16, [0, 1, 2])], [group(0, 16)]))).toEqual(['empty']);
  });

  it('stops listing after a hundred findings', () => {
    expect(
      checkPlan(
        { microBatches: [] },
        Array.from({ length: 500 }, () => 1),
        model,
      ),
    ).toHaveLength(100);
  });
});

describe('a plan by lengths', () => {
  it('leaves waiting groups out', () => {
    expect(planByLengths(plan([group(0, 8, [0, 2]), group(8, 8)], [group(0, 16, [1])]), lengths)).toEqual([
      [{ degree: 8, lengths: [150, 60] }],
      [{ degree: 16, lengths: [90] }],
    ]);
  });
});

describe('times of a plan', () => {
  it('adds up the slowest groups and the fixed costs', () => {
    const { stepMs, microBatchMs, idle } = planTimes(
      plan([group(0, 8, [0]), group(8, 8, [1])], [group(0, 16, [2])]),
      lengths,
      model,
    );
    const ms = (s: number, d: number, perToken: number): number =>
      (5.128e-6 * s * s + 0.18396 * s) / d + perToken * s;
    const slow = ms(150, 8, 2 / 8 / 96.5);
    const last = ms(60, 16, 2 / 16 / 10.33);
    expect(microBatchMs[0]).toBeCloseTo(629 + slow, 9);
    expect(stepMs).toBeCloseTo(2 * 629 + slow + last, 9);
    expect(idle).toBeCloseTo((0.5 * (slow - ms(90, 8, 2 / 8 / 96.5))) / (slow + last), 9);
  });
});
