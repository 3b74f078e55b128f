import { describe, expect, test } from 'vitest';
import type { onnx } from 'onnx-proto';
import { inputName, topologicalOrder } from '../../../src/ir/graph.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { importOnnx, type ImportOptions } from '../../../src/ir/onnx/import/import.js';
import { encode, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
let files = 0;

type NodeText = readonly [
  op: string,
  inputs: string,
  output: string,
  attributes?: Readonly<Record<string, number>>,
];

const node = ([opType, inputs, output, attributes = {}]: NodeText): onnx.INodeProto => ({
  opType,
  name: `n_${output}`,
  input: inputs.split(' '),
  output: output.split(' '),
  attribute: Object.entries(attributes).map(([name, value]) => ({ name, type: 2, i: value })),
});

const ints = (name: string, values: readonly number[], scalar = false): onnx.ITensorProto => ({
  name,
  dims: scalar ? [] : [values.length],
  dataType: 7,
  rawData: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});
const floatsOf = (
  name: string,
  dims: readonly number[],
  value: (i: number) => number,
): onnx.ITensorProto => ({
  name,
  dims: [...dims],
  dataType: 1,
  rawData: raw(Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => value(i))),
});
const ids = (name: string, dims: readonly (number | string)[]): onnx.IValueInfoProto => ({
  name,
  type: {
    tensorType: {
      elemType: 7,
      shape: { dim: dims.map((d) => (typeof d === 'number' ? { dimValue: d } : { dimParam: d })) },
    },
  },
});

/** Row numbers [S, 1], column numbers [1, S], constants c and two. */
const PRELUDE: readonly NodeText[] = [
  ['Shape', 'input_ids', 'shape', { start: 1, end: 2 }],
  ['Squeeze', 'shape', 'length'],
  ['Range', 'zero length one', 'iota'],
  ['Unsqueeze', 'iota axis1', 'row'],
  ['Unsqueeze', 'iota axis0', 'column'],
  ['Gather', 'wte input_ids', 'x'],
];
/** x, mixed under `mask`, scored. */
const ATTENTION: readonly NodeText[] = [
  ['Transpose', 'x', 'xt', {}],
  ['MatMul', 'x xt', 'scores'],
  ['Where', 'mask fzero low', 'bias'],
  ['Add', 'scores bias', 'masked'],
  ['Softmax', 'masked', 'weights', { axis: -1 }],
  ['MatMul', 'weights x', 'mixed'],
  ['MatMul', 'mixed head', 'logits'],
];

interface Case {
  readonly nodes: readonly NodeText[];
  readonly c?: number;
  readonly inputs?: readonly onnx.IValueInfoProto[];
  readonly tables?: readonly onnx.ITensorProto[];
  readonly options?: Partial<ImportOptions>;
}

const importCase = ({ nodes, c = 1, inputs, tables = [], options = {} }: Case) => {
  const flipped = nodes.map((text): onnx.INodeProto =>
    text[0] === 'Transpose'
      ? { ...node(text), attribute: [{ name: 'perm', type: 7, ints: [0, 2, 1] }] }
      : node(text),
  );
  const bytes = encode({
    inputs: inputs ?? [ids('input_ids', ['batch', 'sequence'])],
    outputs: ['logits'],
    nodes: flipped,
    initializers: [
      ...[
        ['zero', 0],
        ['one', 1],
        ['two', 2],
        ['c', c],
      ].map(([name, value]) => ints(name as string, [value as number], true)),
      ints('axis0', [0]),
      ints('axis1', [1]),
      ints('start', [0]),
      floatsOf('fzero', [], () => 0),
      floatsOf('low', [], () => -3.4028234663852886e38),
      floatsOf('wte', [16, 4], (i) => Math.sin(i * i)),
      floatsOf('head', [4, 16], (i) => Math.cos(i * i)),
      ...tables,
    ],
  });
  const model = readOnnxModel(put(folder, `${files++}.onnx`, bytes), { weights: true });
  return importOnnx(model, { weights: true, ...options });
};

