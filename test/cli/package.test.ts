import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { exchangesOf } from '../../src/cli/exchanges.js';
import { SafetensorsReader } from '../../src/files/safetensors.js';
import { openPackage } from '../../src/package/read.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { loadOracle, modelFolder } from '../support/oracle.js';
import { ithaca, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const model = path.join(modelFolder('llama'), 'model.onnx');
const llama = path.join(folder, 'llama.ithaca');
const gpt2 = path.join(folder, 'gpt2.ithaca');
const oracle = loadOracle(modelFolder('llama'));

interface CompileSummary {
  readonly parameters: { readonly tensors: number };
  readonly recognized: Record<string, number>;
  readonly maxDegree: number;
}

let summary: CompileSummary;
beforeAll(async () => {
  const [text] = await Promise.all([
    succeed(['compile', model, '-o', llama, '--json']),
    succeed(['compile', path.join(modelFolder('gpt2'), 'model.onnx'), '-o', gpt2, '--json']),
  ]);
  summary = JSON.parse(text) as CompileSummary;
});

/** Writes a case of the oracle as a batch. */
function batchOf(name: string): string {
  const file = path.join(folder, `${name}.jsonl`);
  const lines = oracle.documents(name).map(({ ids, labels }) => JSON.stringify({ input_ids: ids, labels }));
  writeFileSync(file, `${lines.join('\n')}\n`);
  return file;
}

test('compile sums up what it found', () => {
  expect(summary).toMatchObject({
    parameters: { tensors: 21 },
    recognized: { attention: 2, rms_norm: 5, silu: 2 },
    maxDegree: 8,
  });
});

test('compile replaces a package only when told to, and never another directory', async () => {
  const again = await ithaca(['compile', model, '-o', llama]);
  expect(again.stderr).toMatch(/^error: .*llama\.ithaca exists already\n {2}hint: replace it with --force/);
  expect(again.code).toBe(1);
  const copy = path.join(folder, 'copy.ithaca');
  cpSync(llama, copy, { recursive: true });
  const text = await succeed(['compile', model, '-o', copy, '--force']);
  expect(text).toContain(`next: ithaca inspect ${copy}`);
  expect(readFileSync(path.join(copy, 'manifest.json'))).toEqual(
    readFileSync(path.join(llama, 'manifest.json')),
  );
});

interface Inspection {
  readonly exchanges: {
    readonly layers: number;
    readonly forward: { readonly count: number; readonly bytes: number };
    readonly backward: { readonly count: number; readonly bytes: number };
    readonly formulaBytes: number;
    readonly exact: boolean;
  };
  readonly flops: { readonly train: { readonly formula: string; readonly group: number } };
  readonly peak: { readonly train: { readonly peakBytes: number } };
}

const inspect = async (...args: string[]): Promise<Inspection> =>
  JSON.parse(await succeed(['inspect', llama, '--json', ...args])) as Inspection;

test('inspect: two exchanges a layer each way, and the bytes of the formula where P divides the K/V heads', async () => {
  const tokens = 1001;
  const { exchanges } = await inspect('--tokens', String(tokens), '--degree', '2');
  expect(exchanges).toMatchObject({ layers: 2, exact: true });
  expect([exchanges.forward.count, exchanges.backward.count]).toEqual([4, 4]);
  // S · (2H + 2Hkv) · D · 4 · (P − 1) / P
  const layer = (tokens * (2 * 8 + 2 * 2) * 8 * 4) / 2;
  expect(exchanges.formulaBytes).toBe(layer);
  expect([exchanges.forward.bytes, exchanges.backward.bytes]).toEqual([2 * layer, 2 * layer]);
});

test.each([3, 5])(
  'inspect: the bytes of %i ranks, where shares are uneven, are those the ranks send',
  async (degree) => {
    const opened = await openPackage(llama);
    const tokens = 13;
    const ids = Int32Array.from({ length: tokens }, (_, i) => i);
    const ranks = Array.from({ length: degree }, (_, i) => i);
    const session = await TrainingSession.open(opened, { ranks: degree });
    try {
      const { kinds } = await session.gradients([
        { lanes: [{ ranks, documents: [{ ids, labels: ids, origin: 'test' }] }] },
      ]);
      const planned = exchangesOf(opened.program('train'), { tokens, degree });
      const { exchanges, bytesSent } = kinds['all-to-all'];
      expect([exchanges, bytesSent]).toEqual([
        planned.length,
        planned.reduce((sum, { bytes }) => sum + bytes, 0),
      ]);
    } finally {
      await session.close();
    }
  },
);

test('inspect shows tables, folds nothing short, and needs no terminal', async () => {
  const text = await succeed(['inspect', llama, '--tokens', '100', '--degree', '3']);
  for (const title of ['Parameters', 'Placements', 'FLOPs', 'Exchanges', 'Segments', 'Peak memory'])
    expect(text).toContain(`\n${title}`);
  expect(text).toContain('model.layers.1.mlp.down_proj.weight ᵀ');
  expect(text).toContain('f32[S@sp, 8, 8] f32[S@sp, 2, 8] → f32[S, 8@sp, 8] f32[S, 2@sp(8), 8]');
  expect(text).not.toContain('\u001b');
});

test('inspect --all lists the memory of every rank of a group; --sp is --degree', async () => {
  const text = await succeed(['inspect', llama, '--tokens', '101', '--sp', '3', '--all']);
  for (const rank of [0, 1, 2]) expect(text).toMatch(new RegExp(`train +.*\\(rank ${rank}\\)`));
  const { peak, ranks } = JSON.parse(
    await succeed(['inspect', llama, '--tokens', '101', '--sp', '3', '--json']),
  ) as Record<'peak' | 'ranks', { train: unknown }>;
  expect(ranks.train).toHaveLength(3);
  expect(ranks.train).toContainEqual(peak.train);
  const { code, stderr } = await ithaca(['inspect', llama, '--sp', '2', '--degree', '3']);
  expect(code).toBe(2);
  expect(stderr).toContain('--degree');
});

test('verify compares P ranks with one, and says why a degree is refused', async () => {
  const text = await succeed(['verify', gpt2, '--sp', '3,5', '--tokens', '5', '--json']);
  const { passed, cases, refused } = JSON.parse(text) as {
    passed: boolean;
    cases: { degree: number; error: number }[];
    refused: { degree: number; reason: string }[];
  };
  expect(passed).toBe(true);
  expect(cases.map(({ degree }) => degree)).toEqual([3]);
  expect(cases[0]!.error).toBeLessThan(1e-12);
  expect(refused).toEqual([{ degree: 5, reason: expect.stringContaining('4 attention heads') as string }]);
});

test('verify takes odd and few tokens, and groups of unequal length with an empty one', async () => {
  const text = await succeed(['verify', llama, '--sp', '3']);
  expect(text.split('\n').filter((line) => line.startsWith('  ✓'))).toHaveLength(4);
  expect(text).toContain('7 | 4 | none');
});

const floatsOf = (file: string): Map<string, Float32Array> => {
  const reader = SafetensorsReader.open(file);
  const found = new Map([...reader.tensors.keys()].map((name) => [name, reader.read(name) as Float32Array]));
  reader.close();
  return found;
};

test('grad: PyTorch’s loss, and the same gradients however the batch is spread', async () => {
  const batch = batchOf('packed');
  const spreads = [
    ['--sp', '1'],
    ['--sp', '3'],
    ['--sp', '2', '--ranks', '4', '--max-tokens-per-group', '40'],
  ];
  const files = spreads.map((_, i) => path.join(folder, `grad${i}.safetensors`));
  const results: { loss: number; tokens: number; grad_norm: number }[] = [];
  for (const [i, spread] of spreads.entries())
    results.push(
      JSON.parse(
        await succeed(['grad', llama, '--batch', batch, ...spread, '-o', files[i]!, '--json']),
      ) as (typeof results)[number],
    );
  const { loss, predicted_tokens: predicted } = oracle.json.cases['packed']!;
  for (const result of results) {
    expect(result.tokens).toBe(predicted);
    expect(Math.abs(result.loss - loss)).toBeLessThan(1e-5);
    expect(result.grad_norm).toBeCloseTo(results[0]!.grad_norm, 4);
  }
  const [first, ...others] = files.map(floatsOf);
  expect(first!.size).toBe(21);
  for (const other of others)
    for (const [name, data] of first!) {
      const norm = Math.hypot(...data);
      const difference = Math.hypot(...data.map((x, i) => x - other.get(name)![i]!));
      expect(difference / norm, name).toBeLessThan(1e-5);
    }
});

test('eval streams PyTorch’s logits, each document under its number', async () => {
  const file = path.join(folder, 'logits.safetensors');
  const args = ['eval', llama, '--batch', batchOf('first'), '--sp', '3', '-o', file, '--json'];
  const { loss } = JSON.parse(await succeed(args)) as { loss: number };
  expect(Math.abs(loss - oracle.json.cases['first']!.loss)).toBeLessThan(1e-5);
  const logits = floatsOf(file);
  const expected = oracle.tensors.read('first.logits') as Float32Array;
  expect([...logits.keys()]).toEqual(['logits.0', 'logits.1']);
  const [one, two] = [logits.get('logits.0')!, logits.get('logits.1')!];
  const worst = expected.reduce(
    (most, x, i) => Math.max(most, Math.abs(x - (i < one.length ? one[i]! : two[i - one.length]!))),
    0,
  );
  expect(one.length + two.length).toBe(expected.length);
  expect(worst).toBeLessThan(1e-4);
});

test('a package with one byte changed is refused, by every command', async () => {
  const bad = path.join(folder, 'bad.ithaca');
  cpSync(llama, bad, { recursive: true });
  const segment = path.join(bad, 'segments', readdirSync(path.join(bad, 'segments'))[0]!);
  const bytes = readFileSync(segment);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(segment, bytes);
  const output = path.join(folder, 'never.safetensors');
  const { code, stderr, stdout } = await ithaca(['grad', bad, '--batch', batchOf('first'), '-o', output]);
  expect(stderr).toMatch(
    /^error: package .*: segments\/.* has changed since it was compiled.*\n {2}hint: compile it again: .*\n$/,
  );
  expect({ code, stdout, output: existsSync(output) }).toEqual({ code: 1, stdout: '', output: false });
});
