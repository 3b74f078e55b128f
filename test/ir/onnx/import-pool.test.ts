import { expect, test } from 'vitest';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { importOnnx } from '../../../src/ir/onnx/import/import.js';
import { encode, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();

type Node = readonly [op: string, inputs: string, output: string, axis?: number];

/** x = table[input_ids], two wide; then `nodes`, of which the last is called logits. */
function importNodes(name: string, nodes: readonly Node[]): ReturnType<typeof importOnnx> {
  const ids = ['batch', 'sequence'].map((dimParam) => ({ dimParam }));
  const number = (value: bigint): Uint8Array => new Uint8Array(BigInt64Array.of(value).buffer);
  const bytes = encode({
    inputs: [{ name: 'input_ids', type: { tensorType: { elemType: 7, shape: { dim: ids } } } }],
    outputs: ['logits'],
    nodes: [['Gather', 'table input_ids', 'x', 0] as const, ...nodes].map(
      ([opType, inputs, output, axis]) => ({
        opType,
        name: `n_${output}`,
        input: inputs.split(' '),
        output: [output],
        attribute: axis === undefined ? [] : [{ name: 'axis', type: 2, i: axis }],
      }),
    ),
    initializers: [
      { name: 'table', dims: [8, 2], dataType: 1, rawData: raw(Array.from({ length: 16 }, Math.sqrt)) },
      { name: 'head', dims: [2, 3], dataType: 1, rawData: raw([1, 2, 3, 4, 5, 6]) },
      { name: 'wide', dims: [4, 3], dataType: 1, rawData: raw(Array.from({ length: 12 }, (_, i) => i)) },
      { name: 'zero', dims: [], dataType: 7, rawData: number(0n) },
      { name: 'minus', dims: [], dataType: 7, rawData: number(-1n) },
      { name: 'two', dims: [], dataType: 7, rawData: number(2n) },
    ],
  });
  return importOnnx(readOnnxModel(put(folder, name, bytes), { weights: true }), {
    weights: true,
    trainable: { include: [], exclude: [] },
  });
}

const FIRST: Node = ['Gather', 'x zero', 'first', 1];
const LAST: Node = ['Gather', 'x minus', 'last', 1];

test.each([
  ['first', [FIRST, ['Tanh', 'first', 'y'], ['MatMul', 'y head', 'logits']]],
  ['last', [LAST, ['MatMul', 'last head', 'logits']]],
  ['first', [FIRST, ['Concat', 'first first', 'y', 1], ['MatMul', 'y wide', 'logits']]],
  [
    'first',
    [
      ['MatMul', 'x head', 'y'],
      ['Gather', 'y zero', 'logits', 1],
    ],
  ],
  [undefined, [['MatMul', 'x head', 'logits']]],
] as const)('logits of the %s token: %j', async (pool, nodes) => {
  const imported = await importNodes('good.onnx', nodes);
  expect(imported.pool?.kind).toBe(pool);
  const { dims } = imported.graph.outputs[0]!.value.type;
  expect(dims.map(({ size }) => size.key)).toEqual(['S', '3']);
});

test.each<[string, readonly Node[], RegExp]>([
  [
    'added to every token',
    [FIRST, ['Add', 'x first', 'y'], ['MatMul', 'y head', 'logits']],
    /n_y: puts all tokens and the first token of a document together/,
  ],
  [
    'of both ends',
    [FIRST, LAST, ['Concat', 'first last', 'y', 1], ['MatMul', 'y wide', 'logits']],
    /n_y: puts the first token of a document and the last token of a document together/,
  ],
  [
    'another than first and last',
    [
      ['Gather', 'x two', 'y', 1],
      ['MatMul', 'y head', 'logits'],
    ],
    /expected logits \[1, S, vocabulary\]/,
  ],
])('a pooled value %s is refused', async (_, nodes, message) => {
  await expect(importNodes('bad.onnx', nodes)).rejects.toThrow(message);
});
