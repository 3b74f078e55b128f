/** Translated operations against onnxruntime. */
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { expect, test } from 'vitest';
import { interpret, meshOf } from '../../../src/ir/interpret.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { evaluateSubgraph } from '../../../src/ir/onnx/evaluate.js';
import { importOnnx } from '../../../src/ir/onnx/import/import.js';
import { tensor } from '../../../src/ir/ops/define.js';
import { put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
const IDS = [3, 0, 7, 7, 1];
const WIDTH = 8;
let files = 0;

type Attribute = number | string | readonly number[];
type NodeText = readonly [
  op: string,
  inputs: string,
  output: string,
  attributes?: Readonly<Record<string, Attribute>>,
];

const attribute = ([name, value]: readonly [string, Attribute]): onnx.IAttributeProto =>
  typeof value === 'string'
    ? { name, type: 3, s: new TextEncoder().encode(value) }
    : typeof value !== 'number'
      ? { name, type: 7, ints: [...value] }
      : Number.isInteger(value)
        ? { name, type: 2, i: value }
        : { name, type: 1, f: value };

/** `ms:` names an operation of ONNX Runtime's own domain. */
const node = ([op, inputs, output, attributes = {}]: NodeText): onnx.INodeProto => ({
  opType: op.replace('ms:', ''),
  domain: op.startsWith('ms:') ? 'com.microsoft' : '',
  name: `n_${output}`,
  input: inputs.split(' ').map((name) => (name === '_' ? '' : name)),
  output: output.split(' ').map((name) => (name === '_' ? '' : name)),
  attribute: Object.entries(attributes).map(attribute),
});
const floats = (name: string, dims: readonly number[], value: (i: number) => number): onnx.ITensorProto => ({
  name,
  dims: [...dims],
  dataType: 1,
  rawData: raw(Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => value(i))),
});
const ints = (name: string, values: readonly number[], scalar = false): onnx.ITensorProto => ({
  name,
  dims: scalar ? [] : [values.length],
  dataType: 7,
  rawData: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});

const causal = (n: number, window = n) =>
  tensor(
    [1, 1, n, n],
    Array.from({ length: n * n }, (_, k) => {
      const [i, j] = [Math.floor(k / n), k % n];
      return j <= i && j > i - window ? 0 : -Infinity;
    }),
  );