const withMask = (...nodes: readonly NodeText[]) => [...PRELUDE, ...nodes, ...ATTENTION];
const WINDOW: readonly NodeText[] = [
  ['LessOrEqual', 'column row', 'causal'],
  ['Sub', 'row c', 'first'],
  ['Greater', 'column first', 'near'],
  ['And', 'causal near', 'mask'],
];

const masksOf = (imported: Awaited<ReturnType<typeof importOnnx>>): string[] =>
  imported.graph.inputs.filter((v) => v.node.attrs['form'] === 'mask').map(inputName);

describe('masks', () => {
  test('causal, however it is spelled', async () => {
    for (const [op, operands] of [
      ['LessOrEqual', 'column row'],
      ['GreaterOrEqual', 'row column'],
    ] as const) {
      const imported = await importCase({ nodes: withMask([op, operands, 'mask']) });
      expect(masksOf(imported)).toEqual(['mask:causal:additive#0']);
      expect(imported.provenLength).toBeUndefined();
    }
  });

  test('a condition that is true where a key is hidden', async () => {
    const nodes = withMask(['Greater', 'column row', 'later']).filter(([, , out]) => out !== 'bias');
    const imported = await importCase({
      nodes: nodes.map((n) => (n[2] === 'masked' ? ['Where', 'later low scores', 'masked'] : n)),
    });
    expect(masksOf(imported)).toEqual(['mask:causal:bool#0']);
  });

  test('a table of slopes times distances, cut at its end, bounds the length', async () => {
    const table = floatsOf('table', [2, 1, 32], (i) => ((i % 32) - 31) / 2 ** (1 + Math.floor(i / 32)));
    const nodes: readonly NodeText[] = [
      ...PRELUDE,
      ['Sub', 'rows length', 'from'],
      ['Max', 'from zero', 'clipped'],
      ['Reshape', 'clipped minus', 'first'],
      ['Slice', 'table first far axis2', 'bias'],
      ['Transpose', 'x', 'xt', {}],
      ['MatMul', 'x xt', 'scores'],
      ['Add', 'scores bias', 'biased'],
      ['LessOrEqual', 'column row', 'mask'],
      ['Where', 'mask biased low', 'masked'],
      ['Softmax', 'masked', 'weights', { axis: -1 }],
      ['MatMul', 'weights x', 'mixed'],
      ['ReduceSum', 'mixed axis0', 'summed'],
      ['MatMul', 'summed head', 'logits'],
    ];
    const imported = await importCase({
      nodes,
      tables: [
        table,
        ints('rows', [32], true),
        ints('minus', [-1]),
        ints('far', [2 ** 53]),
        ints('axis2', [2]),
      ],
    });
    expect(masksOf(imported)).toEqual(['distance:end#0', 'mask:causal:bool#1']);
    expect(imported.graph.inputs.find((v) => inputName(v) === 'distance:end#0')!.node.attrs).toMatchObject({
      factors: [0.5, 0.25],
    });
    expect(imported.maxPositions).toBe(32);
  });

  test.each([16, 100, 4096])('a window of %i is not causal', async (c) => {
    const imported = await importCase({ nodes: withMask(...WINDOW), c });
    expect(masksOf(imported)).toEqual([`mask:window:${c}:additive#0`]);
    expect(imported.provenLength).toBeUndefined();
  });

  test.each([16, 1000])(
    'a window of %i both ways, by the distance of tokens, for every length',
    async (c) => {
      const imported = await importCase({
        nodes: withMask(
          ['Sub', 'row column', 'difference'],
          ['Abs', 'difference', 'distance'],
          ['LessOrEqual', 'distance c', 'mask'],
        ),
        c,
      });
      expect(masksOf(imported)).toEqual([`mask:window:${c + 1}:${c}:additive#0`]);
      expect(imported.provenLength).toBeUndefined();
    },
  );

  test('a mask that is subtracted', async () => {
    const nodes = withMask(
      ['LessOrEqual', 'column row', 'mask'],
      ['Cast', 'mask', 'ones', { to: 1 }],
      ['Sub', 'fone ones', 'hidden'],
      ['Mul', 'hidden large', 'penalty'],
    );
    const imported = await importCase({
      nodes: nodes
        .filter(([, , out]) => out !== 'bias')
        .map((text) => (text[2] === 'masked' ? ['Sub', 'scores penalty', 'masked'] : text)),
      tables: [floatsOf('fone', [], () => 1), floatsOf('large', [], () => 1e10)],
    });
    expect(masksOf(imported)).toEqual(['mask:causal:additive#0']);
    expect(imported.notes).toContainEqual('penalty is a causal mask, proved for every length');
  });

  const distances: readonly NodeText[] = [
    ['LessOrEqual', 'column row', 'mask'],
    ['Sub', 'column row', 'difference'],
    ['Cast', 'difference', 'between', { to: 1 }],
    ['Abs', 'between', 'far'],
  ];
  const added = (...nodes: readonly NodeText[]): readonly NodeText[] =>
    withMask(...distances, ...nodes, ['Add', 'scores offset', 'nearer']).map((text) =>
      text[2] === 'masked' ? (['Add', 'nearer bias', 'masked'] as const) : text,
    );
  // The sum follows the scores.
  const inOrder = (nodes: readonly NodeText[]): readonly NodeText[] => {
    const at = nodes.findIndex(([, , out]) => out === 'nearer');
    const rest = nodes.toSpliced(at, 1);
    return rest.toSpliced(rest.findIndex(([, , out]) => out === 'scores') + 1, 0, nodes[at]!);
  };

  test('a function of the distance, up to the lengths tried', async () => {
    const imported = await importCase({ nodes: inOrder(added(['Sqrt', 'far', 'offset'])) });
    const found = imported.graph.inputs.find((v) => v.node.attrs['kind'] === 'relative')!;
    const { before, count, table } = found.node.attrs as Record<string, number> & { table: number[] };
    expect(table).toHaveLength(count!);
    expect(imported.provenLength).toBe(before! + 1);
    for (const offset of [-before!, -3, 0, 1, before!])
      expect(table[offset + before!]).toBeCloseTo(Math.sqrt(Math.abs(offset)), 5);
  });

  test('a function of the distance that is level far away is a short table', async () => {
    const imported = await importCase({
      nodes: inOrder(added(['Min', 'far limit', 'near'], ['Mul', 'near near', 'offset'])),
      tables: [floatsOf('limit', [], () => 7)],
    });
    const found = imported.graph.inputs.find((v) => v.node.attrs['kind'] === 'relative')!;
    expect(found.node.attrs).toMatchObject({ before: 7, count: 15 });
    expect((found.node.attrs['table'] as number[]).slice(0, 3)).toEqual([49, 36, 25]);
  });

  describe('positions counted from the tokens', () => {
    const counted: readonly NodeText[] = [
      ['Equal', 'input_ids c', 'padded'],
      ['Not', 'padded', 'real'],
      ['Cast', 'real', 'ones', { to: 7 }],
      ['CumSum', 'ones one', 'count'],
      ['Mul', 'count ones', 'kept'],
      ['Add', 'kept c', 'places'],
      ['Gather', 'wpe places', 'p'],
      ['Add', 'x p', 'y'],
      ['LessOrEqual', 'column row', 'mask'],
    ];
    const nodes = [
      ...PRELUDE,
      ...counted,
      ...ATTENTION.map(([op, inputs, ...rest]): NodeText => [op, inputs.replace(/\bx\b/g, 'y'), ...rest]),
    ];
    const wpe = floatsOf('wpe', [32, 4], (i) => Math.sin(3 * i * i));

    test.each([0, 1, 5])('are positions + %i + 1 in documents without that token', async (c) => {
      const imported = await importCase({ nodes, c, tables: [wpe] });
      expect(imported.padding).toEqual([c]);
      expect(imported.provenLength).toBeUndefined();
      expect(imported.maxPositions).toBe(32 - c - 1);
      expect(imported.notes).toContainEqual(`places is positions + ${c + 1}, proved for every length`);
    });

    test('a comparison of tokens that is not counted stays one', async () => {
      const compared = nodes.map(([op, inputs, ...rest]): NodeText =>
        op === 'CumSum' ? ['Identity', inputs.split(' ')[0]!, ...rest] : [op, inputs, ...rest],
      );
      const imported = await importCase({ nodes: compared, tables: [wpe] });
      expect(imported.padding).toBeUndefined();
      expect(topologicalOrder(imported.graph).map(({ op }) => op)).toContain('equal');
    });
  });

  test('what changes with the length holds up to there', async () => {
    const imported = await importCase({
      nodes: [
        ...PRELUDE,
        ['ReduceMax', 'iota', 'most', { keepdims: 0 }],
        ['Greater', 'most c', 'long'],
        ['Where', 'long ftwo fone', 'factor'],
        ['Mul', 'x factor', 'scaled'],
        ['LessOrEqual', 'column row', 'mask'],
        ...ATTENTION.map(([op, inputs, ...rest]): NodeText => [
          op,
          inputs.replace('x xt', 'scaled xt'),
          ...rest,
        ]),
      ],
      c: 40,
      tables: [floatsOf('fone', [], () => 1), floatsOf('ftwo', [], () => 2)],
    });
    expect(imported.provenLength).toBe(41);
    expect(imported.notes).toContainEqual('factor is constant 1, proved up to 41 tokens');
  });

  test('a form found by arithmetic with no proof holds up to the lengths tried', async () => {
    const imported = await importCase({
      nodes: withMask(
        ['Mul', 'row two', 'row2'],
        ['Mul', 'column two', 'column2'],
        ['LessOrEqual', 'column2 row2', 'mask'],
      ),
    });
    expect(masksOf(imported)).toEqual(['mask:causal:additive#0']);
    expect(imported.provenLength).toBeGreaterThan(1000);
    expect(imported.notes.join()).toContain(`proved up to ${imported.provenLength} tokens`);
  });

  test('a mask that sees everything is a constant', async () => {
    const imported = await importCase({
      nodes: withMask(['Add', 'row column', 'sum'], ['GreaterOrEqual', 'sum zero', 'mask']),
    });
    expect(masksOf(imported)).toEqual([]);
  });

  test('any other pattern is refused, saying where it differs', async () => {
    await expect(importCase({ nodes: withMask(['LessOrEqual', 'row column', 'mask']) })).rejects.toThrow(
      /LessOrEqual node n_mask: 'mask' is not recognised.*query 0 sees the later key 1/,
    );
    await expect(importCase({ nodes: withMask(['Less', 'column row', 'mask']) })).rejects.toThrow(
      /query 0 does not see key 0/,
    );
    const chunks: readonly NodeText[] = [
      ['Div', 'row c', 'rowChunk'],
      ['Div', 'column c', 'columnChunk'],
      ['Equal', 'rowChunk columnChunk', 'same'],
      ['LessOrEqual', 'column row', 'causal'],
      ['And', 'same causal', 'mask'],
    ];
    await expect(importCase({ nodes: withMask(...chunks), c: 12 })).rejects.toThrow(/not recognised/);
    // One chunk is causal: so far, and no further.
    const imported = await importCase({ nodes: withMask(...chunks), c: 40 });
    expect(masksOf(imported)).toEqual(['mask:causal:additive#0']);
    expect(imported.provenLength).toBe(40);
  });
});

