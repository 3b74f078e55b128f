/** Cases in which the fuzzer found something that is put right. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { bytesOf } from './cases.js';
import { compileCase } from './compile.js';
import { fuzzFolder } from './folder.js';
import type { Result } from './outcome.js';
import { decode, encode, nodesOf, tensorsOf, type Model } from './proto.js';

const root = mkdtempSync(path.join(tmpdir(), 'ithaca-regressions-'));
const folder = fuzzFolder(root);
afterAll(() => rmSync(root, { recursive: true, force: true }));

async function endOf(bytes: Uint8Array, weights = false): Promise<Result> {
  writeFileSync(path.join(folder.model, 'model.onnx'), bytes);
  const task = { folder: folder.model, out: folder.out, weights, compare: false, index: false };
  return compileCase(task, () => undefined);
}

test.each([
  ['a position table that no token can read', 'gpt2-hf', 'powersOfLength', 2403026906, 'refused'],
  ['queries with fewer heads than their scores', 'bert-tokens', 'dropAttribute', 3111447916, 'refused'],
  [
    'labels that are numbers, one a sequence, for logits of several',
    'gpt2-pad',
    'manyRanks',
    3020268015,
    'refused',
  ],
  [
    'a parameter with a name longer than packages hold',
    'llama-ids',
    'renameParameter',
    3467484214,
    'refused',
  ],
  ['a value whose name is a NUL', 'bert', 'renameValue', 994935648, 'refused'],
])('%s', async (_, model, name, seed, kind) => {
  const result = await endOf(bytesOf({ seed: 1, model, weights: false, edits: [{ name, seed }] }));
  expect(result.kind, result.text).toBe(kind);
});

/** A model of `test/models`, changed. */
function changed(name: string, change: (model: Model) => void): Uint8Array {
  const model = decode(readFileSync(path.join('test/models', name, 'model.onnx')));
  change(model);
  return encode(model);
}

test('nodes with names longer than packages hold', async () => {
  const long = changed('llama-hf', (model) =>
    nodesOf(model).forEach((node, i) => (node.name = 'y'.repeat(8000) + String(i))),
  );
  const result = await endOf(long);
  expect(result.kind, result.text).toBe('compiled');
});

test('values with names longer than packages hold', async () => {
  const long = changed('llama-hf', (model) => {
    const own = new Set(
      nodesOf(model)
        .slice(0, 60)
        .flatMap((node) => node.output ?? []),
    );
    const renamed = (name: string): string =>
      own.has(name) && name !== 'logits' ? name + 'z'.repeat(70_000) : name;
    for (const node of nodesOf(model)) {
      node.input = node.input!.map(renamed);
      node.output = node.output!.map(renamed);
    }
  });
  const result = await endOf(long);
  expect(result.kind, result.text).toBe('compiled');
});

test('a parameter of more dims than packages hold', async () => {
  const deep = changed('llama-hf', (model) => {
    const norm = tensorsOf(model).find((tensor) => tensor.name!.includes('norm'))!;
    norm.dims = [...Array.from({ length: 18 }, () => 1), ...norm.dims!];
  });
  const result = await endOf(deep);
  expect(result).toMatchObject({
    kind: 'refused',
    text: expect.stringMatching(/shape may be 16 at most/) as string,
  });
});
