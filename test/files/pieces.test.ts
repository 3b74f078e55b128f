/** Whatever is moved in pieces arrives whole, whatever the size of a piece, also beyond 4 GiB. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { assert, double, integer, nat, property } from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { readFloats, type StoredFloat } from '../../src/files/floats.js';
import { bytesOf, rangesOf, readFully, tilesOf, viewsOf, writeFully } from '../../src/files/pieces.js';
import { SafetensorsReader, SafetensorsStreamWriter, writeSafetensors } from '../../src/files/safetensors.js';
import { numberToBf16, numberToF16 } from '../../src/ir/onnx/half.js';

const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-pieces-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => path.join(folder, name);
const GiB = 2 ** 30;

test('ranges and tiles cover everything once', () => {
  assert(
    property(
      nat(40),
      nat(40),
      integer({ min: 1, max: 50 }),
      double({ min: 0.1, max: 60, noNaN: true }),
      (rows, columns, elements, most) => {
        let next = 0;
        for (const { start, end } of rangesOf(rows, most)) {
          expect([start, end - start <= Math.max(1, most)]).toEqual([next, true]);
          next = end;
        }
        expect(next).toBe(rows);
        const seen = new Uint8Array(rows * columns);
        for (const tile of tilesOf(rows, columns, elements)) {
          expect(tile.rows * tile.columns).toBeLessThanOrEqual(elements);
          for (let r = 0; r < tile.rows; r++)
            for (let c = 0; c < tile.columns; c++) seen[(tile.row + r) * columns + tile.column + c]!++;
        }
        expect(seen.every((times) => times === 1)).toBe(true);
      },
    ),
  );
});

test.each([
  ['f64', (values: Float32Array) => Float64Array.from(values)],
  ['f32', (values: Float32Array) => values.slice()],
  ['f16', (values: Float32Array) => Uint16Array.from(values, numberToF16)],
  ['bf16', (values: Float32Array) => Uint16Array.from(values, numberToBf16)],
] as const)('%s is read the same in pieces of any size', (dtype, store) => {
  const values = Float32Array.of(0, -0, 1, -1.5, 2 ** -14, 0.375, 240, Infinity, NaN, 2, -3);
  const bytes = bytesOf(store(values));
  for (const pieceBytes of [1, 8, 20, 24, 1000]) {
    const target = new Float32Array(values.length).fill(7);
    const read = (into: Uint8Array, offset: number): void => {
      expect(into.length).toBeLessThanOrEqual(Math.max(8, pieceBytes));
      into.set(bytes.subarray(offset, offset + into.length));
    };
    readFloats(dtype satisfies StoredFloat, target, read, pieceBytes);
    expect(target).toEqual(values);
  }
});

test('a file ends where it ends', () => {
  const file = openSync(at('short'), 'w+');
  writeFully(file, Uint8Array.of(1, 2, 3), undefined);
  writeFully(file, Uint8Array.of(9), 1);
  const target = new Uint8Array(5);
  expect(readFully(file, target, 1)).toBe(2);
  expect([...target]).toEqual([9, 3, 0, 0, 0]);
  closeSync(file);
});

test('a tensor is written from views, arrays or asynchronous pieces alike', async () => {
  const values = Float32Array.from({ length: 37 }, (_, i) => i / 8);
  const sources = {
    array: values,
    made: () => values,
    views: () => viewsOf(values, 20),
    later: async function* () {
      for (const part of viewsOf(values, 12)) yield await Promise.resolve(part);
    },
  };
  for (const [name, data] of Object.entries(sources))
    await writeSafetensors(at(name), [{ name: 't', dtype: 'F32', shape: [37], data }]);
  const [first, ...others] = Object.keys(sources).map((name) => readFileSync(at(name)));
  for (const other of others) expect(other.equals(first!)).toBe(true);
  const cut = writeSafetensors(at('cut'), [
    { name: 't', dtype: 'F32', shape: [38], data: () => viewsOf(values) },
  ]);
  await expect(cut).rejects.toThrow('37 of 38 elements');
});

/** A file with holes: gigabytes that take no room on the disk. */
test('tensors larger than 4 GiB, and beyond them, are read and written at the right place', async () => {
  const elements = 1.25 * GiB;
  const shapes = { a: [elements], b: [3] } as const;
  const writer = await SafetensorsStreamWriter.create(
    at('sparse'),
    Object.entries(shapes).map(([name, shape]) => ({ name, dtype: 'F32', shape })),
  );
  const places = [0, 2 ** 29 - 1, 2 ** 30 - 2, elements - 2];
  for (const [i, start] of places.entries()) writer.writeAt('a', start, Float32Array.of(i + 1, -i));
  writer.writeAt('b', 0, Float32Array.of(4, 5, 6));
  const { offset } = writer.tensors.get('b')!;
  expect(offset).toBeGreaterThan(5 * GiB);
  const { temporaryPath } = writer.file;
  const reader = SafetensorsReader.open(temporaryPath);
  const part = new Float32Array(4);
  for (const [i, start] of places.entries()) {
    reader.readRange('a', Math.min(start, elements - 4), part);
    expect([...part.subarray(start === elements - 2 ? 2 : 0)].slice(0, 2)).toEqual([
      i + 1,
      i === 0 ? -0 : -i,
    ]);
  }
  expect([...(reader.read('b') as Float32Array)]).toEqual([4, 5, 6]);
  reader.close();
  await writer.abort();
});

test('positions beyond 4 GiB survive reading and writing', () => {
  const file = openSync(at('far'), 'w+');
  ftruncateSync(file, 6 * GiB);
  for (const position of [2 ** 31 - 2, 2 ** 32 - 2, 5 * GiB]) {
    writeFully(file, Uint8Array.of(1, 2, 3, 4), position);
    const target = new Uint8Array(6);
    expect(readFully(file, target, position - 1)).toBe(6);
    expect([...target]).toEqual([0, 1, 2, 3, 4, 0]);
  }
  expect(writeSync(file, Uint8Array.of(1), 0, 1, 6 * GiB - 1)).toBe(1);
  expect(readFully(file, new Uint8Array(4), 6 * GiB - 1)).toBe(1);
  closeSync(file);
});