/** Nodes from x: f32[1, S, 8] to y: f32[1, S, anything]. */
const CASES: Readonly<Record<string, readonly NodeText[]>> = {
  split: [
    ['Split', 'x three_five', 'a b', { axis: 2 }],
    ['Concat', 'b a', 'y', { axis: -1 }],
  ],
  'equal split': [
    ['Split', 'x', 'a b', { axis: -1, num_outputs: 2 }],
    ['Mul', 'a b', 'y'],
  ],
  'einsum of three': [
    ['Reshape', 'x heads', 'h'],
    ['Einsum', 'h four_four narrow_rows x', 'y', { equation: 'bshd,hd,hk,bsk->bsd' }],
  ],
  'pad features': [
    ['Pad', 'x pads half', 'p'],
    ['Slice', 'p one far two', 'q'],
    ['Pad', 'q cut _ last_axis', 'y'],
  ],
  slice: [['Slice', 'x one far two two', 'y']],
  'gather columns': [['Gather', 'x columns', 'y', { axis: 2 }]],
  'gather one column': [
    ['Gather', 'x last', 'g', { axis: -1 }],
    ['Unsqueeze', 'g two', 'y'],
  ],
  'gather features by constant indices': [
    ['Transpose', 'x', 't', { perm: [2, 0, 1] }],
    ['Unsqueeze', 'columns one', 'c'],
    ['GatherND', 't c', 'g'],
    ['Transpose', 'g', 'y', { perm: [1, 2, 0] }],
  ],
  'gather rows of a table': [
    ['Unsqueeze', 'positions two', 'p'],
    ['GatherND', 'cos p', 'g'],
    ['Concat', 'x g', 'y', { axis: 2 }],
  ],
  'gather elements at positions': [
    ['Unsqueeze', 'sin zero', 's'],
    ['Unsqueeze', 'positions two', 'p'],
    ['Expand', 'p pair', 'e'],
    ['GatherElements', 's e', 'g', { axis: 1 }],
    ['Concat', 'x g', 'y', { axis: 2 }],
  ],
  'ONNX Runtime: gelus': [
    ['ms:FastGelu', 'x bias', 'a'],
    ['ms:BiasGelu', 'a bias', 'b'],
    ['ms:QuickGelu', 'b', 'c', { alpha: 1.5 }],
    ['ms:Gelu', 'c', 'd'],
    ['ms:FastGelu', 'd', 'y'],
  ],
  'ONNX Runtime: products': [
    ['ms:FusedMatMul', 'x w', 'm', { transB: 1, alpha: 0.5 }],
    ['ms:FusedMatMul', 'm x', 'n', { transA: 1 }],
    ['MatMul', 'x n', 'y'],
  ],
  'ONNX Runtime: norms': [
    ['SimplifiedLayerNormalization', 'x bias', 'a', { axis: -1, epsilon: 0.001 }],
    ['ms:SkipSimplifiedLayerNormalization', 'x a bias', 'b _ _ s', { epsilon: 0.001 }],
    ['ms:SkipLayerNormalization', 'b s bias bias bias', 'c _ _ t', { epsilon: 0.001 }],
    ['ms:SkipLayerNormalization', 'c t bias', 'd', { epsilon: 0.001 }],
    ['ms:SkipSimplifiedLayerNormalization', 'd c bias bias', 'y', { epsilon: 0.001 }],
  ],
  'ONNX Runtime: rotary': [
    ['ms:RotaryEmbedding', 'x positions cos sin', 'a'],
    ['ms:RotaryEmbedding', 'a offset cos sin', 'b', { interleaved: 1 }],
    ['ms:RotaryEmbedding', 'b positions cos1 sin1', 'c', { num_heads: 2, rotary_embedding_dim: 2 }],
    ['Reshape', 'c heads', 'h'],
    ['Transpose', 'h', 't', { perm: [0, 2, 1, 3] }],
    ['ms:RotaryEmbedding', 't positions cos sin', 'r'],
    ['Transpose', 'r', 'u', { perm: [0, 2, 1, 3] }],
    ['Reshape', 'u back', 'y'],
  ],
  'ONNX Runtime: attention': [['ms:MultiHeadAttention', 'x x x bias3', 'y', { num_heads: 2, scale: 0.3 }]],
  'ONNX Runtime: causal attention': [
    ['ms:MultiHeadAttention', 'x x x', 'y', { num_heads: 4, unidirectional: 1 }],
  ],
  'ONNX Runtime: grouped attention with rotary': [
    ['Neg', 'x', 'n'],
    ['Concat', 'x n x w_x', 'q', { axis: 2 }],
    ['Concat', 'x w_x', 'kv', { axis: 2 }],
    [
      'ms:GroupQueryAttention',
      'q kv kv _ _ last_key total cos8 sin8',
      'y keys values',
      { num_heads: 2, kv_num_heads: 1, do_rotary: 1 },
    ],
  ],
  'ONNX Runtime: grouped attention with a sink for each head': [
    ['Concat', 'x w_x', 'wide', { axis: 2 }],
    [
      'ms:GroupQueryAttention',
      'wide wide wide _ _ last_key total _ _ _ _ sinks',
      'y keys values',
      { num_heads: 2, kv_num_heads: 2 },
    ],
  ],
  'ONNX Runtime: grouped attention, smooth': [
    ['Concat', 'x w_x', 'wide', { axis: 2 }],
    [
      'ms:GroupQueryAttention',
      'wide wide wide _ _ last_key total',
      'y keys values',
      { num_heads: 2, kv_num_heads: 2, smooth_softmax: 1, local_window_size: 3 },
    ],
  ],
  'ONNX Runtime: grouped attention, packed, in a window, capped': [
    ['Neg', 'x', 'n'],
    ['Concat', 'x w_x n x w_x n x x', 'qkv', { axis: 2 }],
    [
      'ms:GroupQueryAttention',
      'qkv _ _ _ _ last_key total cos8 sin8',
      'y keys values',
      {
        num_heads: 2,
        kv_num_heads: 1,
        local_window_size: 3,
        softcap: 0.75,
        scale: 1.25,
        do_rotary: 1,
        rotary_interleaved: 1,
      },
    ],
  ],
  'writes of known rows': [
    ['Transpose', 'x', 'rows', { perm: [2, 1, 0] }],
    ['Transpose', 'w_x', 'others', { perm: [2, 1, 0] }],
    ['Slice', 'others zero two zero', 'written'],
    ['Unsqueeze', 'three_five one', 'places'],
    ['ScatterND', 'rows places written', 'done'],
    ['Transpose', 'done', 'y', { perm: [2, 1, 0] }],
  ],
  'reads and writes of computed features': [
    ['TopK', 'x two', 'most at', { axis: -1 }],
    ['GatherElements', 'w_x at', 'read', { axis: 2 }],
    ['ScatterElements', 'x at read', 'y', { axis: 2 }],
  ],
  'the places of the largest and the smallest': [
    ['ArgMax', 'w_x', 'high', { axis: -1 }],
    ['ArgMin', 'w_x', 'low', { axis: 2, keepdims: 0 }],
    ['Unsqueeze', 'low minus', 'lowest'],
    ['GatherElements', 'x high', 'a', { axis: 2 }],
    ['GatherElements', 'x lowest', 'b', { axis: 2 }],
    ['Concat', 'a b', 'y', { axis: 2 }],
  ],
  'rows computed for each position, read at the positions': [
    ['Cast', 'iota', 'places', { to: 1 }],
    ['Unsqueeze', 'places one', 'column'],
    ['Mul', 'column bias', 'angles'],
    ['Gather', 'angles positions', 'y'],
  ],
  'writes that are added': [
    ['TopK', 'x two', 'most at', { axis: -1 }],
    ['ScatterElements', 'w_x at most', 'y', { axis: -1, reduction: 'add' }],
  ],
  tile: [['Tile', 'x repeats', 'y']],
  flatten: [
    ['Flatten', 'x', 'f', { axis: 2 }],
    ['Unsqueeze', 'f zero', 'y'],
  ],
  clip: [['Clip', 'x _ half', 'y']],
  gemm: [
    ['Flatten', 'x', 'f', { axis: 2 }],
    ['Gemm', 'f w bias', 'g', { transB: 1, alpha: 0.5, beta: 1.5 }],
    ['Unsqueeze', 'g zero', 'y'],
  ],
  'matmul by a vector': [
    ['MatMul', 'x bias', 'm'],
    ['Unsqueeze', 'm two', 'y'],
  ],
  'batched matmul': [
    ['Transpose', 'x', 't', { perm: [0, 2, 1] }],
    ['MatMul', 't x', 'u'],
    ['MatMul', 'x u', 'y'],
  ],
  reductions: [
    ['ReduceSum', 'x two', 's'],
    ['ReduceMax', 'x two', 'm'],
    ['ReduceMean', 'x two', 'e'],
    ['Sub', 'x s', 'a'],
    ['Mul', 'a m', 'b'],
    ['Add', 'b e', 'y'],
  ],
  comparisons: [
    ['Greater', 'x half', 'g'],
    ['GreaterOrEqual', 'x bias', 'h'],
    ['And', 'g h', 'k'],
    ['Not', 'k', 'l'],
    ['Where', 'l x bias', 'y'],
  ],
  'max of three': [['Max', 'x half bias', 'y']],
  activations: [
    ['Gelu', 'x', 'a', { approximate: 'tanh' }],
    ['Gelu', 'a', 'b'],
    ['Sigmoid', 'b', 'c'],
    ['Tanh', 'c', 'd'],
    ['Erf', 'd', 'e'],
    ['Relu', 'e', 'f'],
    ['Abs', 'f', 'y'],
  ],
  'layer norm without a bias': [['LayerNormalization', 'x bias', 'y', { axis: -1 }]],
  'rms norm': [['RMSNormalization', 'x bias', 'y', { axis: -1, epsilon: 0.001 }]],
  dropout: [['Dropout', 'x', 'y']],
  'shape arithmetic': [
    ['Shape', 'x', 's'],
    ['Gather', 's two', 'width', { axis: 0 }],
    ['Div', 'width two', 'h'],
    ['Concat', 'zero minus h two', 'target', { axis: 0 }],
    ['Reshape', 'x target', 'r'],
    ['Reshape', 'r back', 'y'],
  ],
  'rotary, halves': [
    ['Reshape', 'x heads', 'h'],
    ['Transpose', 'h', 't', { perm: [0, 2, 1, 3] }],
    ['RotaryEmbedding', 't cos sin positions', 'r'],
    ['Transpose', 'r', 'u', { perm: [0, 2, 1, 3] }],
    ['Reshape', 'u back', 'y'],
  ],
  'rotary, interleaved, three dims': [
    ['RotaryEmbedding', 'x cos sin positions', 'y', { interleaved: 1, num_heads: 2 }],
  ],
  'rotary, part of the head': [
    ['RotaryEmbedding', 'x cos1 sin1 positions', 'y', { num_heads: 2, rotary_embedding_dim: 2 }],
  ],
  'attention of three dims': [['Attention', 'x x x', 'y', { q_num_heads: 2, kv_num_heads: 2 }]],
  'causal attention': [['Attention', 'x x x', 'y', { q_num_heads: 2, kv_num_heads: 2, is_causal: 1 }]],
  'grouped attention with a scale': [
    ['MatMul', 'x narrow', 'kv'],
    ['Attention', 'x kv kv', 'y', { q_num_heads: 4, kv_num_heads: 2, scale: 0.25 }],
  ],
};

