import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import * as fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { createRandom } from '../../../src/runtime/data/random.js';
import { readLengths } from '../../../src/runtime/data/lengths/read.js';

const files = fileURLToPath(new URL('./lengths-files', import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-lengths-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The lengths that lengths-files/write.py writes, by its formula. */
const lengths = Array.from({ length: 23 }, (_, i) => (i === 5 ? 0 : (37 * i * i + 11) % 71));
const sequences = lengths.filter((n) => n > 0);
const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
const runs = [0, 1, 4, 4, 9, sequences.length];
const documents = runs.slice(1).map((end, i) => sum(sequences.slice(runs[i], end)));

const at = (name: string): string => path.join(files, name);
function written(name: string, content: string | Buffer): string {
  const file = path.join(folder, name);
  writeFileSync(file, content);
  return file;
}

describe('files that numpy, pyarrow and Megatron-LM write', () => {
  test.each([
    'int64.npy',
    'uint16.npy',
    'int8.npy',
    'version2.npy',
    'version3.npy',
    'lists.parquet',
    'lists-v2.parquet',
    'lists-pages.parquet',
    'numbers.parquet',
    'numbers-delta.parquet',
    'numbers-plain.parquet',
    'required.parquet',
    'lists.feather',
    'lists-zstd.feather',
    'numbers.feather',
    'stream.arrow',
    'views.arrow',
    'legacy.arrow',
  ])('%s', async (name) => {
    expect(await readLengths(at(name))).toEqual(lengths);
    expect(await readLengths(at(name), { most: 12 })).toEqual(lengths.slice(0, 12));
  });

  test.each(['numbers.parquet', 'numbers-delta.parquet', 'numbers-plain.parquet', 'numbers.feather'])(
    'a column of %s by its name',
    async (name) => {
      for (const column of ['bytes', 'input_ids', 'length'])
        expect(await readLengths(at(name), { column })).toEqual(lengths);
    },
  );

  test('lists that all have one length', async () => {
    expect(await readLengths(at('fixed.feather'))).toEqual([4, 4, 4, 4, 4]);
  });

  test.each(['mapped.idx', 'mapped.bin', 'mapped', 'modes.idx', 'legacy.idx'])(
    'documents of %s are runs of sequences',
    async (name) => {
      expect(await readLengths(at(name))).toEqual(documents);
      expect(await readLengths(at(name), { most: 3 })).toEqual(documents.slice(0, 3));
    },
  );
});

describe('text', () => {
  test('a length a line, and JSON objects with numbers or tokens', async () => {
    expect(await readLengths(written('a.txt', '12\n\n 0 \r\n7'))).toEqual([12, 0, 7]);
    const jsonl =
      '{"text":"x","length":3}\n{"input_ids":[1,2]}\n{"__proto__":1,"num_tokens":9,"input_ids":[]}\n';
    expect(await readLengths(written('a.jsonl', jsonl))).toEqual([3, 2, 9]);
    expect(await readLengths(written('b.jsonl', '{"a":[1,2],"length":9}'), { column: 'a' })).toEqual([2]);
  });

  test('what is written is read', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(2 ** 31 - 1), { minLength: 1 }), fc.boolean(), async (list, json) => {
        const text = list.map((n) => (json ? JSON.stringify({ n_tokens: n }) : String(n))).join('\n');
        expect(await readLengths(written('p.txt', text))).toEqual(list);
      }),
      { numRuns: 50 },
    );
  });
});

