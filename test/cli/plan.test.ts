import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { exchangesOf } from '../../src/cli/exchanges.js';
import { openPackage } from '../../src/package/read.js';
import { workOf } from '../../src/runtime/planner/work.js';
import { bindingOf, momentBytes, programPeak } from '../../src/train/peak.js';
import { modelFolder } from '../support/oracle.js';
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

function problemFile(name: string, batch: readonly number[], more: object = {}): string {
  const file = path.join(folder, name);
  const problem = {
    bandwidth: { 1: null, 2: 119.54, 4: 104.07, 8: 96.5 },
    settings: { small: { ...setting, ...more } },
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

  test('--any-degree allows the degrees between, --offline only tightens the bound', async () => {
    const args = ['--moves', '4000', '--min-degree', '5'];
    const [quick, any] = await Promise.all([
      answer(...args, '--any-degree'),
      answer(...args, '--any-degree', '--offline', '0.5'),
    ]);
    expect(any.plan).toEqual(quick.plan);
    expect(any.bound_ms).toBeGreaterThanOrEqual(quick.bound_ms);
    expect(any.bound_ms).toBeLessThanOrEqual(any.step_ms);
    expect(any.plan.flat().every(({ degree }) => degree >= 5)).toBe(true);
  });

  test('--html writes a page of the same plan, beside table or JSON', async () => {
    const page = path.join(folder, 'plan.html');
    const found = await answer('--moves', '2000', '--html', page);
    const html = readFileSync(page, 'utf8');
    const data = JSON.parse(/id="data">(.*)<\/script>/.exec(html)![1]!) as {
      readonly stepMs: number;
      readonly microBatches: readonly {
        readonly groups: readonly { readonly lengths: readonly number[] }[];
      }[];
    };
    expect(data.stepMs).toBe(found.step_ms);
    expect(data.microBatches.map(({ groups }) => groups.length)).toEqual(
      found.plan.map((groups) => groups.length),
    );
    const placed = data.microBatches.flatMap(({ groups }) => groups.flatMap((group) => group.lengths));
    expect(ascending(placed)).toEqual(ascending(lengths));
    const text = await succeed(['plan', '--problem', file, '--id', 'a/0', '--moves', '2000', '--html', page]);
    expect(text).toMatch(/plan\.html written\n$/);
  });

  test('static is ready for the longest sequence of the run, which the setting names', async () => {
    const equal = Array.from({ length: 16 }, () => 900);
    const named = problemFile('named.json', equal, { max_tokens: 8000 });
    const [free, ready] = await Promise.all(
      [problemFile('free.json', equal), named].map((problem) =>
        succeed(['plan', '--problem', problem, '--id', 'a/0', '--moves', '500']),
      ),
    );
    expect(ready).toMatch(/\n {2}static +degree 8 /);
    expect(free).toMatch(/\n {2}static +degree 1 /);
  });

  test('the time of the bound is not the solver’s', async () => {
    const found = await answer('--moves', '500');
    expect(found).toMatchObject({ moves: expect.any(Number), bound_spent_ms: expect.any(Number) });
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

describe('a package on a cluster', () => {
  const llama = path.join(folder, 'llama.ithaca');
  const cluster = path.join(folder, 'cluster.json');
  const text = path.join(folder, 'lengths.txt');
  const jsonl = path.join(folder, 'lengths.jsonl');
  const documents = [20_000, ...Array.from({ length: 24 }, (_, i) => 100 + 31 * i)];
  beforeAll(async () => {
    const rates = { node: { gibPerSecond: 10, latencyUs: 5 }, network: { gibPerSecond: 1, latencyUs: 20 } };
    const machine = {
      name: 'mine',
      nodes: 2,
      ranksPerNode: 4,
      memoryGibPerRank: 0.15,
      teraflopsPerRank: 0.5,
    };
    writeFileSync(cluster, JSON.stringify({ ...machine, links: rates }));
    writeFileSync(text, documents.join('\n'));
    writeFileSync(jsonl, documents.map((n) => `{"input_ids":[${Array(n).fill(1).join()}]}`).join('\n'));
    await succeed(['compile', path.join(modelFolder('llama'), 'model.onnx'), '-o', llama]);
  });

  test('plans lengths and documents alike, and says that nothing was measured', async () => {
    const args = ['plan', llama, '--cluster', cluster, '--moves', '2000'];
    const [fromText, fromJsonl, table] = await Promise.all([
      succeed([...args, '--lengths', text, '--json']),
      succeed([...args, '--lengths', jsonl, '--json']),
      succeed([...args, '--lengths', text, '--batch', '9']),
    ]);
    const found = JSON.parse(fromText) as Answer & { calibrated: boolean; cluster: string };
    expect(found).toMatchObject({ solver: 'ithaca', cluster: 'mine', calibrated: false });
    expect((JSON.parse(fromJsonl) as Answer).plan).toEqual(found.plan);
    expect(ascending(found.plan.flat().flatMap((group) => group.lengths))).toEqual(ascending(documents));
    expect(found.bound_ms).toBeLessThanOrEqual(found.step_ms);
    expect(table).toContain('9 sequences');
    expect(table).toMatch(/\nuncalibrated: .*mine; nothing was measured\n$/);
  });

  test('counts the bytes that even shares exchange, and never less memory than the exact peak of any rank', async () => {
    const pkg = await openPackage(llama);
    const work = workOf(pkg, 8);
    const program = pkg.program('train');
    const sent = exchangesOf(program, { tokens: 64, degree: 2 });
    expect(work).toMatchObject({ exchanges: sent.length, heads: 8, kvHeads: 2, attention: 'causal' });
    const bytes = sent.reduce((sum, exchange) => sum + exchange.bytes, 0);
    expect((64 * (work.queryBytesPerToken + work.kvBytesPerToken)) / 2).toBe(bytes);
    for (const degree of [1, 3, 8])
      for (let tokens = 1, before = 0; tokens < 100_000; tokens = Math.ceil(tokens * 1.7)) {
        const planned = work.peakBytes(degree, tokens);
        const exact = Array.from(
          { length: degree },
          (_, index) =>
            programPeak(program, bindingOf(tokens, { index, degree }), tokens).peakBytes +
            momentBytes(pkg, index, 8),
        ).reduce((a, b) => Math.max(a, b));
        expect(planned).toBeGreaterThanOrEqual(Math.max(exact, before));
        // Attention's scores: 16 MiB a tensor, and tiles of shorter documents may be larger.
        expect(planned).toBeLessThanOrEqual(1.25 * exact + (32 << 20));
        before = planned;
      }
  });

  test.each([
    [['--lengths', text], /required option '--cluster <which>' not specified/, 2],
    [['--cluster', 'h100x8', '--lengths', text, '--id', 'x'], /--id does not go with a package/, 2],
    [['--cluster', 'h200', '--lengths', text], /h200: cannot be read as a cluster.*\n {2}hint: .*h100x8/, 1],
    [['--cluster', 'h100x8', '--lengths', cluster], /cluster\.json:1: no column tells lengths/, 1],
    [
      ['--cluster', 'h100x8', '--lengths', text, '--batch', '99'],
      /holds 25 sequences, --batch asks for 99/,
      1,
    ],
  ])('mistakes: %j', async (args, message, code) => {
    const result = await ithaca(['plan', llama, ...args]);
    expect(result.stderr).toMatch(message);
    expect(result).toMatchObject({ code, stdout: '' });
  });

  test('a sequence that fits no group is an error with the numbers', async () => {
    writeFileSync(text + '2', '90000000\n');
    const { code, stderr } = await ithaca(['plan', llama, '--cluster', cluster, '--lengths', text + '2']);
    expect(stderr).toMatch(
      /sequence 0 has 90000000 tokens, the largest group \(degree 8\) holds \d+\n {2}hint: it needs a degree of \d+, or [\d.]+ GiB more/,
    );
    expect(code).toBe(1);
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
