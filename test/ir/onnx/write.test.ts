import { copyFileSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { describe, expect, test } from 'vitest';
import { constantTensor } from '../../../src/ir/onnx/attribute.js';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { weightValues, writeTrainedModel } from '../../../src/ir/onnx/write.js';
import { concat, encodeField, encodeString, encodeVarintField } from '../../../src/ir/onnx/wire.js';
import { encode, external, floats, product, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
const read = (path: string) => readOnnxModel(path, { weights: true });
const values = (array: readonly number[]) => weightValues(Float32Array.from(array));

async function runProduct(path: string): Promise<number[]> {
  const session = await InferenceSession.create(path, { logSeverityLevel: 4 });
  const results = await session.run({ x: new Tensor('float32', [1, 10], [1, 2]) });
  return Array.from(results['y']?.data ?? [], Number);
}

describe('gpt2, weights inline', () => {
  const source = 'test/models/gpt2/model.onnx';

  test('every byte outside the patched ranges stays', () => {
    const model = read(source);
    const names = ['transformer.wpe.weight', 'lm_head.weight'];
    const halved = (name: string) =>
      (model.initializers.get(name)?.read().toFloat32() ?? new Float32Array(0)).map((value) => value / 2);
    const weights = new Map(names.map((name) => [name, weightValues(halved(name))]));
    const out = join(folder, 'gpt2.onnx');
    writeTrainedModel(source, out, weights);
    const before = readFileSync(source);
    const after = readFileSync(out);
    expect(after.length).toBe(before.length);
    for (const name of names) {
      const location = model.initializers.get(name)?.location;
      if (location?.kind !== 'inline') throw new Error('inline expected');
      before.fill(0, location.offset, location.offset + location.length);
      after.fill(0, location.offset, location.offset + location.length);
      expect(read(out).initializers.get(name)?.read().toFloat32()).toEqual(halved(name));
    }
    expect(after.equals(before)).toBe(true);
  });

  test('onnxruntime runs the trained copy: a head scaled by 2 scales the logits by 2', async () => {
    const head = 'transformer.ln_f';
    const model = read(source);
    const doubled = [`${head}.weight`, `${head}.bias`].map((name) => {
      const old = model.initializers.get(name)?.read().toFloat32() ?? new Float32Array(0);
      return [name, weightValues(old.map((value) => value * 2))] as const;
    });
    const out = join(folder, 'doubled.onnx');
    writeTrainedModel(source, out, new Map(doubled));
    const logits = async (path: string) => {
      const session = await InferenceSession.create(path, { logSeverityLevel: 4, intraOpNumThreads: 1 });
      const ids = new Tensor('int64', BigInt64Array.of(1n, 20n, 300n), [1, 3]);
      const results = await session.run({
        input_ids: ids,
        attention_mask: new Tensor('int64', BigInt64Array.of(1n, 1n, 1n), [1, 3]),
      });
      return Array.from(results['logits']?.data ?? [], Number);
    };
    const before = await logits(source);
    expect(before.length).toBe(3 * 512);
    expect(await logits(out)).toEqual(before.map((value) => value * 2));
  });

  test('without weights the copy is the source', () => {
    const out = join(folder, 'copy.onnx');
    writeTrainedModel(source, out, new Map());
    expect(readFileSync(out).equals(readFileSync(source))).toBe(true);
  });

  test('a failure leaves nothing behind', () => {
    const inner = join(folder, 'empty');
    mkdirSync(inner);
    const failing = {
      elements: read(source).initializers.get('lm_head.weight')?.elementCount ?? 0,
      read: () => {
        throw new Error('no');
      },
    };
    const out = join(inner, 'm.onnx');
    expect(() => writeTrainedModel(source, out, new Map([['lm_head.weight', failing]]))).toThrow('no');
    expect(() => writeTrainedModel(source, out, new Map([['lm_head.weight', values([1])]]))).toThrow(
      /1 elements/,
    );
    expect(() => writeTrainedModel(source, out, new Map([['nope', values([1])]]))).toThrow(/no initializer/);
    expect(readdirSync(inner)).toEqual([]);
    expect(() => writeTrainedModel(source, source, new Map())).toThrow(/source model itself/);
    expect(() => writeTrainedModel(source, join(inner, 'x', 'm.onnx'), new Map())).toThrow(/no such file/);
  });
});

const unpackedFloats = (list: readonly number[]) =>
  concat(list.map((value) => concat([Uint8Array.of((4 << 3) | 5), raw([value])])));

/** A product model written by hand, with fields no schema knows, and `w` as unpacked float_data. */
function handWritten(): Uint8Array {
  const unknown = encodeString(900, 'kept as it is');
  const w = concat([
    unknown,
    encodeVarintField(1, 2),
    encodeVarintField(1, 3),
    unpackedFloats([1, 2, 3]),
    encodeVarintField(2, 1),
    unpackedFloats([4, 5, 6]),
    encodeString(8, 'w'),
  ]);
  const value = (name: string) =>
    concat([encodeString(1, name), encodeField(2, encodeField(1, encodeVarintField(1, 1)))]);
  const graph = concat([
    encodeField(
      1,
      concat([encodeString(1, 'x'), encodeString(1, 'w'), encodeString(2, 'y'), encodeString(4, 'MatMul')]),
    ),
    encodeString(2, 'g'),
    encodeField(5, w),
    unknown,
    encodeField(11, value('x')),
    encodeField(12, value('y')),
  ]);
  return concat([
    encodeVarintField(1, 8),
    unknown,
    encodeField(7, graph),
    encodeField(8, encodeVarintField(2, 20)),
  ]);
}

const u16 = (list: readonly number[]) => new Uint8Array(Uint16Array.from(list).buffer);
const STORED = {
  'raw float32': product({ rawData: raw([1, 2, 3, 4, 5, 6]) }),
  'packed float_data': product({ floatData: [1, 2, 3, 4, 5, 6] }),
  'unpacked float_data among unknown fields': handWritten(),
};

describe.each(Object.entries(STORED))('%s', (name, bytes) => {
  test('onnxruntime runs the model with the new weights', async () => {
    const source = put(folder, `${name}.onnx`, bytes);
    expect(await runProduct(source)).toEqual([41, 52, 63]);
    const out = join(folder, `${name}-out.onnx`);
    writeTrainedModel(source, out, new Map([['w', values([6, 5, 4, 3, 2, 1])]]));
    expect(await runProduct(out)).toEqual([36, 25, 14]);
    const count = (data: Uint8Array) => Buffer.from(data).toString('latin1').split('kept as it is').length;
    expect(count(readFileSync(out))).toBe(count(bytes));
  });
});

test('the lengths around a rewritten tensor may change their own width', () => {
  // 25 unpacked floats take 125 bytes; as raw data the tensor shrinks below 128, a one-byte length.
  const list = Array.from({ length: 25 }, (_, index) => index + 1);
  const w = concat([
    encodeVarintField(1, 25),
    encodeVarintField(2, 1),
    unpackedFloats(list),
    encodeString(8, 'w'),
  ]);
  const value = concat([encodeString(1, 'w'), encodeField(2, encodeField(1, encodeVarintField(1, 1)))]);
  const graph = concat([encodeString(2, 'g'), encodeField(5, w), encodeField(12, value)]);
  const bytes = concat([
    encodeVarintField(1, 8),
    encodeField(7, graph),
    encodeField(8, encodeVarintField(2, 20)),
  ]);
  const source = put(folder, 'shrink.onnx', bytes);
  const out = join(folder, 'shrunk.onnx');
  writeTrainedModel(source, out, new Map([['w', values(list.map((x) => -x))]]));
  expect([...(read(out).initializers.get('w')?.read().toFloat32() ?? [])]).toEqual(list.map((x) => -x));
  expect(readFileSync(out).length).toBeLessThan(bytes.length - 20);
});

test('and grow', () => {
  const half = { dataType: 10, dims: [60], int32Data: Array.from({ length: 60 }, () => 1) };
  const bytes = encode({
    nodes: [{ opType: 'Cast', input: ['w'], output: ['y'], attribute: [{ name: 'to', type: 2, i: 1 }] }],
    initializers: [{ name: 'w', ...half }],
  });
  const out = join(folder, 'grown.onnx');
  const list = Array.from({ length: 60 }, (_, index) => index);
  writeTrainedModel(put(folder, 'grow.onnx', bytes), out, new Map([['w', values(list)]]));
  expect([...(read(out).initializers.get('w')?.read().toFloat32() ?? [])]).toEqual(list);
});

test.each([
  ['f16 raw', { dataType: 10, rawData: u16([0, 0, 0, 0, 0, 0]) }],
  ['f16 in int32_data', { dataType: 10, int32Data: [0, 0, 0, 0, 0, 0x3c00] }],
  ['bf16 raw', { dataType: 16, rawData: u16([0, 0, 0, 0, 0, 0]) }],
  ['f64 raw', { dataType: 11, rawData: new Uint8Array(48) }],
  ['f64 double_data', { dataType: 11, doubleData: [0, 0, 0, 0, 0, 1] }],
])('%s keeps its type', (name, tensor) => {
  const source = put(folder, `${name}.onnx`, product(tensor));
  const out = join(folder, `${name}-out.onnx`);
  const exact = [1, -2.5, 0, 0.15625, 65280, -Infinity];
  writeTrainedModel(source, out, new Map([['w', values(exact)]]));
  const result = read(out).initializers.get('w')?.read();
  expect(result?.dtype).toBe(read(source).initializers.get('w')?.dtype);
  expect([...(result?.toFloat64() ?? [])]).toEqual(exact);
});

test('the tensor of a Constant node is patched', async () => {
  const node = { opType: 'Constant', output: ['w'], attribute: [{ name: 'value', type: 4, t: tensor() }] };
  function tensor() {
    return { dims: [2, 3], dataType: 1, rawData: raw([1, 2, 3, 4, 5, 6]) };
  }
  const bytes = encode({
    inputs: [floats('x', ['n', 2])],
    nodes: [node, { opType: 'MatMul', input: ['x', 'w'], output: ['y'] }],
  });
  const source = put(folder, 'constant.onnx', bytes);
  const out = join(folder, 'constant-out.onnx');
  writeTrainedModel(source, out, new Map([['w', values([6, 5, 4, 3, 2, 1])]]));
  expect(await runProduct(out)).toEqual([36, 25, 14]);
  const [first] = read(out).nodes;
  expect(first && constantTensor(first)?.name).toBe('w');
});

describe('external data', () => {
  const home = join(folder, 'external');
  mkdirSync(home);
  const data = concat([new Uint8Array(64).fill(7), raw([1, 2, 3, 4, 5, 6]), new Uint8Array(5).fill(9)]);
  put(home, 'w.bin', data);
  const source = put(
    home,
    'm.onnx',
    product(external({ location: 'w.bin', offset: '64', length: '24', checksum: 'x' })),
  );
  const weights = new Map([['w', values([6, 5, 4, 3, 2, 1])]]);

  test('is copied under its own name into another folder', async () => {
    const other = join(folder, 'other');
    mkdirSync(other);
    const out = join(other, 'trained.onnx');
    writeTrainedModel(source, out, weights);
    expect(readdirSync(other).sort()).toEqual(['trained.onnx', 'w.bin']);
    expect(await runProduct(out)).toEqual([36, 25, 14]);
    const copy = readFileSync(join(other, 'w.bin'));
    expect([...copy.subarray(0, 64), ...copy.subarray(88)]).toEqual([
      ...data.subarray(0, 64),
      ...data.subarray(88),
    ]);
  });

  test('gets a file of its own beside the source, which stays', async () => {
    const out = join(home, 'trained.onnx');
    writeTrainedModel(source, out, weights);
    expect(readdirSync(home).sort()).toEqual(['m.onnx', 'trained.onnx', 'trained.onnx.data', 'w.bin']);
    expect(await runProduct(out)).toEqual([36, 25, 14]);
    expect(await runProduct(source)).toEqual([41, 52, 63]);
    expect([...readFileSync(join(home, 'w.bin'))]).toEqual([...data]);
    writeTrainedModel(source, out, new Map([['w', values([0, 0, 0, 1, 1, 1])]]));
    expect(await runProduct(out)).toEqual([10, 10, 10]);
    expect(() => writeTrainedModel(out, join(home, 'trained'), weights)).not.toThrow();
  });

  test('a source whose data has the name of the output’s is not overwritten', () => {
    copyFileSync(join(home, 'w.bin'), join(home, 'b.onnx.data'));
    const a = put(home, 'a.onnx', product(external({ location: 'b.onnx.data', offset: '64', length: '24' })));
    expect(() => writeTrainedModel(a, join(home, 'b.onnx'), weights)).toThrow(/weights of the source/);
  });

  test('one stored range under two names must be trained alike', () => {
    const shared = {
      dims: [2, 3],
      dataType: 1,
      ...external({ location: 'w.bin', offset: '64', length: '24' }),
    };
    const bytes = encode({
      inputs: [floats('x', [2, 3])],
      nodes: [
        { opType: 'Add', input: ['x', 'w'], output: ['z'] },
        { opType: 'Add', input: ['z', 'v'], output: ['y'] },
      ],
      initializers: [
        { name: 'w', ...shared },
        { name: 'v', ...shared },
      ],
    });
    const tied = put(home, 'tied.onnx', bytes);
    const out = join(home, 'tied-out.onnx');
    const six = [6, 5, 4, 3, 2, 1];
    writeTrainedModel(
      tied,
      out,
      new Map([
        ['w', values(six)],
        ['v', values(six)],
      ]),
    );
    expect([...(read(out).initializers.get('v')?.read().toFloat32() ?? [])]).toEqual(six);
    const apart = new Map([
      ['w', values(six)],
      ['v', values([0, 0, 0, 0, 0, 0])],
    ]);
    expect(() => writeTrainedModel(tied, out, apart)).toThrow(/trained apart/);
  });
});
