import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { assert, integer, nat, property } from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { UserError } from '../../src/errors.js';
import {
  SafetensorsReader,
  SafetensorsStreamWriter,
  writeSafetensors,
  type SafetensorsEntry,
} from '../../src/files/safetensors.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ithaca-safetensors-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const at = (name: string) => path.join(folder, name);

function rawFile(name: string, header: unknown, dataBytes: number, headerBytes?: number): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(headerBytes ?? json.length));
  writeFileSync(at(name), Buffer.concat([length, json, Buffer.alloc(dataBytes)]));
  return at(name);
}

const entries: SafetensorsEntry[] = [
  { name: 'flags', dtype: 'BOOL', shape: [3], data: new Uint8Array([1, 0, 1]) },
  { name: '__proto__', dtype: 'F32', shape: [2, 2], data: () => new Float32Array([1, -2, 3.5, NaN]) },
  { name: '10', dtype: 'I64', shape: [2], data: new BigInt64Array([-1n, 1n << 40n]) },
  { name: 'constructor', dtype: 'F64', shape: [], data: new Float64Array([Math.PI]) },
  { name: 'ids', dtype: 'I32', shape: [1, 2], data: new Int32Array([7, -8]) },
  { name: 'nothing', dtype: 'F32', shape: [0, 4], data: new Float32Array(0) },
  { name: 'raw', dtype: 'U8', shape: [5], data: new Uint8Array([1, 2, 3, 4, 255]) },
];

test('what is written is read, whatever the names', async () => {
  await writeSafetensors(at('all.safetensors'), entries, new Map([['__proto__', 'x']]));
  const reader = SafetensorsReader.open(at('all.safetensors'));
  expect([...reader.tensors.keys()].sort()).toEqual(entries.map((entry) => entry.name).sort());
  expect([...reader.metadata]).toEqual([['__proto__', 'x']]);
  for (const { name, dtype, shape, data } of entries) {
    expect(reader.info(name)).toMatchObject({ dtype, shape });
    expect(reader.read(name)).toEqual(typeof data === 'function' ? data() : data);
  }
  expect(({} as Record<string, unknown>)['dtype']).toBeUndefined();
  expect(() => reader.info('toString')).toThrow(UserError);
  reader.close();
});

test('every tensor is aligned to its elements and the data to 8 bytes', async () => {
  await writeSafetensors(at('aligned.safetensors'), entries);
  const reader = SafetensorsReader.open(at('aligned.safetensors'));
  const infos = [...reader.tensors.values()];
  expect(infos[0]!.offset % 8).toBe(0);
  for (const info of infos.filter((each) => each.elements > 0)) {
    expect(info.offset % (info.bytes / info.elements)).toBe(0);
  }
  reader.close();
});

test('half precisions are widened exactly', async () => {
  const halves = new Uint16Array([0x3c00, 0xc000, 0x0001, 0x03ff, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x8000]);
  const brains = new Uint16Array([0x3f80, 0xc000, 0x0001, 0x7f80, 0x7fc0]);
  await writeSafetensors(at('half.safetensors'), [
    { name: 'half', dtype: 'F16', shape: [9], data: halves },
    { name: 'brain', dtype: 'BF16', shape: [5], data: brains },
  ]);
  const reader = SafetensorsReader.open(at('half.safetensors'));
  expect([...reader.read('half')]).toEqual([
    1,
    -2,
    2 ** -24,
    1023 * 2 ** -24,
    65504,
    Infinity,
    -Infinity,
    NaN,
    -0,
  ]);
  expect([...reader.read('brain')]).toEqual([1, -2, 2 ** -133, Infinity, NaN]);
  reader.close();
});

test('floats are read into shared memory, whole or a range', async () => {
  const values = Float32Array.from({ length: 600_000 }, (_, index) => index / 7);
  const doubles = Float64Array.from(values, (value) => value / 3);
  await writeSafetensors(at('range.safetensors'), [
    { name: 'f32', dtype: 'F32', shape: [600, 1000], data: values },
    { name: 'f64', dtype: 'F64', shape: [600_000], data: doubles },
    { name: 'ids', dtype: 'I32', shape: [1], data: new Int32Array(1) },
  ]);
  const reader = SafetensorsReader.open(at('range.safetensors'));
  const whole = new Float32Array(new SharedArrayBuffer(values.byteLength));
  reader.readInto('f64', whole);
  expect(whole.every((value, index) => value === Math.fround(doubles[index]!))).toBe(true);
  const part = new Float32Array(new SharedArrayBuffer(400));
  reader.readRange('f32', 1001, part);
  expect([...part]).toEqual([...values.subarray(1001, 1101)]);
  expect(() => reader.readInto('f32', part)).toThrow('600000 elements');
  expect(() => reader.readInto('ids', new Float32Array(1))).toThrow(UserError);
  reader.close();
  expect(() => reader.read('f32')).toThrow('closed');
});

