/** Cases in which the fuzzer found something that is put right. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { bytesOf } from './cases.js';
import { compileCase } from './compile.js';
import { fuzzFolder } from './folder.js';

const root = mkdtempSync(path.join(tmpdir(), 'ithaca-regressions-'));
const folder = fuzzFolder(root);
afterAll(() => rmSync(root, { recursive: true, force: true }));

test.each([
  ['a position table that no token can read', 'gpt2-hf', 'powersOfLength', 2403026906, 'refused'],
  ['queries with fewer heads than their scores', 'bert-tokens', 'dropAttribute', 3111447916, 'refused'],
])('%s', async (_, model, name, seed, kind) => {
  const bytes = bytesOf({ seed: 1, model, weights: false, edits: [{ name, seed }] });
  writeFileSync(path.join(folder.model, 'model.onnx'), bytes);
  const task = { folder: folder.model, out: folder.out, weights: false, compare: false, index: false };
  const result = await compileCase(task, () => undefined);
  expect(result.kind, result.text).toBe(kind);
});
