import { closeSync, mkdirSync, openSync, symlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readOnnxModel } from '../../../src/ir/onnx/decode.js';
import { readWeight } from '../../../src/package/weights.js';
import { external, product, put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
const home = join(folder, 'home');
mkdirSync(join(home, 'sub'), { recursive: true });
put(home, 'w.bin', raw([9, 1, 2, 3, 4, 5, 6]));
put(join(home, 'sub'), 'w.bin', raw([1, 2, 3, 4, 5, 6]));
put(folder, 'outside.bin', raw([1, 2, 3, 4, 5, 6]));
symlinkSync(join(folder, 'outside.bin'), join(home, 'link.bin'));
symlinkSync(folder, join(home, 'up'));
symlinkSync(join(home, 'w.bin'), join(home, 'inner-link.bin'));

const read = (entries: Readonly<Record<string, string>>, weights = true) => {
  const path = put(home, 'm.onnx', product(external(entries)));
  const tensor = readOnnxModel(path, { weights }).initializers.get('w');
  if (tensor === undefined) throw new Error('w expected');
  return tensor;
};

test.each<Readonly<Record<string, string>>>([
  { location: 'w.bin', offset: '4', length: '24' },
  { location: 'w.bin', offset: '4' },
  { location: './sub/w.bin' },
  { location: 'inner-link.bin', offset: '4', length: '24' },
])('%j is read', (entries) => {
  const tensor = read(entries);
  expect(tensor.location).toMatchObject({ kind: 'external', relativePath: entries.location, length: 24 });
  expect([...tensor.read().toFloat32()]).toEqual([1, 2, 3, 4, 5, 6]);
  expect([...tensor.readRange(8, 4)]).toEqual([...raw([3])]);
});

test.each([
  [{ location: '/etc/passwd' }, /absolute/],
  [{ location: 'C:\\w.bin' }, /absolute/],
  [{ location: '\\\\host\\w.bin' }, /absolute/],
  [{ location: '../outside.bin' }, /escapes/],
  [{ location: 'sub/../../outside.bin' }, /escapes/],
  [{ location: '..\\outside.bin' }, /escapes/],
  [{ location: 'link.bin' }, /link to a file outside/],
  [{ location: 'up/outside.bin' }, /link to a file outside/],
  [{ location: '' }, /no valid location/],
  [{ location: 'w.bin\0.txt' }, /no valid location/],
  [{ location: 'sub' }, /not a regular file|'w'/],
  [{ location: 'gone.bin' }, /missing/],
  [{ location: 'w.bin', offset: '8', length: '24' }, /28 bytes, bytes 8 to 32/],
  [{ location: 'w.bin', length: '20' }, /length 20/],
  [{ location: 'w.bin', offset: '-4' }, /offset/],
  [{ location: 'w.bin', offset: '1e3' }, /offset/],
  [{ location: 'w.bin', offset: '99999999999999999999' }, /offset/],
  [{ location: 'w.bin', offset: '9007199254740991' }, /bytes/],
])('%j is refused, naming the initializer', (entries, message) => {
  const attempt = () => read(entries);
  expect(attempt).toThrow(expect.objectContaining({ name: 'UserError' }));
  expect(attempt).toThrow(message);
  expect(attempt).toThrow(/'w'/);
});

test.each([2 ** 31 - 8, 2 ** 32 - 8, 5 * 2 ** 30])('data at byte %i is read', (offset) => {
  const values = raw([1, 2, 3, 4, 5, 6]);
  const file = openSync(join(home, 'far.bin'), 'w');
  // What is before it is a hole, which takes no room.
  writeSync(file, values, 0, values.length, offset);
  closeSync(file);
  const tensor = read({ location: 'far.bin', offset: String(offset), length: '24' });
  expect([...tensor.read().toFloat32()]).toEqual([1, 2, 3, 4, 5, 6]);
  const files = { model: '', safetensors: '', what: 'a package' };
  const weight = { kind: 'external', file: join(home, 'far.bin'), offset, bytes: 24, dtype: 'f32' } as const;
  const target = new Float32Array(4);
  readWeight(files, { name: 'w', shape: [2, 3], trainable: true, reason: '', weight }, target, 1);
  expect([...target]).toEqual([2, 3, 4, 5]);
});

test('without weights, an absent file is an error only when read', () => {
  const tensor = read({ location: 'gone.bin', offset: '128', length: '24' }, false);
  expect(tensor.location).toMatchObject({ relativePath: 'gone.bin', offset: 128, length: 24 });
  expect(tensor.isPresent()).toBe(false);
  expect(() => tensor.read()).toThrow(/'w'.*gone\.bin is missing/);
  expect(() => read({ location: '../gone.bin' }, false)).toThrow(/escapes/);
});