describe('arrays and indices of any content', () => {
  const npy = (descr: string, shape: string, body: Buffer, version = 1): Buffer => {
    const header = Buffer.from(`{'descr': '${descr}', 'fortran_order': False, 'shape': ${shape}, }\n`);
    const size = Buffer.alloc(version === 1 ? 2 : 4);
    if (version === 1) size.writeUInt16LE(header.length);
    else size.writeUInt32LE(header.length);
    return Buffer.concat([Buffer.from('\x93NUMPY', 'latin1'), Buffer.from([version, 0]), size, header, body]);
  };

  test('.npy', async () => {
    const kinds = [
      ['<u4', Uint32Array],
      ['<u2', Uint16Array],
      ['|u1', Uint8Array],
    ] as const;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(255), { minLength: 1 }),
        fc.constantFrom(...kinds),
        fc.constantFrom(1, 2, 3),
        async (list, [descr, Kind], version) => {
          const file = written(
            'p.npy',
            npy(descr, `(${list.length},)`, Buffer.from(Kind.from(list).buffer), version),
          );
          expect(await readLengths(file)).toEqual(list);
        },
      ),
      { numRuns: 50 },
    );
  });

  test('indexed datasets: sums over any runs', async () => {
    const documentsOf = fc.array(fc.array(fc.nat(1000), { maxLength: 5 }), { minLength: 1, maxLength: 30 });
    await fc.assert(
      fc.asyncProperty(documentsOf, async (list) => {
        const sizes = list.flat();
        const borders = [0];
        for (const document of list) borders.push(borders.at(-1)! + document.length);
        const head = Buffer.alloc(34);
        head.write('MMIDIDX\0\0', 'latin1');
        head.writeBigUInt64LE(1n, 9);
        head[17] = 4;
        head.writeBigUInt64LE(BigInt(sizes.length), 18);
        head.writeBigUInt64LE(BigInt(borders.length), 26);
        const offsets = sizes.map((_, i) => BigInt(4 * sum(sizes.slice(0, i))));
        const parts = [
          Int32Array.from(sizes),
          BigInt64Array.from(offsets),
          BigInt64Array.from(borders.map(BigInt)),
        ];
        const file = written(
          'p.idx',
          Buffer.concat([head, ...parts.map((part) => Buffer.from(part.buffer))]),
        );
        expect(await readLengths(file)).toEqual(list.map(sum));
      }),
      { numRuns: 50 },
    );
  });

  test.each([
    ['<i8', '(3,)', 16, /damaged: 3 numbers make it \d+ bytes, it has \d+/],
    ['<i8', '(99999999999999,)', 16, /damaged/],
    ['<i8', '()', 8, /shape \(\), one dimension is expected/],
    ['<i8', '(2, 1)', 16, /shape \(2, 1\)/],
    ['<f8', '(2,)', 16, /elements are <f8, whole numbers/],
    ['|O', '(2,)', 16, /elements are \|O/],
  ])('.npy of %s %s', async (descr, shape, bytes, message) => {
    const file = written('h.npy', npy(descr, shape, Buffer.alloc(bytes)));
    await expect(readLengths(file)).rejects.toThrow(message);
  });
});

