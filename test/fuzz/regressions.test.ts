/** Cases in which the fuzzer found something that is put right. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { bytesOf } from './cases.js';
import { compileCase } from './compile.js';
import { fuzzFolder } from './folder.js';
import type { Result } from './outcome.js';
import { decode, encode, floatTensor, nodesOf, tensorsOf, type Model, type Node } from './proto.js';

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
  [
    'index values that double until they are gigabytes',
    'llama-opset23-nopos',
    'doubling',
    2390244842,
    'refused',
  ],
  ['a tensor of thousands of dims', 'gpt2-pad', 'dims', 2942069259, 'compiled'],
  ['a split into more parts than memory holds', 'mixtral', 'changeAttribute', 4157353043, 'refused'],
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

/** Nodes that add or multiply the last two results, from `start`; read as a tree they are thousands of millions. */
const doubled = (opType: string, start: string, count: number): Node[] =>
  Array.from({ length: count }, (_, i) => ({
    opType,
    input: [i > 0 ? `d${i - 1}` : start, i > 1 ? `d${i - 2}` : start],
    output: [`d${i}`],
  }));

test('products of products where a norm has squares', async () => {
  const folded = changed('llama-hf', (model) => {
    const mean = nodesOf(model).find(({ opType }) => opType === 'ReduceMean')!;
    const products = doubled('Mul', mean.input![0]!, 50);
    nodesOf(model).splice(nodesOf(model).indexOf(mean), 0, ...products);
    mean.input![0] = 'd49';
  });
  const result = await endOf(folded);
  expect(result.kind, result.text).toBe('compiled');
});

test.each([
  ['shared', (start: string) => doubled('Add', start, 50)],
  [
    'deep',
    (start: string) =>
      Array.from({ length: 8000 }, (_, i): Node => ({
        opType: 'Add',
        input: [i > 0 ? `d${i - 1}` : start, 'more'],
        output: [`d${i}`],
      })),
  ],
])('%s sums that are added to scores', async (_, sumsOf) => {
  const biased = changed('llama-hf', (model) => {
    const list = nodesOf(model);
    const softmax = list.find(({ opType }) => opType === 'Softmax')!;
    const mean = list.find(({ opType }) => opType === 'ReduceMean')!;
    const perm = [{ name: 'perm', type: 7, ints: [0, 2, 1] }];
    const turned = { opType: 'Transpose', input: [mean.output![0]!], output: ['turned'], attribute: perm };
    const sums = sumsOf('turned');
    const scores = softmax.input![0]!;
    const biased = { opType: 'Add', input: [scores, `d${sums.length - 1}`], output: ['biased'] };
    tensorsOf(model).push(floatTensor('more', [], 1.5));
    list.splice(list.indexOf(softmax), 0, turned, ...sums, biased);
    softmax.input![0] = 'biased';
  });
  const result = await endOf(biased, true);
  expect(result).toMatchObject({
    kind: 'refused',
    text: expect.stringMatching(/a bias is added to the scores/) as string,
  });
});
