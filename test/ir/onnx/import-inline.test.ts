/** Functions, branches and caches that an export carries along: gone after import. */
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { describe, expect, test } from 'vitest';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { importOnnx, type Imported } from '../../../src/ir/onnx/import/import.js';
import { printGraph } from '../../../src/ir/text/print.js';
import { put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
let files = 0;

const input = (name: string, elemType: number, dims: readonly (number | string)[]): onnx.IValueInfoProto => ({
  name,
  type: {
    tensorType: {
      elemType,
      shape: { dim: dims.map((d) => (typeof d === 'number' ? { dimValue: d } : { dimParam: d })) },
    },
  },
});
const IDS = input('input_ids', 7, ['batch', 'sequence']);
const floats = (name: string, dims: readonly number[]): onnx.ITensorProto => ({
  name,
  dims: [...dims],
  dataType: 1,
  rawData: raw(Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * i + 1))),
});
const int64s = (name: string, values: readonly number[], scalar = false): onnx.ITensorProto => ({
  name,
  dims: scalar ? [] : [values.length],
  dataType: 7,
  rawData: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});
const flag = (name: string, value: boolean): onnx.ITensorProto => ({
  name,
  dims: [],
  dataType: 9,
  rawData: Uint8Array.of(Number(value)),
});
const n = (
  opType: string,
  inputs: string,
  output: string,
  attribute: readonly onnx.IAttributeProto[] = [],
): onnx.INodeProto => ({
  opType,
  name: `n_${output}`,
  input: inputs.split(' ').filter((name) => name !== ''),
  output: output.split(' '),
  attribute: [...attribute],
});
const axis = (i: number): onnx.IAttributeProto => ({ name: 'axis', type: 2, i });
const branch = (name: string, nodes: readonly onnx.INodeProto[], output: string): onnx.IAttributeProto => ({
  name,
  type: 5,
  g: { name, node: [...nodes], output: [{ name: output }] },
});

interface Text {
  readonly nodes: readonly onnx.INodeProto[];
  readonly inputs?: readonly onnx.IValueInfoProto[];
  readonly functions?: readonly onnx.IFunctionProto[];
  readonly outputs?: readonly string[];
}

const importText = ({
  nodes,
  inputs = [],
  functions = [],
  outputs = ['logits'],
}: Text): Promise<Imported> => {
  const bytes = onnxProto.onnx.ModelProto.encode({
    irVersion: 10,
    opsetImport: [
      { domain: '', version: 20 },
      { domain: 'local', version: 1 },
    ],
    functions: [...functions],
    graph: {
      name: 'g',
      input: [IDS, ...inputs],
      output: outputs.map((name) => ({ name, type: { tensorType: { elemType: 1 } } })),
      node: [n('Gather', 'wte input_ids', 'x'), ...nodes],
      initializer: [
        floats('wte', [16, 4]),
        floats('w', [4, 4]),
        { name: 'low', dims: [], dataType: 1, rawData: raw([-Infinity]) },
        { name: 'fzero', dims: [], dataType: 1, rawData: raw([0]) },
        int64s('zero', [0], true),
        int64s('one', [1], true),
        int64s('two', [2], true),
        int64s('axis0', [0]),
        int64s('axis1', [1]),
        flag('yes', true),
      ],
    },
  }).finish();
  return importOnnx(readOnnxModel(put(folder, `${files++}.onnx`, bytes), { weights: true }), {
    weights: true,
  });
};

/** The graph without where its nodes come from. */
const textOf = ({ graph }: Imported): string => printGraph(graph).replaceAll(/ @"[^"]*"/g, '');

const scale = (name: string): onnx.IFunctionProto => ({
  domain: 'local',
  name,
  input: ['a'],
  output: ['b'],
  attribute: ['axis'],
  opsetImport: [{ domain: '', version: 20 }],
  node: [
    n('MatMul', 'a a2', 'c'),
    { ...n('Softmax', 'c', 'b'), attribute: [{ name: 'axis', type: 2, refAttrName: 'axis' }] },
  ],
});

