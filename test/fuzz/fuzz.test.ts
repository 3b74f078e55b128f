/** A few dozen cases of the fuzzer, always the same; `npm run fuzz` runs as many as one likes. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { bytesOf, caseOf, modelNames } from './cases.js';
import { judge } from './run.js';
import { compileCase } from './compile.js';
import { fuzzFolder, type FuzzFolder } from './folder.js';

const CASES = 40;
const SEED = 500_000;
const MAX_MS = 15_000;
let folder: FuzzFolder;
const root = mkdtempSync(path.join(tmpdir(), 'ithaca-fuzz-'));

beforeAll(() => {
  folder = fuzzFolder(root);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

test('every case compiles, or is refused in one line', async () => {
  const began = performance.now();
  const models = modelNames();
  for (let i = 0; i < CASES && performance.now() - began < MAX_MS; i++) {
    const fuzzCase = caseOf(SEED + i, models);
    writeFileSync(path.join(folder.model, 'model.onnx'), bytesOf(fuzzCase));
    folder.arm();
    const task = {
      folder: folder.model,
      out: folder.out,
      weights: fuzzCase.weights,
      compare: false,
      index: false,
    };
    const result = await compileCase(task, () => undefined);
    const outcome = { ...result, strangers: [], grownBytes: 0 };
    const { fault } = judge({ kind: 'ended', outcome, ms: 0 }, folder.touched());
    expect(fault, JSON.stringify(fuzzCase)).toBeUndefined();
  }
});

test('a case is a function of its seed', () => {
  const models = modelNames();
  for (const seed of [7, 8, 9, 10]) {
    const [a, b] = [bytesOf(caseOf(seed, models)), bytesOf(caseOf(seed, models))];
    expect(Buffer.compare(a, b)).toBe(0);
  }
});
