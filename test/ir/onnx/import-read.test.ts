import type { onnx } from 'onnx-proto';
import { describe, expect, test } from 'vitest';
import { chooseLoss } from '../../../src/compile/loss.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { inputName } from '../../../src/ir/graph.js';
import { interpret, meshOf } from '../../../src/ir/interpret.js';
import { importOnnx, type Imported } from '../../../src/ir/onnx/import/import.js';
import { tensor } from '../../../src/ir/ops/define.js';
import { pooledToken, type Pool } from '../../../src/ir/pooled.js';
import { constantOf } from '../../../src/ir/size.js';
import { packDocuments } from '../../../src/runtime/data/pack.js';
import { encode, floats, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();

type Attributes = Readonly<Record<string, number | string | readonly number[]>>;
type Node = readonly [op: string, inputs: string, output: string, attributes?: Attributes];

const TABLE = Array.from({ length: 16 }, (_, i) => ((7 * i) % 16) / 8 - 1);
const HEAD_WEIGHT = [1, 2, 3, 4, 5, 6];
const WIDE = Array.from({ length: 12 }, (_, i) => i);

const attributesOf = (given: Attributes): onnx.IAttributeProto[] =>
  Object.entries(given).map(([name, value]) =>
    typeof value === 'number'
      ? { name, type: 2, i: value }
      : typeof value === 'string'
        ? { name, type: 3, s: Buffer.from(value) }
        : { name, type: 7, ints: [...value] },
  );

const integers = (name: string, values: readonly number[], dims: readonly number[]): onnx.ITensorProto => ({
  name,
  dims: [...dims],
  dataType: 7,
  rawData: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});

const tokens = (name: string): onnx.IValueInfoProto => ({
  name,
  type: { tensorType: { elemType: 7, shape: { dim: [{ dimParam: 'batch' }, { dimParam: 'sequence' }] } } },
});

/** x = table[input_ids], two wide; then `nodes`. */
function importNodes(
  nodes: readonly Node[],
  { outputs = ['logits'], inputs = [] as onnx.IValueInfoProto[] } = {},
): ReturnType<typeof importOnnx> {
  const bytes = encode({
    inputs: [tokens('input_ids'), tokens('attention_mask'), ...inputs],
    outputs,
    nodes: [['Gather', 'table input_ids', 'x', { axis: 0 }] as const, ...nodes].map(
      ([opType, read, output, given]) => ({
        opType,
        name: `n_${output}`,
        input: read.split(' ').map((name) => (name === '-' ? '' : name)),
        output: [output],
        attribute: attributesOf(given ?? {}),
      }),
    ),
    initializers: [
      { name: 'table', dims: [8, 2], dataType: 1, rawData: raw(TABLE) },
      { name: 'head', dims: [2, 3], dataType: 1, rawData: raw(HEAD_WEIGHT) },
      { name: 'narrow', dims: [2, 1], dataType: 1, rawData: raw([1, 2]) },
      { name: 'bias', dims: [1], dataType: 1, rawData: raw([0]) },
      { name: 'tiny', dims: [], dataType: 1, rawData: raw([1e-9]) },
      { name: 'wide', dims: [4, 3], dataType: 1, rawData: raw(WIDE) },
      integers('zero', [0], []),
      integers('one', [1], []),
      integers('special', [3], []),
      integers('axis1', [1], [1]),
      integers('axis2', [2], [1]),
      integers('starts', [-1], [1]),
      integers('big', [2 ** 20, 1, 1, 1], [4]),
      integers('first', [0], [1]),
      integers('ends', [2 ** 40], [1]),
    ],
  });
  return importOnnx(readOnnxModel(put(folder, 'model.onnx', bytes), { weights: true }), {
    weights: true,
    trainable: { include: [], exclude: [] },
  });
}

const HEAD: Node = ['MatMul', 'pooled head', 'logits'];
/** ones of [1, S, 2], and how many there are. */
const MASK: readonly Node[] = [
  ['Unsqueeze', 'attention_mask axis2', 'column'],
  ['Shape', 'x', 'shape'],
  ['Expand', 'column shape', 'all'],
  ['Cast', 'all', 'ones', { to: 1 }],
  ['ReduceSum', 'ones axis1', 'count', { keepdims: 0 }],
];

/** Logits of packed documents at their tokens, [tokens][classes], by the reference interpreter. */
function logitsOf({ graph }: Imported, documents: readonly (readonly number[])[]): number[][] {
  const row = packDocuments(
    documents.map((ids) => ({
      ids: Int32Array.from(ids),
      labels: new Int32Array(ids.length),
      origin: 'test',
    })),
  );
  const weights = new Map([
    ['table', TABLE],
    ['head', HEAD_WEIGHT],
    ['wide', WIDE],
  ]);
  const shapes = new Map(graph.inputs.map((v) => [inputName(v), v.type.dims.map((d) => constantOf(d.size))]));
  const outputs = interpret(
    graph,
    meshOf([1], () => new Map([['S', row.tokens.length]])),
    (name) => {
      const data = weights.get(name) ?? (row as unknown as Record<string, Int32Array>)[name]!;
      return tensor(
        shapes.get(name)!.map((size) => size ?? row.tokens.length),
        data,
      );
    },
  );
  const { data } = outputs.get('logits')![0]!;
  return Array.from(row.tokens, (_, t) => Array.from(data.subarray(3 * t, 3 * t + 3)));
}

/** Σ weight(position) · x over a document. */
const weighted = (ids: readonly number[], weight: (t: number) => number): number[] =>
  [0, 1].map((i) => ids.reduce((sum, id, t) => sum + weight(t) * TABLE[2 * id + i]!, 0));

const timesHead = (x: readonly number[], head: readonly number[]): number[] =>
  [0, 1, 2].map((j) => x.reduce((sum, value, i) => sum + value * head[3 * i + j]!, 0));

describe('the mean over a document', () => {
  const n = (ids: readonly number[]): number => ids.length;
  test.each<[string, readonly Node[], (ids: readonly number[]) => number[]]>([
    [
      'as one node',
      [['ReduceMean', 'x axis1', 'pooled', { keepdims: 0 }], HEAD],
      (ids) => weighted(ids, () => 1 / n(ids)),
    ],
    [
      'as a sum under a mask',
      [
        ...MASK,
        ['Mul', 'x ones', 'masked'],
        ['ReduceSum', 'masked axis1', 'sum', { keepdims: 0 }],
        ['Clip', 'count tiny', 'clipped'],
        ['Div', 'sum clipped', 'pooled'],
        HEAD,
      ],
      (ids) => weighted(ids, () => 1 / n(ids)),
    ],
    [
      'by the root of its length',
      [
        ...MASK,
        ['ReduceSum', 'x axis1', 'sum', { keepdims: 0 }],
        ['Sqrt', 'count', 'root'],
        ['Div', 'sum root', 'pooled'],
        HEAD,
      ],
      (ids) => weighted(ids, () => 1 / Math.sqrt(n(ids))),
    ],
    [
      'with weights that grow with the position',
      [
        ['Shape', 'x', 'shape'],
        ['Gather', 'shape one', 'length', { axis: 0 }],
        ['Add', 'length one', 'end'],
        ['Range', 'one end one', 'range'],
        ['Cast', 'range', 'rising', { to: 1 }],
        ['Unsqueeze', 'rising axis1', 'column'],
        ['Expand', 'column shape', 'weights'],
        ['Mul', 'x weights', 'weighted'],
        ['ReduceSum', 'weighted axis1', 'sum', { keepdims: 0 }],
        ['ReduceSum', 'weights axis1', 'total', { keepdims: 0 }],
        ['Div', 'sum total', 'pooled'],
        HEAD,
      ],
      (ids) => weighted(ids, (t) => (t + 1) / ((n(ids) * (n(ids) + 1)) / 2)),
    ],
    [
      'beside the first token',
      [
        ['ReduceMean', 'x axis1', 'mean', { keepdims: 0 }],
        ['Gather', 'x zero', 'start', { axis: 1 }],
        ['Concat', 'start mean', 'pooled', { axis: 1 }],
        ['MatMul', 'pooled wide', 'logits'],
      ],
      (ids) => [...weighted(ids.slice(0, 1), () => 1), ...weighted(ids, () => 1 / n(ids))],
    ],
  ])('%s', async (name, nodes, expected) => {
    const imported = await importNodes(nodes);
    const { graph, pool } = imported;
    const beside = name === 'beside the first token';
    expect(pool?.kind).toBe(beside ? 'first' : 'mean');
    expect(graph.outputs[0]!.value.type.dims.map(({ size }) => size.key)).toEqual(['S', '3']);
    const documents = [[3, 1, 4], [5], [2, 6, 5, 3, 7, 0]];
    const found = logitsOf(imported, documents);
    let start = 0;
    for (const ids of documents) {
      const own = timesHead(expected(ids), beside ? WIDE : HEAD_WEIGHT);
      found[start]!.forEach((logit, j) => expect(Math.abs(logit - own[j]!)).toBeLessThan(1e-10));
      start += ids.length;
    }
  });

  test('a maximum is refused by name', async () => {
    await expect(importNodes([['ReduceMax', 'x axis1', 'pooled', { keepdims: 0 }], HEAD])).rejects.toThrow(
      /ReduceMax node n_pooled: takes the maximum over the tokens of a document/,
    );
  });
});

test('slices of one token', async () => {
  for (const [start, kind] of [
    ['first', 'first'],
    ['starts', 'last'],
  ] as const) {
    const end = kind === 'first' ? 'axis1' : 'ends';
    const { pool } = await importNodes([
      ['Slice', `x ${start} ${end} axis1`, 'cut'],
      ['Squeeze', 'cut axis1', 'pooled'],
      HEAD,
    ]);
    expect(pool).toEqual({ kind });
  }
});

test('a head of one output trains its bias, even where it is 0', async () => {
  const { parameters, pool, graph } = await importNodes([
    ['ReduceMean', 'x axis1', 'pooled', { keepdims: 0 }],
    ['MatMul', 'pooled narrow', 'product'],
    ['Add', 'product bias', 'logits'],
  ]);
  expect(parameters.find(({ name }) => name === 'bias')).toMatchObject({ trainable: true });
  const { loss, note } = chooseLoss(graph, { pool: pool! }, undefined);
  expect(loss).toEqual({ kind: 'regression', classes: 1, pool: { kind: 'mean' } });
  expect(note).toMatch(/one number from the mean over a document/);
});

/** Positions where `flags` (i64) is 1, else 0. */
const positionsWhere = (flags: string): readonly Node[] => [
  ['Shape', 'input_ids', 'sizes'],
  ['Gather', 'sizes one', 'length', { axis: 0 }],
  ['Range', 'zero length one', 'range'],
  ['Mul', `range ${flags}`, 'scored'],
];
const READ: readonly Node[] = [
  ['ArgMax', 'scored', 'at', { axis: -1, keepdims: 0 }],
  ['Unsqueeze', 'at axis1', 'index'],
  ['GatherND', 'x index', 'pooled', { batch_dims: 1 }],
  HEAD,
];
const IS_SPECIAL: readonly Node[] = [
  ['Equal', 'input_ids special', 'equal'],
  ['Cast', 'equal', 'flags', { to: 7 }],
];

describe('which token a model reads', () => {
  test.each<[Pool, readonly Node[]]>([
    [
      { kind: 'last-except', id: 3 },
      [
        ['Equal', 'input_ids special', 'equal'],
        ['Not', 'equal', 'other'],
        ['Cast', 'other', 'flags', { to: 7 }],
        ...positionsWhere('flags'),
        ...READ,
      ],
    ],
    [{ kind: 'first-of', id: 3 }, [...IS_SPECIAL, ['Identity', 'flags', 'scored'], ...READ]],
    [{ kind: 'largest' }, [['Identity', 'input_ids', 'scored'], ...READ]],
    [
      { kind: 'before-first-of', id: 3 },
      [
        ...IS_SPECIAL,
        ['ArgMax', 'flags', 'found', { axis: -1, keepdims: 0 }],
        ['Sub', 'found one', 'before'],
        ['Unsqueeze', 'before axis1', 'index'],
        ['GatherND', 'x index', 'pooled', { batch_dims: 1 }],
        HEAD,
      ],
    ],
  ])('%j', async (expected, nodes) => {
    const { pool, notes } = await importNodes(nodes);
    expect(pool).toEqual(expected);
    expect(notes.join('\n')).toMatch(/GatherND node n_pooled reads .* as it does in every sequence tried/);
  });

  test('by no known rule: refused', async () => {
    const nodes: readonly Node[] = [...IS_SPECIAL, ...positionsWhere('input_ids'), ...READ];
    await expect(importNodes(nodes)).rejects.toThrow(
      /GatherND node n_pooled: reads a token that its ids choose by no known rule/,
    );
  });

  test('tokens of documents', () => {
    const at = (kind: Pool['kind'], ...ids: number[]): number => pooledToken(ids, { kind, id: 3 });
    expect(at('last-except', 1, 2, 3, 3)).toBe(1);
    expect(at('last-except', 3, 3)).toBe(0);
    expect(at('first-of', 1, 3, 3)).toBe(1);
    expect(at('first-of', 1, 2)).toBe(0);
    expect(at('before-first-of', 1, 2, 3)).toBe(1);
    expect(at('before-first-of', 1, 2)).toBe(1);
    expect(at('before-first-of', 3, 2)).toBe(1);
    expect(at('largest', 1, 7, 7, 2)).toBe(1);
    expect(at('mean', 1, 2)).toBe(0);
    expect(at('last', 1, 2)).toBe(1);
  });
});

describe('a loss of the model’s own', () => {
  const LABELS = [tokens('labels')];
  const ALL: Node = ['MatMul', 'x head', 'logits'];
  /** Logits as ONNX's loss takes them: [batch, classes, sequence]. */
  const lossOf = (attributes: Attributes): readonly Node[] => [
    ALL,
    ['Transpose', 'logits', 'turned', { perm: [0, 2, 1] }],
    ['SoftmaxCrossEntropyLoss', 'turned labels', 'loss', { ignore_index: -100, ...attributes }],
  ];
  const BOTH = { outputs: ['loss', 'logits'], inputs: LABELS };

  test('the mean cross entropy of aligned labels', async () => {
    const { ownLoss, graph } = await importNodes(lossOf({ reduction: 'mean' }), BOTH);
    expect(ownLoss).toMatchObject({ output: 'loss', kind: 'aligned', logits: 'logits' });
    const { loss, note } = chooseLoss(graph, { ownLoss: ownLoss! }, undefined);
    // Three classes for a vocabulary of eight are no ids.
    expect(loss.kind).toBe('token-classification');
    expect(note).toMatch(/the loss is the model's own, its output 'loss': the mean cross entropy/);
  });

  test('behind it the logits are found where they are no output', async () => {
    const { ownLoss, graph } = await importNodes(lossOf({ reduction: 'mean' }), {
      outputs: ['loss'],
      inputs: LABELS,
    });
    expect(ownLoss).toMatchObject({ kind: 'aligned' });
    expect(graph.outputs[0]!.value.type.dims.map(({ size }) => size.key)).toEqual(['S', '3']);
  });

  test('another one is refused, unless the config chooses', async () => {
    const { ownLoss, graph } = await importNodes(lossOf({ reduction: 'sum' }), BOTH);
    expect(() => chooseLoss(graph, { ownLoss: ownLoss! }, undefined)).toThrow(
      /the model's own loss, its output 'loss', is not recognised: on 2 sequences of 2 tokens it is/,
    );
    const { loss, note } = chooseLoss(graph, { ownLoss: ownLoss! }, { kind: 'next-token' });
    expect(loss.kind).toBe('next-token');
    expect(note).toMatch(/its output 'loss', is left out: the config chooses next-token/);
  });

  test('one without labels is refused', async () => {
    const { ownLoss } = await importNodes([ALL, ['ReduceMean', 'logits', 'loss', { keepdims: 0 }]], {
      outputs: ['loss', 'logits'],
    });
    expect(ownLoss).toMatchObject({ unknown: 'it has no labels' });
  });

  test('one that would fill the memory is not evaluated', async () => {
    const { ownLoss } = await importNodes(
      [
        ALL,
        ['Mul', 'big big', 'bigger'],
        ['Expand', 'logits bigger', 'endless'],
        ['ReduceMean', 'endless', 'mean', { keepdims: 0 }],
        ['Cast', 'labels', 'numbers', { to: 1 }],
        ['ReduceMean', 'numbers', 'other', { keepdims: 0 }],
        ['Sub', 'mean other', 'loss'],
      ],
      BOTH,
    );
    expect(ownLoss).toMatchObject({
      unknown: expect.stringMatching(/cannot be evaluated .* too much/) as string,
    });
  });

  test('mean squared errors of sequences', async () => {
    const { ownLoss, pool } = await importNodes(
      [
        ['ReduceMean', 'x axis1', 'pooled', { keepdims: 0 }],
        HEAD,
        ['Sub', 'logits labels', 'error'],
        ['Mul', 'error error', 'squares'],
        ['ReduceMean', 'squares', 'loss', { keepdims: 0 }],
      ],
      { outputs: ['loss', 'logits'], inputs: [floats('labels', ['batch', 3])] },
    );
    expect(pool).toEqual({ kind: 'mean' });
    expect(ownLoss).toMatchObject({ kind: 'regression' });
  });

  test.each([
    [
      'of too few dims',
      1,
      ['batch'],
      /^no loss that ithaca has compares \[batch, 3\] with labels f32\[batch\]$/,
    ],
    ['in half precision', 10, ['batch', 'classes'], /cannot be evaluated \(values of type f16/],
    ['as bytes', 2, ['batch'], /cannot be evaluated \(values of type u8/],
    ['as text', 8, ['batch'], /cannot be evaluated \(values of type string/],
    ['of no type', 0, ['batch'], /with labels of no type\[batch\]$/],
  ])('labels %s', async (_, elemType, dims, why) => {
    const shape = { dim: dims.map((dimParam) => ({ dimParam })) };
    const { ownLoss } = await importNodes(
      [
        ['ReduceMean', 'x axis1', 'pooled', { keepdims: 0 }],
        HEAD,
        ['Cast', 'labels', 'numbers', { to: 1 }],
        ['Sub', 'logits numbers', 'error'],
        ['Mul', 'error error', 'squares'],
        ['ReduceMean', 'squares', 'loss', { keepdims: 0 }],
      ],
      {
        outputs: ['loss', 'logits'],
        inputs: [{ name: 'labels', type: { tensorType: { elemType, shape } } }],
      },
    );
    expect(ownLoss).toMatchObject({ unknown: expect.stringMatching(why) as string });
  });
});
