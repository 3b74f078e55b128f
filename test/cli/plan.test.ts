import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { ithaca, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();

const lengths = [7000, 3300, 1700, ...Array.from({ length: 24 }, (_, i) => 64 + 37 * i)];
const setting = {
  gpus: 8,
  degrees: [1, 2, 4, 8],
  device_token_capacity: 1000,
  attn_ms_per_token2: 5e-6,
  linear_ms_per_token: 0.18,
  microbatch_fixed_ms: 100,
  a2a_mb_per_token: 2,
};

function problemFile(name: string, batch: readonly number[]): string {
  const file = path.join(folder, name);
  const problem = {
    bandwidth: { 1: null, 2: 119.54, 4: 104.07, 8: 96.5 },
    settings: { small: setting },
    batches: [{ id: 'a/0', setting: 'small', lengths: batch }],
  };
  writeFileSync(file, JSON.stringify(problem));
  return file;
}

const file = problemFile('batches.json', lengths);

interface Answer {
  readonly plan: readonly (readonly { readonly degree: number; readonly lengths: readonly number[] }[])[];
  readonly step_ms: number;
  readonly bound_ms: number;
  readonly solve_ms: number;
  readonly gap: number;
  readonly solver: string;
}

const answer = async (...args: string[]): Promise<Answer> =>
  JSON.parse(await succeed(['plan', '--problem', file, '--id', 'a/0', '--json', ...args])) as Answer;

/** The formula of the file, written a second time. */
function stepMs({ plan }: Answer): number {
  const bandwidth = new Map([
    [2, 119.54],
    [4, 104.07],
    [8, 96.5],
  ]);
  const groupMs = (degree: number, held: readonly number[]): number =>
    held.reduce((sum, s) => {
      const compute = (5e-6 * s * s + 0.18 * s) / degree;
      return sum + compute + (degree === 1 ? 0 : (2 * s) / degree / bandwidth.get(degree)!);
    }, 100);
  return plan.reduce(
    (sum, groups) => sum + Math.max(...groups.map((group) => groupMs(group.degree, group.lengths))),
    0,
  );
}

const ascending = (list: readonly number[]): number[] => list.toSorted((a, b) => a - b);

describe('a problem file', () => {
  test.each([
    ['ithaca', []],
    ['ithaca', ['--min-degree', '2', '--seed', '3']],
    ['static', []],
    ['adaptive', []],
  ])('%s %j: a legal plan, its time and a bound below it', async (solver, args) => {
    const found = await answer('--solver', solver, '--moves', '4000', ...args);
    expect(found.solver).toBe(solver);
    const groups = found.plan.flat();
    expect(ascending(groups.flatMap((group) => group.lengths))).toEqual(ascending(lengths));
    for (const { degree, lengths: held } of groups) {
      expect(setting.degrees).toContain(degree);
      if (args.includes('--min-degree')) expect(degree).toBeGreaterThan(1);
      expect(held.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(degree * setting.device_token_capacity);
    }
    for (const microBatch of found.plan)
      expect(microBatch.reduce((sum, { degree }) => sum + degree, 0)).toBeLessThanOrEqual(setting.gpus);
    expect(found.step_ms).toBeCloseTo(stepMs(found), 6);
    expect(found.bound_ms).toBeLessThanOrEqual(found.step_ms);
    expect(found.gap).toBeCloseTo(found.step_ms / found.bound_ms - 1, 9);
  });

  test('ithaca is no longer than adaptive, and the same again', async () => {
    const [first, again, adaptive] = await Promise.all([
      answer('--moves', '4000'),
      answer('--moves', '4000'),
      answer('--solver', 'adaptive'),
    ]);
    expect(again.plan).toEqual(first.plan);
    expect(first.step_ms).toBeLessThanOrEqual(adaptive.step_ms);
  });

  test('--any-degree allows the degrees between, --bound-seconds only tightens the bound', async () => {
    const args = ['--moves', '4000', '--min-degree', '5'];
    const [quick, any] = await Promise.all([
      answer(...args, '--any-degree'),
      answer(...args, '--any-degree', '--bound-seconds', '0.5'),
    ]);
    expect(any.plan).toEqual(quick.plan);
    expect(any.bound_ms).toBeGreaterThanOrEqual(quick.bound_ms);
    expect(any.bound_ms).toBeLessThanOrEqual(any.step_ms);
    expect(any.plan.flat().every(({ degree }) => degree >= 5)).toBe(true);
  });

  test('people get a table, the gap, and what one degree would take', async () => {
    const text = await succeed(['plan', '--problem', file, '--id', 'a/0', '--moves', '2000']);
    expect(text).toMatch(/^a\/0 {2}27 sequences, .* tokens, 8 ranks\n/);
    expect(text).toMatch(
      /micro-batch {2}groups × degree +sequences +tokens +predicted ms +memory +all-to-all\n/,
    );
    expect(text).toMatch(/\n {2}gap +\d+\.\d %/);
    expect(text).toMatch(/\n {2}static +degree 8 .*× this plan\n {2}adaptive +degree \d/);
    expect(text).not.toContain('\u001b');
  });
});

describe('mistakes are one line with numbers, and a hint', () => {
  const long = problemFile('long.json', [9000]);
  test.each([
    [['--problem', file, '--id', 'b'], /there is no batch "b"\n {2}hint: there are a\/0/, 1],
    [['--problem', file], /required option '--id <id>' not specified/, 2],
    [['--id', 'a/0'], /required option '--problem <file>' not specified/, 2],
    [['--problem', file, '--id', 'a/0', '--solver', 'magic'], /Allowed choices are ithaca, static/, 2],
    [['--problem', file, '--id', 'a/0', '--min-degree', '9'], /no degree is allowed on 8 ranks/, 1],
    [
      ['--problem', long, '--id', 'a/0'],
      /sequence 0 has 9000 tokens, the largest group \(degree 8\) holds 8000\n {2}hint: it needs a degree of 9/,
      1,
    ],
    [['--problem', path.join(folder, 'none.json'), '--id', 'a'], /none\.json: cannot be read/, 1],
  ])('%j', async (args, message, code) => {
    const result = await ithaca(['plan', ...args]);
    expect(result.stderr).toMatch(message);
    expect(result).toMatchObject({ code, stdout: '' });
  });
});