test('a stream is written in pieces, from shared memory, tensors alternating', async () => {
  const writer = await SafetensorsStreamWriter.create(at('stream.safetensors'), [
    { name: 'logits', dtype: 'F32', shape: [5, 2] },
    { name: 'ids', dtype: 'I32', shape: [5] },
  ]);
  const row = new Float32Array(new SharedArrayBuffer(8));
  for (let index = 0; index < 5; index++) {
    row.set([index, index + 0.5]);
    await writer.append('logits', row);
    await writer.append('ids', new Int32Array([index]));
  }
  expect(readdirSync(folder)).not.toContain('stream.safetensors');
  await writer.commit();
  const reader = SafetensorsReader.open(at('stream.safetensors'));
  expect([...reader.read('logits')]).toEqual([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5]);
  expect([...reader.read('ids')]).toEqual([0, 1, 2, 3, 4]);
  reader.close();
});

test('an incomplete or aborted stream leaves nothing', async () => {
  const declared = [{ name: 'x', dtype: 'F32', shape: [4] }] as const;
  const short = await SafetensorsStreamWriter.create(at('short.safetensors'), declared);
  await short.append('x', new Float32Array(3));
  await expect(short.append('x', new Float32Array(2))).rejects.toThrow('more than its 4');
  await expect(short.append('x', new Int32Array(1))).rejects.toThrow('got Int32Array');
  await expect(short.commit()).rejects.toThrow('3 of 4');
  const aborted = await SafetensorsStreamWriter.create(at('aborted.safetensors'), declared);
  await aborted.abort();
  const failing = writeSafetensors(at('failing.safetensors'), [
    {
      name: 'x',
      dtype: 'F32',
      shape: [1],
      data: () => {
        throw new Error('rank 2 died');
      },
    },
  ]);
  await expect(failing).rejects.toThrow('rank 2 died');
  expect(readdirSync(folder).filter((name) => /short|aborted|failing/.test(name))).toEqual([]);
});

describe('a file that is not what it says is refused', () => {
  const good = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
  test.each<[string, unknown, number, number | undefined, RegExp]>([
    ['header longer than the file', { x: good }, 8, 1000, /claims 1000 bytes/],
    ['header above the limit', { x: good }, 8, 2 ** 53, /claims/],
    ['not JSON', '{"x": ', 0, undefined, /not JSON/],
    ['not an object', [1], 0, undefined, /not a JSON object/],
    ['cut short', { x: good }, 7, undefined, /ends at byte/],
    ['bytes left over', { x: good }, 9, undefined, /describes/],
    ['hole', { x: { ...good, data_offsets: [4, 12] } }, 12, undefined, /starts at byte/],
    ['overlap', { x: good, y: { ...good, data_offsets: [4, 12] } }, 12, undefined, /starts at byte/],
    ['shape and length differ', { x: { ...good, shape: [3] } }, 8, undefined, /claims bytes 0 to 8/],
    ['size overflows', { x: { ...good, shape: [2 ** 40, 2 ** 40] } }, 8, undefined, /claims bytes/],
    ['negative size', { x: { ...good, shape: [-2, -1] } }, 8, undefined, /x\.shape\.0/],
    ['fractional size', { x: { ...good, shape: [0.5, 4] } }, 8, undefined, /x\.shape\.0/],
    ['unknown dtype', { x: { ...good, dtype: 'F4' } }, 8, undefined, /x\.dtype/],
    ['backwards', { x: { ...good, data_offsets: [8, 0] } }, 8, undefined, /claims bytes 8 to 0/],
    ['an entry that is no object', { x: 3 }, 0, undefined, /"x"/],
    ['bad metadata', { __metadata__: { a: 1 } }, 0, undefined, /metadata/],
  ])('%s', (_, header, dataBytes, headerBytes, message) => {
    const file = rawFile('bad.safetensors', header, dataBytes, headerBytes);
    expect(() => SafetensorsReader.open(file)).toThrow(message);
    expect(() => SafetensorsReader.open(file)).toThrow(UserError);
  });

  test('missing, a folder, too short', () => {
    expect(() => SafetensorsReader.open(at('missing'))).toThrow(/does not exist/);
    expect(() => SafetensorsReader.open(folder)).toThrow(/not a regular file/);
    writeFileSync(at('tiny'), 'abc');
    expect(() => SafetensorsReader.open(at('tiny'))).toThrow(/3 bytes/);
  });

  test('cut short after it was opened', async () => {
    await writeSafetensors(at('cut.safetensors'), entries);
    const reader = SafetensorsReader.open(at('cut.safetensors'));
    truncateSync(at('cut.safetensors'), reader.info('raw').offset);
    expect(() => reader.read('raw')).toThrow(/ends at byte/);
    reader.close();
  });

  test('any damage to a header is a UserError or harmless', async () => {
    await writeSafetensors(at('fuzz.safetensors'), entries);
    const bytes = readFileSync(at('fuzz.safetensors'));
    assert(
      property(nat(bytes.length - 1), integer({ min: 1, max: 255 }), (index, change) => {
        const damaged = Buffer.from(bytes);
        damaged[index]! ^= change;
        writeFileSync(at('fuzzed.safetensors'), damaged);
        try {
          const reader = SafetensorsReader.open(at('fuzzed.safetensors'));
          for (const name of reader.tensors.keys()) reader.read(name);
          reader.close();
        } catch (error) {
          expect(error).toBeInstanceOf(UserError);
        }
      }),
      { numRuns: 300, seed: 1 },
    );
  });
});