describe('local functions', () => {
  const inner: onnx.IFunctionProto = {
    ...scale('Inner'),
    input: ['a', 'a2'],
  };
  const outer: onnx.IFunctionProto = {
    domain: 'local',
    name: 'Outer',
    input: ['p', 'q'],
    output: ['r'],
    opsetImport: [
      { domain: '', version: 20 },
      { domain: 'local', version: 1 },
    ],
    node: [{ ...n('Inner', 'p q', 'c', [axis(2)]), domain: 'local' }, n('Relu', 'c', 'r')],
  };

  test('are their bodies, attributes and names put in', async () => {
    const called = await importText({
      functions: [inner, outer],
      nodes: [
        { ...n('Outer', 'x w', 'y'), domain: 'local' },
        { ...n('Outer', 'y w', 'logits'), domain: 'local' },
      ],
    });
    const spelled = await importText({
      nodes: [
        n('MatMul', 'x w', 'a'),
        n('Softmax', 'a', 'b', [axis(2)]),
        n('Relu', 'b', 'c'),
        n('MatMul', 'c w', 'd'),
        n('Softmax', 'd', 'e', [axis(2)]),
        n('Relu', 'e', 'logits'),
      ],
    });
    expect(textOf(called)).toBe(textOf(spelled));
  });

  test('that call themselves are refused', async () => {
    const endless = { ...outer, node: [{ ...n('Outer', 'p q', 'r'), domain: 'local' }] };
    await expect(
      importText({ functions: [endless], nodes: [{ ...n('Outer', 'x w', 'logits'), domain: 'local' }] }),
    ).rejects.toThrow(/Outer node n_logits\/.*nested too deeply, or without end/);
  });

  test('inside each other by the thousand are refused before their names fill the memory', async () => {
    const functions = Array.from({ length: 3000 }, (_, i): onnx.IFunctionProto => ({
      ...outer,
      name: `F${i}`,
      node: [i === 0 ? n('Relu', 'p', 'r') : { ...n(`F${i - 1}`, 'p q', 'r'), domain: 'local' }],
    }));
    await expect(
      importText({ functions, nodes: [{ ...n('F2999', 'x w', 'logits'), domain: 'local' }] }),
    ).rejects.toThrow(/nested too deeply/);
  });
});

describe('branches', () => {
  const either = (condition: string): onnx.INodeProto =>
    n('If', condition, 'y', [
      branch('then_branch', [n('MatMul', 'x w', 'z'), n('Relu', 'z', 'a')], 'a'),
      branch('else_branch', [n('Tanh', 'x', 'a')], 'a'),
    ]);

  test('of a known condition are taken', async () => {
    const taken = await importText({ nodes: [either('yes'), n('Neg', 'y', 'logits')] });
    const spelled = await importText({
      nodes: [n('MatMul', 'x w', 'z'), n('Relu', 'z', 'y'), n('Neg', 'y', 'logits')],
    });
    expect(textOf(taken)).toBe(textOf(spelled));
  });

  test('of a condition on shapes; what they compute may be a mask', async () => {
    const { graph, notes } = await importText({
      nodes: [
        n('Shape', 'x', 'shape'),
        n('Gather', 'shape zero', 'batch', [axis(0)]),
        n('Equal', 'batch one', 'alone'),
        n('Gather', 'shape one', 'length', [axis(0)]),
        n('Range', 'zero length one', 'iota'),
        n('If', 'alone', 'bias', [
          branch(
            'then_branch',
            [
              n('Unsqueeze', 'iota axis1', 'row'),
              n('Unsqueeze', 'iota axis0', 'column'),
              n('LessOrEqual', 'column row', 'seen'),
              n('Where', 'seen fzero low', 'made'),
            ],
            'made',
          ),
          branch('else_branch', [n('Identity', 'x', 'made')], 'made'),
        ]),
        n('Transpose', 'x', 'xt', [{ name: 'perm', type: 7, ints: [0, 2, 1] }]),
        n('MatMul', 'x xt', 'scores'),
        n('Add', 'scores bias', 'masked'),
        n('Softmax', 'masked', 'weights', [axis(-1)]),
        n('MatMul', 'weights x', 'logits'),
      ],
    });
    expect(graph.inputs.map((v) => v.node.attrs['name'])).toContain('mask:causal:additive#0');
    expect(notes).toContain('bias is a causal mask, proved for every length');
  });

  test('within branches read what is around them', async () => {
    const inner = n('If', 'yes', 'deep', [
      branch('then_branch', [n('Relu', 'z', 'b'), n('MatMul', 'b w', 'c')], 'c'),
      branch('else_branch', [n('Neg', 'z', 'c')], 'c'),
    ]);
    const taken = await importText({
      nodes: [
        n('If', 'yes', 'y', [
          branch('then_branch', [n('MatMul', 'x w', 'z'), inner, n('Tanh', 'deep', 'a')], 'a'),
          branch('else_branch', [n('Identity', 'x', 'a')], 'a'),
        ]),
        n('Neg', 'y', 'logits'),
      ],
    });
    const spelled = await importText({
      nodes: [
        n('MatMul', 'x w', 'z'),
        n('Relu', 'z', 'b'),
        n('MatMul', 'b w', 'c'),
        n('Tanh', 'c', 'y'),
        n('Neg', 'y', 'logits'),
      ],
    });
    expect(textOf(taken)).toBe(textOf(spelled));
  });

  test('of a function read what it is given', async () => {
    const chooses: onnx.IFunctionProto = {
      domain: 'local',
      name: 'Choose',
      input: ['condition', 'p'],
      output: ['q'],
      attribute: ['axis'],
      opsetImport: [{ domain: '', version: 20 }],
      node: [
        n('If', 'condition', 'q', [
          branch(
            'then_branch',
            [{ ...n('Softmax', 'p', 'r'), attribute: [{ name: 'axis', type: 2, refAttrName: 'axis' }] }],
            'r',
          ),
          branch('else_branch', [n('Neg', 'p', 'r')], 'r'),
        ]),
      ],
    };
    const called = await importText({
      functions: [chooses],
      nodes: [{ ...n('Choose', 'yes x', 'logits', [axis(2)]), domain: 'local' }],
    });
    const spelled = await importText({ nodes: [n('Softmax', 'x', 'logits', [axis(2)])] });
    expect(textOf(called)).toBe(textOf(spelled));
  });

  test('of another condition are refused by name', async () => {
    await expect(
      importText({
        nodes: [
          n('ReduceMax', 'x', 'most', [{ name: 'keepdims', type: 2, i: 0 }]),
          n('Greater', 'most fzero', 'positive'),
          either('positive'),
          n('Neg', 'y', 'logits'),
        ],
      }),
    ).rejects.toThrow(/If node n_y: its condition 'positive' is not constant/);
  });
});

