import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { constantTensor } from '../../../src/ir/onnx/attribute.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { isFloat } from '../../../src/ir/onnx/dtype.js';

const MODELS = 'test/models';
const model = (name: string) => readOnnxModel(join(MODELS, name, 'model.onnx'), { weights: true });

/** [nodes, opset, inputs] as the exporters' notes say. */
const STRUCTURE: Readonly<Record<string, readonly [number, number, string]>> = {
  gpt2: [150, 20, 'input_ids attention_mask'],
  llama: [190, 20, 'input_ids attention_mask position_ids'],
  'gpt2-ts': [542, 14, 'input_ids attention_mask'],
  'llama-ts': [592, 20, 'input_ids attention_mask'],
  'gpt2-hf': [145, 20, 'input_ids attention_mask'],
  'llama-hf': [193, 20, 'input_ids attention_mask'],
  'llama-ids': [211, 20, 'input_ids'],
  'llama-packed': [210, 20, 'input_ids position_ids'],
  'llama-opset23': [106, 23, 'input_ids attention_mask position_ids'],
  'llama-opset23-ops': [104, 23, 'input_ids attention_mask position_ids'],
  'llama-opset23-nopos': [103, 23, 'input_ids attention_mask'],
  qwen3: [216, 20, 'input_ids attention_mask'],
  mixtral: [236, 20, 'input_ids attention_mask'],
  mistral: [191, 20, 'input_ids attention_mask'],
  bert: [124, 20, 'input_ids attention_mask token_type_ids'],
};

describe.each(Object.keys(STRUCTURE))('%s', (name) => {
  const onnx = model(name);

  test('has the structure its exporter reported', () => {
    const [nodes, opset, inputs] = STRUCTURE[name]!;
    expect(onnx.nodes.length).toBe(nodes);
    expect(onnx.opsets.get('')).toBe(opset);
    expect(onnx.inputs.map((input) => input.name).join(' ')).toBe(inputs);
    expect(onnx.inputs.every(({ elemType, dims }) => elemType === 'i64' && dims?.length === 2)).toBe(true);
    expect(onnx.outputs.map((output) => output.name)).toEqual(['logits']);
    expect(onnx.outputs[0]?.dims?.at(-1)).toBe(512);
    expect(onnx.producer).toMatch(/^pytorch 2\.13/);
    expect(onnx.sha256()).toMatch(/^[0-9a-f]{64}$/);
  });

  test('stores every parameter of mapping.json, readable', () => {
    const mapping = JSON.parse(readFileSync(join(MODELS, name, 'mapping.json'), 'utf8')) as {
      initializers: Record<string, { shape: number[] }>;
    };
    const constants = new Map(
      onnx.nodes.flatMap((node) => [constantTensor(node) ?? []].flat()).map((t) => [t.name, t]),
    );
    for (const [key, { shape }] of Object.entries(mapping.initializers)) {
      const tensor = onnx.initializers.get(key) ?? constants.get(key);
      expect(tensor?.dims, key).toEqual(shape);
      expect(tensor?.location.kind).toBe('inline');
      const values = tensor?.read().toFloat32() ?? new Float32Array(0);
      expect(values.length).toBe(tensor?.elementCount);
      expect(values.every(Number.isFinite)).toBe(true);
    }
  });

  test('reads every constant', () => {
    const constants = onnx.nodes.flatMap((node) => [constantTensor(node) ?? []].flat());
    expect(constants.length).toBe(onnx.nodes.filter((node) => node.opType === 'Constant').length);
    for (const tensor of [...onnx.initializers.values(), ...constants]) {
      const value = tensor.read();
      expect(value.toFloat64().length).toBe(tensor.elementCount);
      if (!isFloat(tensor.dtype)) expect(value.toInts().length).toBe(tensor.elementCount);
    }
  });
});

test('keeps the exporter metadata of nodes', () => {
  const node = model('llama').nodes.find(({ opType }) => opType === 'MatMul');
  expect([...(node?.metadata.keys() ?? [])]).toContain('pkg.torch.onnx.name_scopes');
});
