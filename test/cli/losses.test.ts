import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { modelFolder } from '../support/oracle.js';
import { succeed } from './cli.js';

const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-losses-cli-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => path.join(folder, name);

async function compiled(model: string, config: unknown = {}): Promise<string> {
  const [out, file] = [at(`${model}.ithaca`), at('config.json')];
  writeFileSync(file, JSON.stringify(config));
  await succeed([
    'compile',
    path.join(modelFolder(model), 'model.onnx'),
    '-o',
    out,
    '--config',
    file,
    '--force',
  ]);
  return out;
}

const jsonl = (name: string, lines: readonly unknown[]): string => {
  writeFileSync(at(name), lines.map((line) => JSON.stringify(line)).join('\n'));
  return at(name);
};

const sequence = (n: number, length: number): number[] =>
  Array.from({ length }, (_, t) => 1 + ((7 * n + 3 * t) % 80));

const verified = async (pkg: string): Promise<readonly string[]> => {
  const text = await succeed(['verify', pkg, '--sp', '3', '--tokens', '11', '--json']);
  const { passed, cases } = JSON.parse(text) as { passed: boolean; cases: { lanes: string[] }[] };
  expect(passed).toBe(true);
  return cases.flatMap(({ lanes }) => lanes);
};

test('regression: inspect, verify, train and eval', async () => {
  const pkg = await compiled('bert-mean');
  expect(await succeed(['inspect', pkg])).toMatch(/loss +regression, a number a document; from the mean/);
  expect(await verified(pkg)).toEqual(['11']);
  const data = jsonl(
    'numbers.jsonl',
    Array.from({ length: 12 }, (_, n) => ({ input_ids: sequence(n, 3 + n), label: (n % 3) / 2 })),
  );
  const before = JSON.parse(await succeed(['eval', pkg, '--batch', data, '--json'])) as { loss: number };
  const flags = [
    '--steps',
    '8',
    '--eval-every',
    '8',
    '--lr',
    '3e-3',
    '--ranks',
    '2',
    '--sp',
    '2',
    '--batch-tokens',
    '102',
  ];
  await succeed(['train', pkg, '--data', data, '--eval-data', data, ...flags, '--out', at('numbers')]);
  const last = JSON.parse(readFileSync(at('numbers/metrics.jsonl'), 'utf8').trim().split('\n').at(-1)!) as {
    eval_loss: number;
    predicted: number;
  };
  expect(last.eval_loss).toBeLessThan(before.loss);
  expect(last).not.toHaveProperty('eval_accuracy');
  expect(last.predicted).toBe(12);
  expect(await succeed(['eval', pkg, '--batch', data])).toMatch(/mean squared error +\d.*\n.*documents +12/);
});

test('a teacher’s logits, written by eval, train a student; its evaluation needs none', async () => {
  const ids = Array.from({ length: 6 }, (_, n) => sequence(n, 4 + 3 * n));
  const plain = jsonl(
    'plain.jsonl',
    ids.map((input_ids) => ({ input_ids })),
  );
  const teacher = await compiled('llama-loss');
  const out = await succeed(['eval', teacher, '--batch', plain, '-o', at('teacher.safetensors'), '--json']);
  const { tokens, accuracy } = JSON.parse(out) as { tokens: number; accuracy: number };
  expect(tokens).toBe(ids.reduce((sum, { length }) => sum + length - 1, 0));
  expect(accuracy * tokens).toBeCloseTo(Math.round(accuracy * tokens), 9);
  const student = await compiled('llama-loss', { loss: { kind: 'distillation', temperature: 2, topK: 8 } });
  expect(await succeed(['inspect', student])).toMatch(
    /with a teacher: 8 logits a token, temperature 2, alpha 0\.5/,
  );
  expect(await verified(student)).toEqual(['11']);
  const taught = jsonl(
    'taught.jsonl',
    ids.map((input_ids, n) => ({
      input_ids,
      teacher: { file: 'teacher.safetensors', logits: `logits.${n}` },
    })),
  );
  const flags = ['--steps', '2', '--ranks', '2', '--sp', '2', '--batch-tokens', '60', '--out', at('student')];
  await succeed(['train', student, '--data', taught, '--eval-data', plain, ...flags]);
  const last = JSON.parse(readFileSync(at('student/metrics.jsonl'), 'utf8').trim().split('\n').at(-1)!) as {
    eval_loss: number;
    eval_accuracy: number;
  };
  expect(last.eval_loss).toBeGreaterThan(0);
  expect(last.eval_accuracy).toBeGreaterThanOrEqual(0);
});