const POSITIONS: readonly NodeText[] = [
  ['Shape', 'input_ids', 'length', { start: 1, end: 2 }],
  ['Squeeze', 'length', 'count'],
  ['Range', 'z count o', 'iota'],
  ['Unsqueeze', 'iota zero', 'positions'],
  ['Cast', 'count', 'total', { to: 6 }],
  ['Sub', 'length one', 'key_index'],
  ['Cast', 'key_index', 'last_key', { to: 6 }],
];
/** x and what it comes to under a matrix. */
const PRELUDE: readonly NodeText[] = [
  ['Gather', 'wte input_ids', 'x'],
  ['MatMul', 'x w', 'w_x'],
];

test.each(Object.entries(CASES))('%s', async (_, nodes) => {
  const bytes = onnxProto.onnx.ModelProto.encode({
    irVersion: 10,
    opsetImport: [
      { domain: '', version: 23 },
      { domain: 'com.microsoft', version: 1 },
    ],
    graph: {
      name: 'g',
      input: [
        {
          name: 'input_ids',
          type: { tensorType: { elemType: 7, shape: { dim: [{ dimParam: 'b' }, { dimParam: 's' }] } } },
        },
      ],
      output: [{ name: 'y', type: { tensorType: { elemType: 1 } } }],
      node: [...POSITIONS, ...PRELUDE, ...nodes].map((text) => node(text)),
      initializer: [
        floats('wte', [16, WIDTH], (i) => Math.sin(i * i * 0.7)),
        floats('w', [WIDTH, WIDTH], (i) => Math.cos(i * i * 0.3)),
        floats('narrow', [WIDTH, 4], (i) => Math.cos(i * i * 0.9)),
        floats('bias', [WIDTH], (i) => Math.sin(i * 5) / 2),
        floats('half', [], () => 0.5),
        floats('four_four', [2, 4], (i) => Math.sin(i * 3)),
        floats('narrow_rows', [2, WIDTH], (i) => Math.cos(i * 7)),
        floats('sinks', [2], (i) => i - 0.5),
        ...[2, 1, 8].flatMap((width) => [
          floats(width === 2 ? 'cos' : `cos${width}`, [32, width], (i) =>
            Math.cos(Math.floor(i / width) / (1 + (i % width))),
          ),
          floats(width === 2 ? 'sin' : `sin${width}`, [32, width], (i) =>
            Math.sin(Math.floor(i / width) / (1 + (i % width))),
          ),
        ]),
        ints('z', [0], true),
        ints('o', [1], true),
        ints('last', [-1], true),
        ints('zero', [0]),
        ints('one', [1]),
        ints('two', [2]),
        ints('minus', [-1]),
        ints('far', [2 ** 53]),
        ints('three_five', [3, 5]),
        ints('pads', [0, 0, 2, 0, 0, 1]),
        ints('cut', [-3, 2]),
        ints('last_axis', [-1]),
        ints('columns', [6, 7, 0, -2]),
        ints('repeats', [1, 1, 3]),
        ints('pair', [1, 1, 2]),
        ints('offset', [3]),
        floats('bias3', [3 * WIDTH], (i) => Math.cos(i * 3) / 3),
        ints('heads', [0, -1, 2, 4]),
        ints('back', [0, -1, WIDTH]),
      ],
    },
  }).finish();
  const model = readOnnxModel(put(folder, `${files++}.onnx`, bytes), { weights: true });
  const { graph } = await importOnnx(model, { weights: true });
  const ids = { dtype: 'i64', dims: [1, IDS.length], data: BigInt64Array.from(IDS, BigInt) } as const;
  const expected = (await evaluateSubgraph(model, ['y'], new Map([['input_ids', ids]]))).get('y')!;
  const outputs = interpret(
    graph,
    meshOf([1], () => new Map([['S', IDS.length]])),
    (name) => {
      if (name === 'tokens') return tensor([IDS.length], IDS);
      if (name === 'positions')
        return tensor(
          [IDS.length],
          IDS.map((__, i) => i),
        );
      if (name === 'mask:causal:additive#0') return causal(IDS.length);
      if (name === 'mask:window:3:additive#0') return causal(IDS.length, 3);
      const stored = model.initializers.get(name);
      return stored === undefined ? tensor([IDS.length]) : tensor(stored.dims, stored.read().toFloat32());
    },
  );
  const actual = outputs.get('logits')![0]!;
  expect([1, ...actual.shape]).toEqual([...expected.dims]);
  actual.data.forEach((value, i) => expect(Math.abs(value - Number(expected.data[i]))).toBeLessThan(2e-6));
});