describe('positions', () => {
  const learned = (table: onnx.ITensorProto, ...nodes: readonly NodeText[]) =>
    importCase({
      nodes: [
        ...PRELUDE.slice(0, 3),
        ['Gather', 'wte input_ids', 'e'],
        ...nodes,
        ['Add', 'e p', 'x'],
        ['MatMul', 'x head', 'logits'],
      ],
      tables: [table],
    });
  const table = (value: (p: number, column: number) => number) =>
    floatsOf('table', [32, 4], (i) => value(Math.floor(i / 4), i % 4));
  const random = table((p, column) => Math.sin(p * p * 7 + column * 3.3));

  test('a learned table is trained and bounds the positions, its offset taken off', async () => {
    const imported = await learned(random, ['Add', 'iota two', 'at'], ['Gather', 'table at', 'p']);
    expect(imported.maxPositions).toBe(30);
    expect(imported.parameters.find((p) => p.name === 'table')).toMatchObject({
      trainable: true,
      shape: [32, 4],
    });
    expect(imported.notes.join()).toContain('positions + 2');
  });

  test('a table cut at the length is read at positions', async () => {
    const imported = await learned(random, ['Slice', 'table start shape axis0', 'p']);
    expect(imported.maxPositions).toBe(32);
    expect(
      topologicalOrder(imported.graph).some(
        (n) => n.op === 'gather' && inputName(n.operands[0]!) === 'table',
      ),
    ).toBe(true);
  });

  test('cosines and sines are not trained, whatever else is', async () => {
    const sinusoid = table((p, column) => (column < 2 ? Math.cos : Math.sin)(p * 10 ** -(column % 2)));
    const info = (await learned(sinusoid, ['Gather', 'table iota', 'p'])).parameters.find(
      (p) => p.name === 'table',
    );
    expect(info).toMatchObject({ trainable: false, reason: 'a table of cosines and sines' });
    const nearly = table((p, column) =>
      p === 31 && column === 3 ? 0.5 : (column < 2 ? Math.cos : Math.sin)(p * 10 ** -(column % 2)),
    );
    const other = (await learned(nearly, ['Gather', 'table iota', 'p'])).parameters.find(
      (p) => p.name === 'table',
    );
    expect(other?.trainable).toBe(true);
  });
});

