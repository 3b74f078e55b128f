/** Models in half, brain and double precision: weights are widened or rounded to float32 exactly, and trained so. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { describe, expect, test } from 'vitest';
import { compileModel } from '../../../src/compile/compile.js';
import { configSchema } from '../../../src/config.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { codeOfDtype } from '../../../src/ir/onnx/dtype.js';
import { numberToBf16, numberToF16 } from '../../../src/ir/onnx/half.js';
import {
  concat,
  encodeField,
  encodeString,
  encodeVarint,
  encodeVarintField,
} from '../../../src/ir/onnx/wire.js';
import { openPackage } from '../../../src/package/read.js';
import type { OnnxInitializer } from '../../../src/ir/onnx/model.js';
import { printGraph } from '../../../src/ir/text/print.js';
import { lowered, weightsOf } from '../../support/lowered.js';
import { external, put, temporaryFolder } from './build.js';

const folder = temporaryFolder();
type Float = 'f32' | 'f16' | 'bf16' | 'f64';
/** raw_data, the typed field, or another file. */
type Place = 'raw' | 'field' | 'external';

const [VOCABULARY, WIDTH] = [12, 4];

/** Exact in every type: few bits, small exponents. */
const plain = (count: number, seed: number): number[] =>
  Array.from({ length: count }, (_, i) => (((i * 37 + seed * 11) % 29) - 14) / 8);

function bytesOf(dtype: Float, values: readonly number[]): Uint8Array {
  const array =
    dtype === 'f32'
      ? Float32Array.from(values)
      : dtype === 'f64'
        ? Float64Array.from(values)
        : Uint16Array.from(values, dtype === 'f16' ? numberToF16 : numberToBf16);
  return new Uint8Array(array.buffer);
}

function stored(
  name: string,
  dims: number[],
  values: readonly number[],
  dtype: Float,
  place: Place,
): onnx.ITensorProto {
  const tensor = { name, dims, dataType: codeOfDtype(dtype) };
  const bytes = bytesOf(dtype, values);
  if (place === 'raw') return { ...tensor, rawData: bytes };
  if (place === 'field') return { ...tensor, int32Data: [...new Uint16Array(bytes.buffer)] };
  return { ...tensor, ...external({ location: `${name}.bin`, offset: '0', length: `${bytes.length}` }) };
}

/** logits = norm(relu(wte[ids]·w)·scale) · headᵀ, all in one element type. */
function write(name: string, dtype: Float, place: Place = 'raw', w = plain(WIDTH * WIDTH, 2)): string {
  const own = path.join(folder, name);
  mkdirSync(own);
  const weights = {
    wte: [[VOCABULARY, WIDTH], plain(VOCABULARY * WIDTH, 1)],
    w: [[WIDTH, WIDTH], w],
    gamma: [[WIDTH], plain(WIDTH, 3)],
    beta: [[WIDTH], plain(WIDTH, 4)],
    head: [[WIDTH, VOCABULARY], plain(WIDTH * VOCABULARY, 5)],
    scale: [[], [0.5]],
  } as const;
  const node = (opType: string, input: string[], output: string): onnx.INodeProto => ({
    opType,
    name: output,
    input,
    output: [output],
  });
  if (place === 'external')
    for (const [key, [, values]] of Object.entries(weights)) put(own, `${key}.bin`, bytesOf(dtype, values));
  put(
    own,
    'model.onnx',
    onnxProto.onnx.ModelProto.encode({
      irVersion: 8,
      opsetImport: [{ domain: '', version: 20 }],
      graph: {
        name: 'g',
        input: [
          {
            name: 'input_ids',
            type: { tensorType: { elemType: 7, shape: { dim: [{ dimParam: 'b' }, { dimParam: 's' }] } } },
          },
        ],
        output: [{ name: 'logits', type: { tensorType: { elemType: codeOfDtype(dtype) } } }],
        node: [
          node('Gather', ['wte', 'input_ids'], 'x'),
          node('MatMul', ['x', 'w'], 'y'),
          node('Relu', ['y'], 'r'),
          node('Mul', ['r', 'scale'], 's'),
          node('LayerNormalization', ['s', 'gamma', 'beta'], 'n'),
          node('MatMul', ['n', 'head'], 'logits'),
        ],
        initializer: Object.entries(weights).map(([key, [dims, values]]) =>
          stored(key, [...dims], values, dtype, place),
        ),
      },
    }).finish(),
  );
  return own;
}

async function compiled(
  own: string,
): Promise<{ program: string; weights: Map<string, number[]>; notes: string }> {
  const model = await lowered(own);
  const graph = model.graphs.get('train')!;
  return {
    program: printGraph(graph),
    weights: new Map([...weightsOf(own, graph)].map(([name, { data }]) => [name, Array.from(data)])),
    notes: model.manifest.notes.join('\n'),
  };
}

