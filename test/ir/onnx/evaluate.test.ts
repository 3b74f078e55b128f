import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import onnxProto from 'onnx-proto';
import { describe, expect, test } from 'vitest';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { createEvaluator, evaluateSubgraph, subgraphOf } from '../../../src/ir/onnx/evaluate.js';
import type { OnnxModel, TensorValue } from '../../../src/ir/onnx/model.js';

const read = (name: string) => readOnnxModel(join('test/models', name, 'model.onnx'), { weights: true });

function ints(dims: readonly number[], value: (index: number) => number): TensorValue {
  const count = dims.reduce((a, b) => a * b, 1);
  return {
    dtype: 'i64',
    dims,
    data: BigInt64Array.from({ length: count }, (_, index) => BigInt(value(index))),
  };
}

/** The operand that is added to the scores before the first softmax. */
function maskValue(model: OnnxModel): string {
  const producer = new Map(model.nodes.flatMap((node) => node.outputs.map((name) => [name, node] as const)));
  const softmax = model.nodes.find((node) => node.opType === 'Softmax');
  const add = producer.get(softmax?.inputs[0] ?? '');
  return add?.inputs.find((name) => producer.get(name)?.opType === 'Where') ?? '';
}

const causal = (size: number): boolean[] =>
  Array.from({ length: size * size }, (_, index) => index % size <= Math.floor(index / size));

describe.each(['gpt2', 'gpt2-ts', 'gpt2-hf', 'llama', 'llama-ts'])('%s', (name) => {
  test('the mask is causal at every size, from one session', async () => {
    const model = read(name);
    const mask = maskValue(model);
    expect(mask).not.toBe('');
    const evaluator = await createEvaluator(
      model,
      [mask],
      new Map(model.inputs.map((input) => [input.name, 'i64'] as const)),
    );
    for (const size of [7, 1, 13]) {
      const feeds = new Map(
        model.inputs.map((input) => [
          input.name,
          ints([1, size], (index) => (input.name === 'attention_mask' ? 1 : index)),
        ]),
      );
      const value = (await evaluator.run(feeds)).get(mask);
      expect(value?.dims.slice(-2)).toEqual([size, size]);
      expect([...(value?.data ?? [])].map((element) => Number(element) === 0)).toEqual(causal(size));
    }
    await evaluator.release();
  });
});

test('a fed value cuts the graph', async () => {
  const model = read('gpt2');
  const mask = maskValue(model);
  const where = model.nodes.find((node) => node.outputs.includes(mask));
  const condition = where?.inputs[0] ?? '';
  const feeds = new Map<string, TensorValue>([
    [condition, { dtype: 'bool', dims: [1, 1, 1, 3], data: Uint8Array.of(1, 0, 1) }],
  ]);
  const results = await evaluateSubgraph(model, [mask, condition], feeds);
  expect([...(results.get(mask)?.data ?? [])].map((value) => value === 0)).toEqual([true, false, true]);
  expect(results.get(condition)).toBe(feeds.get(condition));
  expect(subgraphOf(model, [mask], new Set([condition])).nodes.length).toBe(1);
});

test('logits of a whole model are onnxruntime’s', async () => {
  const model = read('llama-ids');
  const results = await evaluateSubgraph(
    model,
    ['logits'],
    new Map([['input_ids', ints([2, 5], (index) => index)]]),
  );
  expect(results.get('logits')?.dims).toEqual([2, 5, 512]);
});

test('bounds are kept, and onnxruntime’s refusals are one line', async () => {
  const model = read('llama-ids');
  const ids = new Map([['input_ids', ints([1, 4], () => 1)]]);
  await expect(evaluateSubgraph(model, ['logits'], ids, { maxBytes: 1000 })).rejects.toThrow(
    /bytes of constants/,
  );
  await expect(evaluateSubgraph(model, ['logits'], ids, { maxNodes: 3 })).rejects.toThrow(
    /nodes, more than 3/,
  );
  const tooBig = new Map([['input_ids', ints([1, 4], () => 99999)]]);
  await expect(evaluateSubgraph(model, ['logits'], tooBig)).rejects.toMatchObject({
    name: 'UserError',
    message: expect.stringMatching(/onnxruntime refuses/) as string,
  });
});

test.each([
  ['double', (before: string) => [call(before, 'x', 'a'), call(before, 'a', 'y')]],
  ['call themselves', (_: string, own: string) => [call(own, 'x', 'y')]],
])('local functions that %s are not given to onnxruntime', async (_, bodyOf) => {
  const functions = Array.from({ length: 64 }, (_, i) => ({
    name: `f${i}`,
    domain: 'local',
    input: ['x'],
    output: ['y'],
    opsetImport: [{ domain: '', version: 20 }],
    node: i === 0 ? [{ opType: 'Identity', input: ['x'], output: ['y'] }] : bodyOf(`f${i - 1}`, `f${i}`),
  }));
  const folder = mkdtempSync(join(tmpdir(), 'ithaca-functions-'));
  try {
    const file = join(folder, 'model.onnx');
    const info = { name: 'in', type: { tensorType: { elemType: 7, shape: { dim: [{ dimValue: 1 }] } } } };
    const proto = {
      irVersion: 9,
      opsetImport: [
        { domain: '', version: 20 },
        { domain: 'local', version: 1 },
      ],
      functions,
      graph: {
        name: 'g',
        input: [info],
        output: [{ ...info, name: 'out' }],
        node: [call('f63', 'in', 'out')],
      },
    };
    writeFileSync(file, onnxProto.onnx.ModelProto.encode(proto).finish());
    const model = readOnnxModel(file, { weights: true });
    const feeds = new Map([['in', ints([1], () => 1)]]);
    await expect(evaluateSubgraph(model, ['out'], feeds)).rejects.toThrow(/once its local functions/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

function call(opType: string, input: string, output: string) {
  return { opType, domain: 'local', name: `${opType}/${output}`, input: [input], output: [output] };
}