describe('mistakes are one line with a hint', () => {
  const parquet = at('lists.parquet');
  test.each<[string, string, { column?: string }, RegExp]>([
    ['nothing', '', {}, /holds no lengths/],
    ['words.txt', 'twelve', {}, /words\.txt:1: twelve is not a length/],
    ['negative.txt', '3\n-4', {}, /negative\.txt:2: -4 is not a length/],
    ['large.txt', '3\n99999999999999999', {}, /large\.txt: line 2: 1\d* is not a length/],
    ['half.jsonl', '{"length": 1.5}', {}, /line 1: 1\.5 is not a length/],
    [
      'other.jsonl',
      '{"text": "a"}',
      {},
      /other\.jsonl:1: no column tells lengths; there are "text" \(string\)/,
    ],
    ['named.jsonl', '{"text": "a"}', { column: 'text' }, /column "text" holds string, not lengths/],
    ['broken.jsonl', '{"length": ', {}, /broken\.jsonl:1: not JSON/],
    ['a.npz', 'PK\x03\x04rest', {}, /a ZIP archive \(\.npz\?\)/],
    ['a.jsonl.gz', Buffer.from([0x1f, 0x8b, 8, 0]).toString('latin1'), {}, /compressed with gzip/],
    ['lonely.bin', 'x', {}, /lonely\.idx does not exist/],
    ['wrong.idx', 'MMIDX', {}, /not an index of Megatron-LM/],
    ['short.idx', 'MMIDIDX\0\0', {}, /damaged: an index of 9 bytes/],
    ['short.parquet', 'PAR1', {}, /damaged: a Parquet file of 4 bytes/],
    ['short.arrow', 'ARROW1\0\0', {}, /cannot be read as Arrow \(no schema\)/],
  ])('%s', async (name, content, options, message) => {
    const failure = readLengths(written(name, Buffer.from(content, 'latin1')), options);
    await expect(failure).rejects.toThrow(message);
    await expect(failure).rejects.toBeInstanceOf(UserError);
  });

  test.each<[string, { column?: string }, RegExp]>([
    ['lists.parquet', { column: 'length' }, /no column "length"/],
    ['lists.parquet', { column: 'score' }, /column "score" holds DOUBLE, not lengths/],
    ['numbers.parquet', { column: 'when' }, /column "when" holds TIMESTAMP/],
    ['numbers.parquet', { column: 'tags' }, /column "tags" holds a structure/],
    ['numbers.feather', { column: 'id' }, /column "id" holds Dictionary/],
    ['nulls.parquet', {}, /row 1: column "length" is null/],
    ['nulls.parquet', { column: 'input_ids' }, /row 1: column "input_ids" is null/],
    ['nulls.feather', {}, /column "length": 1 of rows 0 to 2 are null/],
    ['int64.npy', { column: 'a' }, /\.npy has no columns/],
    ['float.npy', {}, /elements are <f4/],
    ['big-endian.npy', {}, /elements are >i4/],
    ['matrix.npy', {}, /shape \(4, 5\)/],
    ['missing', {}, /does not exist/],
    ['.', {}, /folder|directory/],
  ])('%s %j', async (name, options, message) => {
    const failure = readLengths(at(name), options);
    await expect(failure).rejects.toThrow(message);
    await expect(failure).rejects.toBeInstanceOf(UserError);
  });

  test('a .bin file that is too short for its index', async () => {
    copyFileSync(at('mapped.idx'), path.join(folder, 'cut.idx'));
    const file = written('cut.bin', readFileSync(at('mapped.bin')).subarray(0, 1400));
    await expect(readLengths(file)).rejects.toThrow(
      /sequence \d+ ends at byte 1\d+ of .*cut\.bin, which has 1400/,
    );
  });

  test('a file that changes its mind about its size', async () => {
    const bytes = readFileSync(parquet);
    await expect(readLengths(written('cut.parquet', bytes.subarray(0, -3)))).rejects.toThrow(UserError);
  });
});

describe('strangers', () => {
  const names = readdirSync(files).filter((name) => !/\.(?:py|bin)$/.test(name));

  /** A file with a few bytes changed, a part repeated or an end missing. */
  function damage(bytes: Buffer, random: () => number): Buffer {
    const damaged = Buffer.from(bytes);
    const kind = random() % 4;
    if (kind === 0) return damaged.subarray(0, random() % damaged.length);
    for (let n = 1 + (random() % 4); n > 0; n--) {
      const where =
        kind === 1
          ? damaged.length - 1 - (random() % Math.min(600, damaged.length))
          : random() % damaged.length;
      damaged[where] = kind === 2 ? 0xff : random() % 256;
    }
    return damaged;
  }

  test.each(names)('%s, damaged: lengths, or one line that says what is wrong', async (name) => {
    const bytes = readFileSync(at(name));
    const random = createRandom(bytes.length, 7);
    mkdirSync(path.join(folder, 'damaged'), { recursive: true });
    for (let i = 0; i < 60; i++) {
      const file = written(`damaged/${name}`, damage(bytes, random));
      try {
        for (const length of await readLengths(file)) expect(length).toBeGreaterThanOrEqual(0);
      } catch (error) {
        expect(error).toBeInstanceOf(UserError);
      }
    }
  });
});
