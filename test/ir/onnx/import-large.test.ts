/** What models of many parts cost, by counting how often the parts are looked at. */
import { expect, test } from 'vitest';
import { derivedModel, readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { importOnnx } from '../../../src/ir/onnx/import/import.js';
import type { OnnxModel } from '../../../src/ir/onnx/model.js';
import { findTiedInitializers } from '../../../src/ir/onnx/tied.js';
import { encode, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
const MANY = 1500;

const floats = (name: string, dims: readonly number[], values: readonly number[]) => ({
  name,
  dims: [...dims],
  dataType: 1,
  rawData: raw(values),
});

const ids = {
  name: 'input_ids',
  type: { tensorType: { elemType: 7, shape: { dim: [{ dimValue: 1 }, { dimParam: 's' }] } } },
};

const list = <T>(count: number, make: (i: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => make(i));

/** The object, with `seen` called whenever one of the properties is looked at. */
function watched<T extends object>(object: T, properties: readonly (keyof T)[], seen: () => void): T {
  return new Proxy(object, {
    get: (target, key) => {
      if ((properties as readonly PropertyKey[]).includes(key)) seen();
      return Reflect.get(target, key) as unknown;
    },
  });
}

test('nodes are looked at equally often however many biases there are', async () => {
  const bytes = encode({
    inputs: [ids],
    outputs: ['logits'],
    nodes: [
      { opType: 'Gather', input: ['table', 'input_ids'], output: ['sum0'] },
      ...list(MANY, (i) => ({ opType: 'Add', input: [`sum${i}`, `bias${i}`], output: [`sum${i + 1}`] })),
      { opType: 'MatMul', input: [`sum${MANY}`, 'head'], output: ['logits'] },
    ],
    initializers: [
      floats(
        'table',
        [7, 20],
        list(140, (i) => i),
      ),
      floats(
        'head',
        [20, 7],
        list(140, (i) => i),
      ),
      // Of one number, and of one a feature: the one may be biases of a single output, the other have names elsewhere.
      ...list(MANY, (i) =>
        i % 2 === 0
          ? floats(`bias${i}`, [1], [i])
          : floats(
              `bias${i}`,
              [20],
              list(20, (j) => i + j),
            ),
      ),
    ],
  });
  const model = readOnnxModel(put(folder, 'biases.onnx', bytes), { weights: true });
  let looks = 0;
  const nodes = model.nodes.map((node) => watched(node, ['inputs', 'opType'], () => looks++));
  const { parameters } = await importOnnx(derivedModel(model, nodes, []), { weights: true });
  expect(parameters).toHaveLength(2 + MANY / 2);
  expect(looks).toBeLessThan(150 * MANY);
});

test('weights of one shape are not all compared with each other', () => {
  const bytes = encode({
    outputs: ['y'],
    nodes: [{ opType: 'Add', input: ['w0', 'w1'], output: ['y'] }],
    initializers: [
      // Some differ at their ends, some only between, and two are the same.
      ...list(MANY, (i) => floats(`w${i}`, [1, 2], [i, i + 1])),
      ...list(MANY, (i) => floats(`v${i}`, [1, 3], [1, i, 2])),
      floats('copy', [2, 1], [5, 6]),
    ],
  });
  const model = readOnnxModel(put(folder, 'weights.onnx', bytes), { weights: true });
  let reads = 0;
  const initializers = new Map(
    [...model.initializers].map(([name, tensor]) => [name, watched(tensor, ['readRange'], () => reads++)]),
  );
  const watchedModel: OnnxModel = { ...model, initializers };
  expect(findTiedInitializers(watchedModel)).toEqual([{ a: 'w5', b: 'copy', relation: 'transposed' }]);
  expect(reads).toBeLessThan(200 * MANY);
});
