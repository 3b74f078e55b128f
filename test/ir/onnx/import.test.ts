import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { SafetensorsReader } from '../../../src/files/safetensors.js';
import { inputName, inputRole, type Value } from '../../../src/ir/graph.js';
import { interpret, meshOf } from '../../../src/ir/interpret.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { importOnnx, type Imported } from '../../../src/ir/onnx/import/import.js';
import type { OnnxModel } from '../../../src/ir/onnx/model.js';
import type { Tensor } from '../../../src/ir/op.js';
import { tensor } from '../../../src/ir/ops/define.js';
import { parseGraph } from '../../../src/ir/text/parse.js';
import { printGraph } from '../../../src/ir/text/print.js';
import { verify } from '../../../src/ir/verify.js';
import { pooledToken } from '../../../src/ir/pooled.js';

const FOLDER = 'test/models';
const MODELS = readdirSync(FOLDER).filter((name) => existsSync(join(FOLDER, name, 'oracle.safetensors')));

const read = (name: string): OnnxModel => readOnnxModel(join(FOLDER, name, 'model.onnx'), { weights: true });

/** A recognised mask as numbers, for the interpreter. */
function maskTensor(input: Value, length: number): Tensor {
  const { kind, window, additive } = input.node.attrs as { kind: string; window?: number; additive: boolean };
  const seen = (i: number, j: number): boolean => j <= i && (kind === 'causal' || j > i - window!);
  const at = (i: number, j: number): number => (additive ? (seen(i, j) ? 0 : -Infinity) : Number(seen(i, j)));
  const shape = input.type.dims.map((d) => (d.size.key === 'S' ? length : 1));
  return tensor(
    shape,
    Float64Array.from({ length: length * length }, (_, k) => at(Math.floor(k / length), k % length)),
  );
}

/** Logits of one document alone, by the reference interpreter. */
function logitsOf(
  model: OnnxModel,
  { graph }: Imported,
  ids: readonly number[],
  types: readonly number[] | undefined,
): Float64Array {
  const { length } = ids;
  const inputs = new Map(graph.inputs.map((input) => [inputName(input), input]));
  const outputs = interpret(
    graph,
    meshOf([1], () => new Map([['S', length]])),
    (name) => {
      const input = inputs.get(name)!;
      if (name === 'tokens') return tensor([length], ids);
      if (name === 'positions')
        return tensor(
          [length],
          ids.map((_, i) => i),
        );
      if (name === 'documents') return tensor([length]);
      if (name === 'lengths')
        return tensor(
          [length],
          ids.map(() => length),
        );
      if (name === 'token_types') return tensor([length], types!);
      if (inputRole(input) === 'data') return maskTensor(input, length);
      const stored = model.initializers.get(name)!;
      return tensor(stored.dims, stored.read().toFloat32());
    },
  );
  return outputs.get('logits')![0]!.data;
}

describe.each(MODELS)('%s', (name) => {
  test('gives the logits of PyTorch, document by document', async () => {
    const model = read(name);
    const imported = await importOnnx(model, { weights: true });
    verify(imported.graph);
    const text = printGraph(imported.graph);
    expect(printGraph(parseGraph(text))).toBe(text);
    const oracle = SafetensorsReader.open(join(FOLDER, name, 'oracle.safetensors'));
    const [rows, length] = oracle.info('first.input_ids').shape as [number, number];
    const ids = Array.from(oracle.read('first.input_ids'), Number);
    const types = oracle.tensors.has('first.token_type_ids')
      ? Array.from(oracle.read('first.token_type_ids'), Number)
      : undefined;
    const expected = oracle.read('first.logits') as Float32Array;
    for (let row = 0; row < rows; row++) {
      const of = <T>(values: readonly T[]): readonly T[] => values.slice(row * length, (row + 1) * length);
      const whole = logitsOf(model, imported, of(ids), types && of(types));
      const width = whole.length / length;
      const token = imported.pool === undefined ? 0 : pooledToken(of(ids), imported.pool);
      const logits = imported.pool === undefined ? whole : whole.slice(token * width, (token + 1) * width);
      const from = row * logits.length;
      let worst = 0;
      logits.forEach((value, i) => (worst = Math.max(worst, Math.abs(value - expected[from + i]!))));
      expect(worst).toBeLessThan(1e-4);
    }
    oracle.close();
  });
});

test('a tied weight that is stored twice is known as one', async () => {
  const { parameters } = await importOnnx(read('gpt2-ts'), { weights: true });
  expect(parameters.find((p) => p.tiedTo !== undefined)).toMatchObject({
    name: 'onnx::MatMul_665',
    trainable: true,
    tiedTo: { name: 'transformer.wte.weight', transposed: true },
  });
});

test('folded weights go by their torch names; positions and frequencies are no parameters of llama', async () => {
  const { parameters, maxPositions, provenLength } = await importOnnx(read('llama'), { weights: true });
  expect(parameters.find((p) => p.name === 'val_101')?.torchName).toEqual({
    name: 'model.layers.0.self_attn.q_proj.weight',
    layout: 'transposed',
  });
  expect(parameters.every((p) => p.trainable)).toBe(true);
  expect([maxPositions, provenLength]).toEqual([undefined, undefined]);
});

test('a learned position table bounds the length of documents', async () => {
  expect((await importOnnx(read('gpt2'), { weights: true })).maxPositions).toBe(256);
});
