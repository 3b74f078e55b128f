/** Models that test/fuzz found to take the compiler down, each as small as it goes. */
import { describe, expect, test } from 'vitest';
import type { onnx } from 'onnx-proto';
import { UserError } from '../../../src/errors.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { numbersOf } from '../../../src/ir/onnx/import/distance.js';
import { importOnnx } from '../../../src/ir/onnx/import/import.js';
import { encode, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();

const node = (
  opType: string,
  input: string,
  output: string,
  attribute: onnx.IAttributeProto[] = [],
): onnx.INodeProto => ({ opType, name: `n_${output}`, input: input.split(' '), output: [output], attribute });

const int = (name: string, i: number): onnx.IAttributeProto => ({ name, type: 2, i });

const ints = (name: string, values: readonly bigint[], scalar = false): onnx.ITensorProto => ({
  name,
  dims: scalar ? [] : [values.length],
  dataType: 7,
  rawData: new Uint8Array(BigInt64Array.from(values).buffer),
});

const floats = (name: string, dims: readonly number[]): onnx.ITensorProto => ({
  name,
  dims: [...dims],
  dataType: 1,
  rawData: raw(Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => i % 3)),
});

/** logits = wte[tokens] · head + (a value made of the row numbers `iota`: i64[S]) as float. */
function modelOf(
  middle: readonly onnx.INodeProto[],
  constants: readonly onnx.ITensorProto[] = [],
  result = 'made',
): Uint8Array {
  const ids = {
    name: 'input_ids',
    type: { tensorType: { elemType: 7, shape: { dim: [{ dimValue: 1 }, { dimParam: 's' }] } } },
  };
  return encode({
    inputs: [ids],
    outputs: ['logits'],
    nodes: [
      node('Shape', 'input_ids', 'length1', [int('start', 1), int('end', 2)]),
      node('Squeeze', 'length1', 'length'),
      node('Range', 'zero length one', 'iota'),
      ...middle,
      node('Cast', result, 'float', [int('to', 1)]),
      node('Unsqueeze', 'float last', 'column'),
      node('Gather', 'wte input_ids', 'x'),
      node('Add', 'x column', 'y'),
      node('MatMul', 'y head', 'logits'),
    ],
    initializers: [
      ints('zero', [0n], true),
      ints('one', [1n], true),
      ints('last', [1n]),
      floats('wte', [7, 4]),
      floats('head', [4, 7]),
      ...constants,
    ],
  });
}

