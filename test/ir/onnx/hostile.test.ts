import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { constantTensor } from '../../../src/ir/onnx/attribute.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { torchName } from '../../../src/ir/onnx/names.js';
import { findTiedInitializers } from '../../../src/ir/onnx/tied.js';
import {
  concat,
  encodeField,
  encodeString,
  encodeVarint,
  encodeVarintField,
} from '../../../src/ir/onnx/wire.js';
import { encode, floats, product, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
const real = readFileSync('test/models/gpt2-ts/model.onnx');

/** Reads everything a model offers; the UserError it ends with, if any. Other errors pass through. */
function readAll(bytes: Uint8Array): UserError | undefined {
  try {
    const model = readOnnxModel(put(folder, 'hostile.onnx', bytes), { weights: true });
    const constants = model.nodes.flatMap((node) => constantTensor(node) ?? []);
    for (const tensor of [...model.initializers.values(), ...constants]) tensor.read().toFloat64();
    for (const name of model.initializers.keys()) torchName(model, name);
    findTiedInitializers(model);
    return undefined;
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
}

function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

test('a truncated file is called so', () => {
  for (let step = 0; step < 100; step++) {
    const cut = Math.floor((real.length * step) / 100);
    const error = readAll(real.subarray(0, cut));
    expect(error?.message, `cut at ${cut}`).toMatch(cut === 0 ? /is empty/ : /truncated|not an ONNX file/);
  }
  expect(readAll(real.subarray(0, real.length - 1000))?.message).toMatch(/truncated/);
});

test('flipped bytes are read or refused', () => {
  const next = random(1);
  // Most of a file is weights: flips are aimed at the graph as well.
  for (let round = 0; round < 80; round++) {
    const bytes = Uint8Array.from(real);
    const span = round % 2 === 0 ? bytes.length : 150_000;
    for (let flip = 0; flip < 1 + (round % 5); flip++)
      bytes[Math.floor(next() * span)] = Math.floor(next() * 256);
    readAll(bytes);
  }
});

test('flipped bytes of a small file, every one of them', () => {
  const bytes = product({ rawData: raw([1, 2, 3, 4, 5, 6]) });
  for (let at = 0; at < bytes.length; at++) {
    for (const value of [0, 1, 0x7f, 0x80, 0xff, (bytes[at] ?? 0) ^ 8]) {
      const copy = Uint8Array.from(bytes);
      copy[at] = value;
      readAll(copy);
    }
  }
});

test('random bytes and other formats are no ONNX files', () => {
  const next = random(2);
  for (let round = 0; round < 200; round++) {
    const bytes = Uint8Array.from({ length: 1 + Math.floor(next() * 300) }, () => Math.floor(next() * 256));
    expect(readAll(bytes)?.message).toMatch(/ONNX file/);
  }
  for (const text of [
    '# a README\n',
    '{"json": true}',
    'PK\u0003\u0004',
    '\0'.repeat(100),
    'hello world, this is text',
  ]) {
    expect(readAll(new TextEncoder().encode(text))?.message).toMatch(/ONNX file/);
  }
});

describe('bombs', () => {
  const wrap = (levels: number, inner: Uint8Array, fields: readonly number[]) => {
    let body = inner;
    for (let level = 0; level < levels; level++) body = encodeField(fields[level % fields.length] ?? 1, body);
    return body;
  };

  test.each([100, 5000])('graphs nested %i deep', (levels) => {
    // graph.node.attribute.g.node.attribute.g…
    const bytes = encodeField(7, wrap(levels * 3, new Uint8Array(0), [6, 5, 1]));
    expect(readAll(bytes)?.message).toMatch(/nested deeper/);
  });

  test('types nested deep', () => {
    const type = wrap(2000, new Uint8Array(0), [1, 4]);
    expect(readAll(encodeField(7, encodeField(11, encodeField(2, type))))?.message).toMatch(/nested deeper/);
  });

  test('groups are refused', () => {
    expect(readAll(new Uint8Array(100_000).fill((3 << 3) | 3))?.message).toMatch(/not an ONNX file/);
  });

  test('millions of empty nodes', () => {
    const bytes = encodeField(
      7,
      new Uint8Array(9_000_000).map((_, index) => (index % 2 === 0 ? 10 : 0)),
    );
    expect(readAll(bytes)?.message).toMatch(/too large/);
  });

  test.each([
    [[-1, 3], /size of -1/],
    [[2 ** 40, 2 ** 40], /absurd/],
    [[2 ** 31, 2 ** 31, 2], /absurd/],
    [[2 ** 20, 2 ** 20], /stores 24 bytes/],
    [[0, 2 ** 52, 2 ** 52], /stores 24 bytes/],
    [[2, 4], /needs 32/],
    [[], /needs 4/],
  ])('dims %j', (dims, message) => {
    expect(readAll(product({ dims, rawData: raw([1, 2, 3, 4, 5, 6]) }))?.message).toMatch(message);
  });

  test.each([
    [{ floatData: [1, 2, 3] }, /stores 3 values/],
    [{ int64Data: [1, 2, 3, 4, 5, 6] }, /in field 7/],
    [{ floatData: [1], rawData: raw([1, 2, 3, 4, 5, 6]) }, /twice/],
    [{ dataType: 99, rawData: raw([1]) }, /unknown element type 99/],
    [{ dataType: 0 }, /unknown element type 0/],
    [{}, /stores 0 bytes/],
  ])('tensor %j', (tensor, message) => {
    expect(readAll(product(tensor))?.message).toMatch(message);
  });

  test('a packed number that runs out of its field', () => {
    const ints = concat([encodeVarint(8 * 8 + 2), encodeVarint(1), Uint8Array.of(0xff)]);
    const node = concat([encodeString(4, 'Op'), encodeField(5, ints)]);
    expect(readAll(encodeField(7, encodeField(1, node)))?.message).toMatch(/not an ONNX file/);
  });
});

describe('structure', () => {
  const x = floats('x', [2]);
  const node = (input: string[], output: string[], name = '') => ({ opType: 'Add', input, output, name });
  test.each([
    ['no outputs', { outputs: [], nodes: [] }, /no outputs/],
    ['output undefined', { nodes: [] }, /'y', which nothing produces/],
    ['operand undefined', { inputs: [x], nodes: [node(['x', 'q'], ['y'])] }, /Add#0 \(Add\) reads 'q'/],
    [
      'cycle',
      { inputs: [x], nodes: [node(['x', 'b'], ['a'], 'n1'), node(['a', 'x'], ['b', 'y'], 'n2')] },
      /n1 \(Add\) reads 'b' before node n2 produces it/,
    ],
    ['value twice', { inputs: [x], nodes: [node(['x'], ['y']), node(['x'], ['y'])] }, /already defined/],
    ['input twice', { inputs: [x, x], nodes: [node(['x'], ['y'])] }, /'x' twice/],
    ['shadowing', { inputs: [x], nodes: [node(['x'], ['x', 'y'])] }, /already defined/],
  ])('%s', (_, small, message) => {
    expect(readAll(encode(small))?.message).toMatch(message);
  });

  test('names such as __proto__ are harmless', () => {
    const bytes = encode({
      inputs: [floats('__proto__', [1])],
      nodes: [{ opType: 'Neg', input: ['__proto__'], output: ['constructor'] }, node(['constructor'], ['y'])],
      initializers: [{ name: 'toString', dims: [1], dataType: 1, rawData: raw([3]) }],
    });
    expect(readAll(bytes)).toBeUndefined();
  });

  test('sparse initializers, two graphs, folders', () => {
    const graph = concat([encodeField(15, new Uint8Array(0)), encodeString(2, 'g')]);
    const head = concat([encodeVarintField(1, 8), encodeField(8, encodeVarintField(2, 20))]);
    expect(readAll(concat([head, encodeField(7, graph)]))?.message).toMatch(/sparse/);
    expect(readAll(concat([encodeField(7, graph), encodeField(7, graph)]))?.message).toMatch(/second graph/);
    mkdirSync(join(folder, 'dir'));
    expect(() => readOnnxModel(join(folder, 'dir'), { weights: true })).toThrow(/not a regular file/);
    expect(() => readOnnxModel(join(folder, 'none'), { weights: true })).toThrow(/no such file/);
    expect(() => readOnnxModel('bad\0name', { weights: true })).toThrow(/no such file/);
  });
});