describe('parameters', () => {
  const nodes: readonly NodeText[] = [
    ['Gather', 'wte input_ids', 'x'],
    ['MatMul', 'x head', 'logits'],
  ];
  const trained = async (trainable: ImportOptions['trainable']) =>
    (await importCase({ nodes, options: { trainable } })).parameters
      .filter((p) => p.trainable)
      .map((p) => p.name);

  test('patterns overrule the rule, include before exclude', async () => {
    expect(await trained(undefined)).toEqual(expect.arrayContaining(['wte', 'head']));
    expect(await trained({ exclude: ['wt*'] })).toEqual(['head']);
    expect(await trained({ exclude: ['*'], include: ['wte'] })).toEqual(['wte']);
    await expect(trained({ exclude: ['lm_head.*'] })).rejects.toThrow(/no parameter is called 'lm_head/);
  });
});

describe('refusals name what would fix them', () => {
  const nodes: readonly NodeText[] = [
    ['Gather', 'wte input_ids', 'x'],
    ['MatMul', 'x head', 'logits'],
  ];
  test.each([
    [{ nodes, inputs: [ids('input_ids', ['batch', 128])] }, /sequence frozen at 128/],
    [{ nodes, inputs: [ids('input_ids', [2, 'sequence'])] }, /batch frozen at 2/],
    [
      {
        nodes: [['Identity', 'pixel_values', 'y'], ...nodes, ['Add', 'logits y', 'z']],
        inputs: [ids('input_ids', ['b', 's']), ids('pixel_values', ['b', 's'])],
      },
      undefined,
    ],
    [
      {
        nodes: [
          ['Gather', 'wte input_ids', 'x'],
          ['LRN', 'x', 'y'],
          ['MatMul', 'y head', 'logits'],
        ],
      },
      /LRN node n_y: operation LRN is not supported: it works on neighbourhoods/,
    ],
    [
      {
        nodes: [
          ['Gather', 'wte ids', 'x'],
          ['MatMul', 'x head', 'logits'],
        ],
        inputs: [ids('ids', ['b', 's'])],
      },
      /input 'ids' is unknown/,
    ],
    [
      {
        nodes: [
          ['Gather', 'wte input_ids', 'x'],
          ['MatMul', 'x wte', 'logits'],
        ],
      },
      /MatMul node n_logits: multiplies \[1, S, 4\] by \[16, 4\]/,
    ],
    [
      {
        nodes: [
          ['Gather', 'wte input_ids', 'x'],
          ['ReduceMean', 'x axis1', 'm', { keepdims: 1 }],
          ['Sub', 'x m', 'y'],
          ['MatMul', 'y head', 'logits'],
        ],
      },
      /n_y: puts all tokens and the mean over a document together/,
    ],
  ] as readonly (readonly [Case, RegExp | undefined])[])('%#', async (bad, message) => {
    if (message === undefined) await expect(importCase(bad)).resolves.toBeDefined();
    else
      await expect(importCase(bad)).rejects.toMatchObject({
        name: 'UserError',
        message: expect.stringMatching(message) as string,
        hint: expect.any(String) as string,
      });
  });
});
