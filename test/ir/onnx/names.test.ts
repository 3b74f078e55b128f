import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { torchName } from '../../../src/ir/onnx/names.js';
import { findTiedInitializers } from '../../../src/ir/onnx/tied.js';

interface Mapping {
  readonly initializers: Record<
    string,
    { readonly param: string; readonly layout: string; readonly tied?: string[] }
  >;
  readonly other_constants: unknown;
}

const MODELS = 'test/models';
/** Exports of a bare model; those of a wrapper have its attribute in front of every name. */
const WRAPPED = ['bert-tokens', 'bert-first', 'llama-last', 'llama-loss'];
const names = readdirSync(MODELS).filter((name) => !name.endsWith('.md') && !WRAPPED.includes(name));
const read = (name: string) => readOnnxModel(join(MODELS, name, 'model.onnx'), { weights: true });

test.each(names)('%s: every parameter gets its torch name, and nothing else does', (name) => {
  const model = read(name);
  const mapping = JSON.parse(readFileSync(join(MODELS, name, 'mapping.json'), 'utf8')) as Mapping;
  for (const key of model.initializers.keys()) {
    const expected = mapping.initializers[key];
    const found = torchName(model, key);
    // The exporter folds the experts' matrices into constants whose names say nothing.
    const isNameless = found === undefined && key.startsWith('val_') && /experts/.test(expected?.param ?? '');
    if (isNameless) continue;
    if (expected === undefined) {
      expect(found, key).toBeUndefined();
      continue;
    }
    expect(found?.layout, key).toBe(expected.layout);
    expect([expected.param, ...(expected.tied ?? [])], key).toContain(found?.name);
  }
});

test('a tied weight that is stored twice, once transposed, is found', () => {
  expect(findTiedInitializers(read('gpt2-ts'))).toEqual([
    { a: 'transformer.wte.weight', b: 'onnx::MatMul_665', relation: 'transposed' },
  ]);
});

test.each(names.filter((name) => name !== 'gpt2-ts'))('%s has no weight twice', (name) => {
  expect(findTiedInitializers(read(name))).toEqual([]);
});
