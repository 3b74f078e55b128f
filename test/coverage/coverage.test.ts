/** The smallest cases of every operator, and the page about them. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { onnxOp } from '../../src/ir/onnx/import/ops/index.js';
import { REFUSED_NAMES } from '../../src/ir/onnx/import/ops/refused.js';
import { EXPANDED_OPERATORS } from '../../src/ir/onnx/inline.js';
import { openCase } from './case.js';
import { renderPage } from './page.js';
import { groupOf, PAGE, readCases, readOperators, readResults } from './results.js';
import { runCase } from './run.js';

const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-coverage-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const results = readResults();
const groups = new Map<string, ReturnType<typeof openCase>[]>();
for (const stored of readCases()) {
  const example = openCase(stored);
  groups.set(groupOf(example), [...(groups.get(groupOf(example)) ?? []), example]);
}

describe('cases of ONNX’s backend tests, and of ONNX Runtime’s own operators', () => {
  test.each([...groups])('%s', async (group, examples) => {
    const known = results[group]!;
    for (const example of examples) {
      const outcome = await runCase(example, folder);
      expect(outcome, example.name).toMatchObject({ kind: 'passed' });
      // What docs/ops.md says of the operator still holds.
      if (outcome.kind === 'passed')
        expect(known.becomes).toEqual(expect.arrayContaining([...outcome.becomes]));
    }
  });
});

test('no case fails', () => {
  expect(Object.values(results).flatMap(({ failed }) => failed)).toEqual([]);
});

test('every operator of the standard is known, one way only', () => {
  const names = Object.keys(readOperators()['ai.onnx']);
  const waysOf = (name: string): readonly boolean[] => [
    onnxOp({ domain: '', opType: name }) !== undefined,
    EXPANDED_OPERATORS.has(name) || REFUSED_NAMES.includes(name),
  ];
  expect(names.filter((name) => waysOf(name).filter(Boolean).length !== 1)).toEqual([]);
  expect(REFUSED_NAMES.filter((name) => !names.includes(name))).toEqual([]);
});

test('docs/ops.md says what the tables say: `npm run coverage` writes it', () => {
  expect(readFileSync(PAGE, 'utf8')).toBe(renderPage(readOperators(), results));
});