describe('a model', () => {
  const single = compiled(write('f32', 'f32'));

  test.each([
    ['f16', 'raw'],
    ['f16', 'field'],
    ['f16', 'external'],
    ['bf16', 'raw'],
    ['bf16', 'field'],
    ['bf16', 'external'],
    ['f64', 'raw'],
    ['f64', 'external'],
  ] as const)('in %s (%s) is the program and the weights of the one in float32', async (dtype, place) => {
    const model = await compiled(write(`${dtype}-${place}`, dtype, place));
    expect(model.program).toBe((await single).program);
    expect(model.weights).toEqual((await single).weights);
    expect(model.notes).toMatch(/5 parameters are stored in another precision and trained in float32/);
  });
});

test.each([
  ['f16', [2 ** -24, -(2 ** -24), 1023 * 2 ** -24, 2 ** -14, -0, 65504, Infinity, NaN]],
  [
    'bf16',
    [2 ** -133, -(127 * 2 ** -133), 2 ** -126, 1 + 2 ** -7, -0, 3.3895313892515355e38, -Infinity, NaN],
  ],
] as const)('subnormal, largest and other numbers of %s are exact', async (dtype, special) => {
  const values = [...special, ...plain(8, 6)];
  const { weights } = await compiled(write(`special-${dtype}`, dtype, 'raw', values));
  expect(weights.get('w')).toEqual(values);
});

test.each(['f16', 'bf16'] as const)('a package holds weights in typed fields of %s', async (dtype) => {
  const own = write(`package-${dtype}`, dtype, 'field');
  const out = path.join(own, 'model.ithaca');
  const config = configSchema.parse({});
  await compileModel(path.join(own, 'model.onnx'), out, { config, weights: true, replace: false });
  const pkg = await openPackage(out);
  const { weights } = await compiled(own);
  for (const [name, values] of weights) {
    expect(pkg.parameter(name).weight.kind).toBe('safetensors');
    expect(Array.from(pkg.readParameter(name))).toEqual(values);
  }
});

/** A float16 tensor `w` in typed fields that are written by hand: protobuf libraries pack them. */
function typed(name: string, count: number, data: Uint8Array): OnnxInitializer {
  const tensor = concat([
    encodeVarintField(1, count),
    encodeVarintField(2, codeOfDtype('f16')),
    encodeString(8, 'w'),
    data,
  ]);
  const node = concat([encodeString(1, 'w'), encodeString(2, 'y'), encodeString(4, 'Identity')]);
  const graph = concat([encodeField(1, node), encodeField(5, tensor), encodeField(12, encodeString(1, 'y'))]);
  const opset = encodeField(8, encodeVarintField(2, 20));
  const file = put(folder, name, concat([encodeVarintField(1, 8), opset, encodeField(7, graph)]));
  return readOnnxModel(file, { weights: true }).initializers.get('w')!;
}

test('any part of a typed field is that part of the whole', () => {
  const values = Array.from({ length: 70_001 }, (_, i) => (i * 2654435761) % 65_536);
  const whole = new Uint8Array(Uint16Array.from(values).buffer);
  const numbers = values.map((value) => encodeVarint(value));
  const packed = encodeField(5, concat(numbers));
  const apart = concat(numbers.flatMap((number) => [encodeVarint(5 * 8), number]));
  for (const [name, data] of Object.entries({ packed, apart })) {
    const w = typed(`${name}.onnx`, values.length, data);
    const parts = [
      [140_000, 2],
      [0, 140_002],
      [70_001, 33_333],
      [3, 0],
      [5, 100],
      [140_001, 1],
    ] as const;
    for (const [start, length] of parts)
      expect(Buffer.compare(w.readRange(start, length), whole.subarray(start, start + length))).toBe(0);
  }
});

test('a typed field with a number that does not end is refused', () => {
  const endless = encodeField(5, concat([new Uint8Array(20_000).fill(0x80), Uint8Array.of(1)]));
  const w = typed('endless.onnx', 1, endless);
  expect(() => w.read()).toThrow(/number of more than 10 bytes/);
});

test('a double beyond float32 is rounded to the nearest', () => {
  const values = [1 + 2 ** -24 + 2 ** -40, 1 / 3, 1e-46, ...plain(13, 6)];
  const file = path.join(write('rounded', 'f64', 'raw', values), 'model.onnx');
  const w = readOnnxModel(file, { weights: true }).initializers.get('w')!;
  expect([...w.read().toFloat32()]).toEqual(values.map(Math.fround));
});