async function refusal(bytes: Uint8Array): Promise<UserError> {
  try {
    await importOnnx(readOnnxModel(put(folder, 'hostile.onnx', bytes), { weights: true }), { weights: true });
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error('the model was accepted');
}

test('the frame itself is accepted', async () => {
  const model = readOnnxModel(put(folder, 'fine.onnx', modelOf([], [], 'iota')), { weights: true });
  expect((await importOnnx(model, { weights: true })).parameters.length).toBe(2);
});

describe('division that takes the process down', () => {
  const least = ints('least', [-(2n ** 63n)], true);
  test.each([
    ['by -1', [node('Add', 'iota least', 'low'), node('Div', 'low minus', 'made')]],
    ['modulo -1', [node('Add', 'iota least', 'low'), node('Mod', 'low minus', 'made')]],
    ['by a value', [node('Sub', 'iota iota', 'none'), node('Div', 'iota none', 'made')]],
  ])('%s', async (_, middle) => {
    const error = await refusal(modelOf(middle, [least, ints('minus', [-1n], true)]));
    expect(error.message).toMatch(/divides integers by '\w+', which may be 0 or -1/);
  });

  test('by a positive constant it is evaluated', async () => {
    const bytes = modelOf([node('Div', 'iota one', 'made')]);
    const model = readOnnxModel(put(folder, 'fine.onnx', bytes), { weights: true });
    expect((await importOnnx(model, { weights: true })).parameters.length).toBe(2);
  });
});

describe('work that would not end', () => {
  const reduced = (name: string) => [
    node('ReduceMax', name, 'most', [int('keepdims', 0)]),
    node('CastLike', 'most iota', 'whole'),
    node('Add', 'iota whole', 'made'),
  ];

  test('products of large constants', async () => {
    const products = Array.from({ length: 40 }, (_, i) => node('MatMul', `p${i} p0`, `p${i + 1}`));
    const middle = [node('Expand', 'float0 square', 'p0'), ...products, ...reduced('p40')];
    const error = await refusal(modelOf(middle, [floats('float0', []), ints('square', [1024n, 1024n])]));
    expect(error.message).toMatch(/would compute too much/);
  });

  test('hundreds of values of 32 MiB, all held', async () => {
    const values = Array.from({ length: 200 }, (_, i) => node('Expand', `zero size`, `v${i}`));
    const sums = values.map((_, i) => node('Add', `s${i} v${i}`, `s${i + 1}`));
    const middle = [...values, node('Identity', 'v0', 's0'), ...sums, ...reduced('s200')];
    const error = await refusal(modelOf(middle, [ints('size', [2n ** 22n])]));
    expect(error.message).toMatch(/would compute too much/);
  });

  test.each([2n ** 40n, 2n ** 62n])('a tensor of %i elements', async (size) => {
    const error = await refusal(
      modelOf([node('Expand', 'zero size', 'v'), ...reduced('v')], [ints('size', [size])]),
    );
    expect(error).toBeInstanceOf(UserError);
  });

  test('a tensor of a negative size', async () => {
    const middle = [node('ConstantOfShape', 'size', 'v'), ...reduced('v')];
    const error = await refusal(modelOf(middle, [ints('size', [-5n])]));
    expect(error.message).toMatch(/makes a tensor of shape \[-5\]/);
  });

  test('powers of the length', async () => {
    const squares = Array.from({ length: 30 }, (_, i) => node('Mul', `q${i} q${i}`, `q${i + 1}`));
    const middle = [
      node('Add', 'length1 last', 'q0'),
      ...squares,
      node('ConstantOfShape', 'q30', 'v'),
      ...reduced('v'),
    ];
    expect((await refusal(modelOf(middle))).message).toMatch(/shape depends on|polynomial|overflows/);
  });
});

describe('operands', () => {
  test.each([
    ['a missing one', node('Add', 'iota', 'made'), /has 1 operands, expected 2/],
    ['none', { ...node('Max', 'iota', 'made'), input: [] }, /has no operands/],
    ['one too many', node('Sub', 'iota iota iota', 'made'), /has 3 operands, expected 2/],
  ])('%s', async (_, middle, message) => {
    expect((await refusal(modelOf([middle]))).message).toMatch(message);
  });
});

test('positions beyond the table, for every length', async () => {
  const far = [node('Add', 'iota hundred', 'far'), node('Gather', 'table far', 'made')];
  const error = await refusal(modelOf(far, [ints('hundred', [100n], true), floats('table', [7])]));
  expect(error.message).toMatch(/takes no document: .* -93 rows/);
});

test('a local function that redefines an operation', async () => {
  const onnxProto = (await import('onnx-proto')).default;
  const model = onnxProto.onnx.ModelProto.decode(modelOf([], [], 'iota'));
  model.functions = [
    onnxProto.onnx.FunctionProto.create({
      name: 'Add',
      input: ['a', 'b'],
      output: ['a'],
      opsetImport: [{ domain: '', version: 17 }],
    }),
  ];
  expect((await refusal(onnxProto.onnx.ModelProto.encode(model).finish())).message).toMatch(
    /redefines an operation/,
  );
});

test.each(['documents', 'labels', 'lr', 'mask:causal#0', 'grad/wte'])(
  'a parameter called %s, as inputs of programs are',
  async (name) => {
    const table = [node('Gather', `${name} input_ids`, 'entry'), node('Reshape', 'entry length1', 'made')];
    const error = await refusal(modelOf(table, [floats(name, [7])]));
    expect(error.message).toContain(`a parameter is called '${name}'`);
  },
);

test('numbers too large to be counted one by one', () => {
  const data = new BigInt64Array(4_000_000).fill(3n);
  const began = performance.now();
  expect(numbersOf(data).length).toBe(data.length);
  expect(performance.now() - began).toBeLessThan(2000);
});

test('messages stay on one line, whatever the names', async () => {
  const name = 'a\nb\u001b[2J\u2028'.repeat(2000);
  const { message } = await refusal(modelOf([{ ...node('Evil', 'iota', 'made'), opType: name }]));
  for (const character of ['\n', '\u001b', '\u2028']) expect(message).not.toContain(character);
  expect(message.length).toBeLessThan(2100);
});

test('a KV cache in half precision among what is evaluated', async () => {
  const onnxProto = (await import('onnx-proto')).default;
  const middle = [
    node('Cast', 'past_key', 'cache', [int('to', 1)]),
    node('ReduceSum', 'cache', 'nothing', [int('keepdims', 0)]),
    node('Cast', 'nothing', 'count', [int('to', 7)]),
    node('Add', 'iota count', 'made'),
  ];
  const model = onnxProto.onnx.ModelProto.decode(modelOf(middle));
  const dim = [{ dimParam: 'b' }, { dimValue: 2 }, { dimParam: 'past' }, { dimValue: 4 }];
  model.graph!.input!.push({ name: 'past_key', type: { tensorType: { elemType: 10, shape: { dim } } } });
  const bytes = onnxProto.onnx.ModelProto.encode(model).finish();
  await importOnnx(readOnnxModel(put(folder, 'hostile.onnx', bytes), { weights: true }), { weights: true });
});