describe('sequences', () => {
  const new_axis = (i: number): onnx.IAttributeProto => ({ name: 'new_axis', type: 2, i });

  test('of known parts are gone', async () => {
    const listed = await importText({
      nodes: [
        n('SplitToSequence', 'x two', 'parts', [axis(2)]),
        n('SequenceAt', 'parts one', 'second'),
        n('SequenceConstruct', 'second', 'list'),
        n('SequenceAt', 'parts zero', 'first'),
        n('Neg', 'first', 'turned'),
        n('SequenceInsert', 'list turned', 'longer'),
        n('SequenceInsert', 'longer second zero', 'longest'),
        n('SequenceErase', 'longest zero', 'last'),
        n('ConcatFromSequence', 'last', 'logits', [axis(2), new_axis(0)]),
      ],
    });
    const spelled = await importText({
      nodes: [
        n('Split', 'x', 'first second', [axis(2), { name: 'num_outputs', type: 2, i: 2 }]),
        n('Neg', 'first', 'turned'),
        n('Concat', 'second turned', 'logits', [axis(2)]),
      ],
    });
    expect(textOf(listed)).toBe(textOf(spelled));
  });

  test('read at a place that depends on the tokens are refused by name', async () => {
    const nodes = [
      n('SplitToSequence', 'x two', 'parts', [axis(2)]),
      n('ReduceMax', 'input_ids', 'most', [{ name: 'keepdims', type: 2, i: 0 }]),
      n('SequenceAt', 'parts most', 'logits'),
    ];
    await expect(importText({ nodes })).rejects.toThrow(
      /SequenceAt node n_logits: operation SequenceAt is not supported: it makes or reads a sequence/,
    );
  });
});

test.each(['Loop', 'Scan'])('%s is refused by name', async (op) => {
  const body = branch('body', [n('Relu', 'x', 't')], 't');
  await expect(importText({ nodes: [n(op, 'one yes x', 'logits', [body])] })).rejects.toThrow(
    new RegExp(`${op} node n_logits: operation ${op} is not supported: it is control flow`),
  );
});

test('a cache is empty, its outputs and the branch that reads it are left out', async () => {
  const past = input('past_key_values.0.key', 1, ['batch', 'past_length', 4]);
  const [use, outputs] = [input('use_cache_branch', 9, [1]), ['logits', 'present.0.key']];
  const cached = await importText({
    inputs: [past, use],
    outputs,
    nodes: [
      n('Concat', 'past_key_values.0.key x', 'present.0.key', [axis(1)]),
      n('If', 'use_cache_branch', 'y', [
        branch('then_branch', [n('Concat', 'past_key_values.0.key x', 'a', [axis(1)])], 'a'),
        branch('else_branch', [n('MatMul', 'present.0.key w', 'a')], 'a'),
      ]),
      n('Relu', 'y', 'logits'),
    ],
  });
  const plain = await importText({ nodes: [n('MatMul', 'x w', 'y'), n('Relu', 'y', 'logits')] });
  expect(textOf(cached)).toBe(textOf(plain));
  expect(cached.notes).toContain('1 KV cache inputs are taken as empty: training has no cache');
  await expect(
    importText({
      inputs: [input('past_key_values.0.key', 1, ['batch', 16, 4])],
      nodes: [n('Concat', 'past_key_values.0.key x', 'logits', [axis(1)])],
    }),
  ).rejects.toThrow(/input 'past_key_values.0.key' is no KV cache of open length/);
});
