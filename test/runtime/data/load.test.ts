import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { writeSafetensors } from '../../../src/files/safetensors.js';
import type { Corpus } from '../../../src/runtime/data/document.js';
import { loadCorpus, type LoadOptions } from '../../../src/runtime/data/load.js';
import { packDocuments } from '../../../src/runtime/data/pack.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ithaca-data-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(name: string, content: string | Uint8Array): string {
  mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
  writeFileSync(path.join(folder, name), content);
  return name;
}

const load = (patterns: string | string[], options: Partial<LoadOptions> = {}) =>
  loadCorpus([patterns].flat(), { vocabulary: 256, cwd: folder, ...options });

const contents = (corpus: Corpus) =>
  Array.from({ length: corpus.count }, (_, index) => {
    const { ids, labels } = corpus.document(index);
    return { ids: [...ids], labels: [...labels] };
  });

/** As `refusal`, of a file of one line. */
const refusalOf = (line: string, options: Partial<LoadOptions>): Promise<string> =>
  refusal(write('bad.jsonl', line), options);

async function refusal(patterns: string | string[], options: Partial<LoadOptions> = {}): Promise<string> {
  const error = await load(patterns, options).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UserError);
  const { message, hint } = error as UserError;
  expect(message).not.toContain('\n');
  expect(hint).toBeTruthy();
  return message;
}

describe('JSONL', () => {
  test('labels are shifted within each document', async () => {
    write(
      'batch.jsonl',
      '{"input_ids": [5, 6, 7]}\n\n{"input_ids": [8, 9], "labels": [-100, 4]}\r\n{"labels": [3], "input_ids": [1]}',
    );
    const corpus = await load('batch.jsonl');
    expect(contents(corpus)).toEqual([
      { ids: [5, 6, 7], labels: [6, 7, -100] },
      { ids: [8, 9], labels: [4, -100] },
      { ids: [1], labels: [-100] },
    ]);
    expect(corpus.tokens).toBe(6);
    expect([0, 1, 2].map((index) => corpus.length(index))).toEqual([3, 2, 1]);
    expect(corpus.document(1).origin).toMatch(/batch\.jsonl:3$/);
  });

  test('token types go with their tokens, through cuts too', async () => {
    write(
      'types.jsonl',
      '{"input_ids": [5, 6, 7, 8], "token_type_ids": [0, 0, 1, 2]}\n{"input_ids": [8, 9]}',
    );
    const corpus = await load('types.jsonl', { long: { policy: 'split', maximumTokens: 2 } });
    const types = Array.from({ length: corpus.count }, (_, i) => corpus.document(i).types);
    expect(types.map((t) => t && [...t])).toEqual([[0, 0], [1, 2], undefined]);
    write('types.jsonl', '{"input_ids": [5, 6], "token_type_ids": [0]}');
    expect(await refusal('types.jsonl')).toMatch(/1 token_type_ids for 2 input_ids/);
    write('types.jsonl', '{"input_ids": [5], "token_type_ids": [-1]}');
    expect(await refusal('types.jsonl')).toMatch(/token_type_ids has -1/);
  });

  test('labels of other losses belong to their own tokens, through cuts too', async () => {
    write('own.jsonl', '{"input_ids": [5, 6, 7, 8], "labels": [1, -100, 2, 0]}');
    const loss = { kind: 'token-classification', classes: 3 } as const;
    const whole = await load('own.jsonl', { loss });
    expect(contents(whole)).toEqual([{ ids: [5, 6, 7, 8], labels: [1, -100, 2, 0] }]);
    const cut = await load('own.jsonl', { loss, long: { policy: 'split', maximumTokens: 2 } });
    expect(contents(cut).map(({ labels }) => labels)).toEqual([
      [1, -100],
      [2, 0],
    ]);
    const shifted = await load('own.jsonl');
    expect(shifted.fingerprint).not.toBe(whole.fingerprint);
    write('own.jsonl', '{"input_ids": [5], "labels": [3]}');
    expect(await refusal('own.jsonl', { loss })).toMatch(/labels\[0\] is 3, outside the model's 3 classes/);
    write('own.jsonl', '{"input_ids": [5]}');
    expect(await refusal('own.jsonl', { loss })).toMatch(
      /own\.jsonl:1 has no labels, which the loss token-classification needs/,
    );
  });

  test('the label of a document stands at its first or last token', async () => {
    const loss = { kind: 'document-classification', classes: 3, pool: { kind: 'last' } } as const;
    write('doc.jsonl', '{"input_ids": [5, 6, 7], "label": 2}\n{"text": "ab", "label": 0}');
    const last = await load('doc.jsonl', { loss, tokenizer: 'bytes' });
    expect(contents(last).map(({ labels }) => labels)).toEqual([
      [-100, -100, 2],
      [-100, 0],
    ]);
    const first = { ...loss, pool: { kind: 'first' } } as const;
    const cut = { policy: 'truncate', maximumTokens: 2 } as const;
    const truncated = await load('doc.jsonl', { loss: first, tokenizer: 'bytes', long: cut });
    expect(contents(truncated).map(({ labels }) => labels)).toEqual([
      [2, -100],
      [0, -100],
    ]);
    expect(await refusal('doc.jsonl', { loss, tokenizer: 'bytes', long: cut })).toMatch(
      /doc\.jsonl:1: the document has 3 tokens, the limit is 2, and --long truncate would part it from its label/,
    );
    write('doc.jsonl', '{"input_ids": [5], "label": 3}');
    expect(await refusal('doc.jsonl', { loss })).toMatch(/label is 3, expected a class from 0 to 2/);
    write('doc.jsonl', '{"input_ids": [5]}');
    expect(await refusal('doc.jsonl', { loss })).toMatch(/doc\.jsonl:1 has no labels/);
  });

  test('targets of a document, at the token that stands for it', async () => {
    const loss = { kind: 'regression', classes: 2, pool: { kind: 'last-except', id: 9 } } as const;
    write(
      'targets.jsonl',
      '{"input_ids": [5, 6, 9], "label": [0.5, -2]}\n{"text": "ab", "labels": [1, 3e-3]}',
    );
    const corpus = await load('targets.jsonl', { loss, tokenizer: 'bytes' });
    expect(contents(corpus).map(({ labels }) => labels)).toEqual([
      [-100, 0, -100],
      [-100, 0],
    ]);
    const [one, two] = [corpus.document(0), corpus.document(1)];
    expect([...one.targets!]).toEqual([0.5, -2]);
    expect([...two.targets!]).toEqual([1, Math.fround(3e-3)]);
    const row = packDocuments([one, two]);
    expect([...row.targets!]).toEqual([0, 0, 0.5, -2, 0, 0, 0, 0, 1, Math.fround(3e-3)]);
    expect([...row.lengths]).toEqual([3, 3, 3, 2, 2]);
    for (const label of ['1', '[1]', '[1, null]', '[1, 1e99]', '"x"'])
      expect(await refusalOf(`{"input_ids": [5], "label": ${label}}`, { loss })).toMatch(
        /bad\.jsonl:1: label is .*, expected a list of 2 numbers/,
      );
    expect(await refusalOf('{"input_ids": [5]}', { loss })).toMatch(
      /has no labels, which the loss regression needs/,
    );
  });

  describe('a teacher', () => {
    const loss = {
      kind: 'next-token',
      classes: 256,
      distillation: { temperature: 1, alpha: 0.5, topK: 2 },
    } as const;
    const line = (teacher: unknown): string => JSON.stringify({ input_ids: [5, 6, 7], teacher });

    test('keeps the largest logits, in the order of their size', async () => {
      const teacher = { ids: [[4], [1, 2, 3], [9, 8]], logits: [[-1], [0.5, 2, 1], [3, 3]] };
      write('teacher.jsonl', line(teacher));
      const document = (await load('teacher.jsonl', { loss })).document(0);
      expect([...document.teacher!.ids]).toEqual([4, -1, 2, 3, 9, 8]);
      expect([...document.teacher!.logits]).toEqual([-1, 0, 2, 1, 3, 3]);
      const long = { policy: 'split', maximumTokens: 2 } as const;
      const pieces = await load('teacher.jsonl', { loss, long });
      const kept = [0, 1].flatMap((i) => [...pieces.document(i).teacher!.ids]);
      expect(kept).toEqual([4, -1, 2, 3, 9, 8]);
      expect([...pieces.document(1).teacher!.logits].slice(-2)).toEqual([3, 3]);
      expect((await load('teacher.jsonl', { loss, purpose: 'eval' })).document(0).teacher).toBeUndefined();
    });

    test('in a file beside the data, dense or with ids', async () => {
      const dense = Float32Array.from(
        { length: 3 * 256 },
        (_, i) => -Math.abs((i % 256) - Math.floor(i / 256)),
      );
      await writeSafetensors(path.join(folder, 'teacher.safetensors'), [
        { name: 'dense', dtype: 'F32', shape: [3, 256], data: dense },
        { name: 'ids', dtype: 'I64', shape: [3, 1], data: BigInt64Array.of(7n, 8n, 9n) },
        { name: 'logits', dtype: 'F32', shape: [3, 1], data: Float32Array.of(1, 2, 3) },
      ]);
      const file = 'teacher.safetensors';
      write(
        'stored.jsonl',
        [line({ file, logits: 'dense' }), line({ file, ids: 'ids', logits: 'logits' })].join('\n'),
      );
      const corpus = await load('stored.jsonl', { loss });
      expect([...corpus.document(0).teacher!.ids]).toEqual([0, 1, 1, 0, 2, 1]);
      expect([...corpus.document(1).teacher!.ids]).toEqual([7, -1, 8, -1, 9, -1]);
      expect([...corpus.document(1).teacher!.logits]).toEqual([1, 0, 2, 0, 3, 0]);
    });

    test.each<[unknown, RegExp]>([
      [undefined, /bad\.jsonl:1 has no teacher, which the loss distillation needs/],
      [[1], /teacher is \[1\]/],
      [{ logits: [[1]] }, /logits for 1 tokens, the document has 3/],
      [{ logits: [[1], [1], [1]] }, /has 1 logits without ids, the model has 256/],
      [{ ids: [[1], [1], [256]], logits: [[1], [1], [1]] }, /token 2 has the id 256, outside/],
      [{ ids: [[1], [1], [-1]], logits: [[1], [1], [1]] }, /token 2 has the id -1, outside/],
      [{ ids: [[1, 1], [1], [1]], logits: [[1, 2], [1], [1]] }, /token 0 has an id twice/],
      [{ ids: [[1], [1], [1.5]], logits: [[1], [1], [1]] }, /token 2 has the id 1\.5/],
      [{ ids: [[1], [1], []], logits: [[1], [1], []] }, /token 2 has no logits/],
      [{ ids: [[1], [1], [1]], logits: [[1], [1], [1e300]] }, /token 2 has the logit 1e\+300/],
      [{ ids: [[1], [1], [1]], logits: [[1], [1], 'x'] }, /teacher\.logits\[2\] is "x"/],
      [{ file: '../x.safetensors', logits: 'a' }, /x\.safetensors/],
      [{ file: '/etc/passwd', logits: 'a' }, /teacher\.file is "\/etc\/passwd", expected a relative path/],
      [{ file: 'teacher.safetensors', logits: 'absent' }, /holds no tensor "absent"/],
      [
        { file: 'teacher.safetensors', logits: 'logits', ids: 'dense' },
        /ids are \[3, 256\], its logits \[3, 1\]/,
      ],
      [{ file: 'teacher.safetensors', logits: 3 }, /teacher\.logits is 3, expected the name of a tensor/],
    ])('%j is refused', async (teacher, message) => {
      expect(await refusalOf(line(teacher), { loss })).toMatch(message);
    });
  });

  test('lines across read chunks, documents larger than a slab', async () => {
    const long = Array.from({ length: 1_500_000 }, (_, index) => index % 251);
    const lines = Array.from({ length: 200 }, (_, index) => ({ input_ids: [index, index + 1] }));
    write('long.jsonl', [{ input_ids: long }, ...lines].map((line) => JSON.stringify(line)).join('\n'));
    const corpus = await load('long.jsonl');
    expect(corpus.count).toBe(201);
    const { ids, labels } = corpus.document(0);
    expect(ids.every((id, index) => id === long[index])).toBe(true);
    expect(labels.subarray(0, -1).every((label, index) => label === long[index + 1])).toBe(true);
    expect(labels.at(-1)).toBe(-100);
    expect([...corpus.document(200).ids]).toEqual([199, 200]);
  });

  test('text lines need a tokenizer', async () => {
    write('text.jsonl', '{"text": "aé"}\n{"input_ids": [1, 2], "text": "unused"}\n');
    expect(await refusal('text.jsonl')).toMatch(/text\.jsonl:1 is text, and no tokenizer/);
    expect(contents(await load('text.jsonl', { tokenizer: 'bytes' }))).toEqual([
      { ids: [97, 0xc3, 0xa9], labels: [0xc3, 0xa9, -100] },
      { ids: [1, 2], labels: [2, -100] },
    ]);
  });

  test.each([
    ['{"input_ids": [1, 2', /bad\.jsonl:2: not JSON/],
    ['[1, 2]', /bad\.jsonl:2: not a JSON object/],
    ['{"ids": [1]}', /bad\.jsonl:2: neither/],
    ['{"input_ids": 7}', /bad\.jsonl:2: input_ids is no list/],
    ['{"input_ids": []}', /bad\.jsonl:2: input_ids is empty/],
    ['{"input_ids": [1, "2"]}', /bad\.jsonl:2: input_ids\[1\] is "2", expected an integer/],
    ['{"input_ids": [1, 2.5]}', /input_ids\[1\] is 2\.5/],
    ['{"input_ids": [1, null]}', /input_ids\[1\] is null/],
    ['{"input_ids": [1, 256]}', /input_ids\[1\] is 256, outside the model's vocabulary of 256 \(0 to 255\)/],
    ['{"input_ids": [-1]}', /input_ids\[0\] is -1, outside/],
    ['{"input_ids": [-100]}', /input_ids\[0\] is -100, outside/],
    ['{"input_ids": [4294967297]}', /outside/],
    ['{"input_ids": [1, 2], "labels": [1]}', /bad\.jsonl:2: 1 labels for 2 input_ids/],
    ['{"input_ids": [1], "labels": [256]}', /labels\[0\] is 256, outside .*or -100/],
    ['{"input_ids": [1], "labels": [-1]}', /labels\[0\] is -1/],
    ['{"input_ids": [1], "labels": null}', /labels is no list/],
    ['{"input_ids": [1, 2], "attention_mask": [1, 0]}', /attention_mask hides tokens/],
    ['{"text": ""}', /"text" is empty/],
    ['{"text": 3}', /"text" is no string/],
    ['{"text": "a", "labels": [1]}', /labels without input_ids/],
    ['{"__proto__": {"input_ids": [1]}}', /neither/],
  ])('%s', async (line, message) => {
    write('bad.jsonl', `{"input_ids": [1], "attention_mask": [1]}\n${line}\n`);
    expect(await refusal('bad.jsonl', { tokenizer: 'bytes' })).toMatch(message);
  });

  test('bytes that are not UTF-8', async () => {
    write('latin.jsonl', Buffer.from('{"text": "caf\xe9"}', 'latin1'));
    expect(await refusal('latin.jsonl', { tokenizer: 'bytes' })).toMatch(/latin\.jsonl:1: not UTF-8/);
  });
});

describe('files', () => {
  test('globs, in order of their paths, each once', async () => {
    write('docs/b.md', 'b');
    write('docs/a/z.md', 'z');
    write('docs/[x].md', 'x');
    const corpus = await load(['docs/**/*.md', 'docs/b.md', 'docs/[x].md'], { tokenizer: 'bytes' });
    expect(contents(corpus).map(({ ids }) => String.fromCharCode(...ids))).toEqual(['x', 'z', 'b']);
    expect(corpus.document(2).origin).toMatch(/docs\/b\.md$/);
    expect(contents(await load('docs/[x].md', { tokenizer: 'bytes' }))).toHaveLength(1);
  });

  test('the fingerprint follows content, labels and cuts', async () => {
    write('f/1.jsonl', '{"input_ids": [1, 2, 3]}');
    write('f/2.jsonl', '{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}');
    write('f/3.jsonl', '{"input_ids": [1, 2, 3], "labels": [1, -100, 3]}');
    write('f/4.jsonl', '{"input_ids": [1, 2]}\n{"input_ids": [3]}');
    const prints = await Promise.all([1, 2, 3, 4].map(async (n) => (await load(`f/${n}.jsonl`)).fingerprint));
    const long = { policy: 'truncate', maximumTokens: 2 } as const;
    prints.push((await load('f/1.jsonl', { long })).fingerprint);
    expect(prints[0]).toBe(prints[1]);
    expect(new Set(prints).size).toBe(4);
  });

  test('nothing matches, a folder, an empty file, a file without documents', async () => {
    write('empty.txt', '');
    write('blank.jsonl', '\n  \n');
    write('ok.txt', 'ok');
    expect(await refusal('nothing/*.md', { tokenizer: 'bytes' })).toMatch(/no file matches nothing\/\*\.md/);
    expect(await refusal(folder, { tokenizer: 'bytes' })).toMatch(/is a folder/);
    expect(await refusal(['ok.txt', 'empty.txt'], { tokenizer: 'bytes' })).toMatch(/empty\.txt is empty/);
    expect(await refusal('blank.jsonl')).toMatch(/blank\.jsonl holds no document/);
    expect(await refusal('ok.txt')).toMatch(/ok\.txt is text, and no tokenizer/);
  });

  test('a byte outside a small vocabulary', async () => {
    write('ascii.txt', 'ab\x7f');
    write('high.txt', 'aé');
    expect((await load('ascii.txt', { tokenizer: 'bytes', vocabulary: 128 })).tokens).toBe(3);
    expect(await refusal('high.txt', { tokenizer: 'bytes', vocabulary: 128 })).toMatch(
      /byte\[1\] is 195, outside/,
    );
  });
});

describe('a Hugging Face tokenizer', () => {
  /** Byte-level BPE with two merges and a beginning-of-text token, in the form the Rust library writes. */
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [
      {
        id: 7,
        content: '<s>',
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      },
    ],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [7], tokens: ['<s>'] } },
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: { a: 0, b: 1, c: 2, Ġ: 3, ab: 4, abc: 5, Ġab: 6 },
      merges: ['a b', 'ab c', 'Ġ ab'],
    },
  };

  test('encodes as the Rust library, from the file or its folder', async () => {
    const file = path.join(folder, write('tok/tokenizer.json', JSON.stringify(tokenizer)));
    write('text.txt', 'abc ab cab');
    const expected = [{ ids: [7, 5, 6, 3, 2, 4], labels: [5, 6, 3, 2, 4, -100] }];
    for (const spec of [file, path.dirname(file)]) {
      expect(contents(await load('text.txt', { tokenizer: spec }))).toEqual(expected);
    }
    expect(await refusal('text.txt', { tokenizer: file, vocabulary: 7 })).toMatch(/token\[0\] is 7, outside/);
  });

  test('a word it does not know is its unknown token, or an error', async () => {
    const words = (unk_token?: string) => ({
      ...tokenizer,
      pre_tokenizer: { type: 'Whitespace' },
      post_processor: null,
      model: { type: 'WordLevel', vocab: { '[?]': 0, hello: 1 }, unk_token },
    });
    const strict = path.join(folder, write('strict/tokenizer.json', JSON.stringify(words())));
    const lenient = path.join(folder, write('lenient/tokenizer.json', JSON.stringify(words('[?]'))));
    write('unknown.txt', 'hello world');
    expect(contents(await load('unknown.txt', { tokenizer: lenient }))[0]?.ids).toEqual([1, 0]);
    const message = await refusal('unknown.txt', { tokenizer: strict });
    expect(message).toMatch(/unknown\.txt: tokenizer .* does not know "world"/);
    write('latin.txt', Buffer.from([0x61, 0xe9]));
    expect(await refusal('latin.txt', { tokenizer: lenient })).toMatch(/latin\.txt: not UTF-8/);
  });

  test('tokenizer_config.json beside it is read', async () => {
    const file = path.join(folder, write('config/tokenizer.json', JSON.stringify(tokenizer)));
    write('config/tokenizer_config.json', '{"bos_token": ');
    write('text.txt', 'abc');
    expect(await refusal('text.txt', { tokenizer: file })).toMatch(/tokenizer_config\.json is not JSON/);
    write('config/tokenizer_config.json', '{"bos_token": "<s>"}');
    expect((await load('text.txt', { tokenizer: file })).tokens).toBe(2);
  });

  test.each([
    ['missing', undefined, /missing\.json does not exist/],
    ['not JSON', '{"model"', /is not JSON/],
    ['no object', '7', /is not a JSON object/],
    ['no tokenizer', '{"version": "1.0"}', /is no tokenizer that ithaca can use/],
    [
      'no known model',
      JSON.stringify({ ...tokenizer, model: { type: 'Magic', vocab: 3 } }),
      /is no tokenizer/,
    ],
  ])('%s', async (_, content, message) => {
    write('any.txt', 'a');
    const name = content === undefined ? 'missing.json' : write('broken.json', content);
    expect(await refusal('any.txt', { tokenizer: path.join(folder, name) })).toMatch(message);
  });
});

describe('--long', () => {
  const ids = [10, 11, 12, 13, 14, 15, 16];
  const limited = async (policy: 'error' | 'split' | 'truncate', maximumTokens: number) => {
    write('long7.jsonl', `{"input_ids": [1, 2]}\n{"input_ids": [${ids.join()}]}\n`);
    return load('long7.jsonl', { long: { policy, maximumTokens } });
  };

  test('error names the document, its length and the limit', async () => {
    await expect(limited('error', 6)).rejects.toThrow(
      /long7\.jsonl:2: the document has 7 tokens, the limit is 6$/,
    );
    expect((await limited('error', 7)).count).toBe(2);
  });

  test('split loses neither token nor label', async () => {
    const corpus = await limited('split', 3);
    expect(contents(corpus)).toEqual([
      { ids: [1, 2], labels: [2, -100] },
      { ids: [10, 11], labels: [11, 12] },
      { ids: [12, 13], labels: [13, 14] },
      { ids: [14, 15, 16], labels: [15, 16, -100] },
    ]);
    expect(corpus.document(3).origin).toMatch(/long7\.jsonl:2 \(chunk 3\)$/);
    expect(contents(await limited('split', 1))).toHaveLength(9);
  });

  test('truncate keeps the true label of the last token kept', async () => {
    expect(contents(await limited('truncate', 3))).toEqual([
      { ids: [1, 2], labels: [2, -100] },
      { ids: [10, 11, 12], labels: [11, 12, 13] },
    ]);
  });
});

describe('masked language modelling', () => {
  const mlm = { rate: 0.15, maskId: 255, seed: 3, special: [7] };
  const loss = { kind: 'masked-lm', classes: 256, mlm } as const;
  const document = (n: number): number[] => Array.from({ length: n }, (_, t) => (t * 31) % 251);

  test('needs labels or a masking rate', async () => {
    write('plain.jsonl', '{"input_ids": [5, 6]}');
    expect(await refusal('plain.jsonl', { loss: { kind: 'masked-lm', classes: 256 } })).toMatch(
      /plain\.jsonl:1 has no labels, which the loss masked-lm needs/,
    );
    write('plain.txt', 'sing');
    expect(
      await refusal('plain.txt', { tokenizer: 'bytes', loss: { kind: 'masked-lm', classes: 256 } }),
    ).toMatch(/plain\.txt has no labels/);
  });

  test('predicts 15 % of the tokens, of which 80 % are hidden and 10 % replaced', async () => {
    write('long.jsonl', JSON.stringify({ input_ids: document(40_000) }));
    const [found] = contents(await load('long.jsonl', { loss }));
    const chosen = found!.labels.flatMap((label, t) => (label === -100 ? [] : [t]));
    const share = (part: readonly number[], of: number): number => part.length / of;
    expect(share(chosen, 40_000)).toBeCloseTo(0.15, 2);
    expect(
      share(
        chosen.filter((t) => found!.ids[t] === mlm.maskId),
        chosen.length,
      ),
    ).toBeCloseTo(0.8, 1);
    expect(
      share(
        chosen.filter((t) => found!.ids[t] === found!.labels[t]),
        chosen.length,
      ),
    ).toBeCloseTo(0.1, 1);
    const original = document(40_000);
    expect(chosen.every((t) => found!.labels[t] === original[t])).toBe(true);
    expect(found!.labels).not.toContain(7);
    expect(original.every((id, t) => found!.labels[t] !== -100 || found!.ids[t] === id)).toBe(true);
  });

  test('hides the same tokens of a document wherever it is, others with another seed', async () => {
    const lines = [60, 61, 62].map((n) => JSON.stringify({ input_ids: document(n) }));
    write('forward.jsonl', lines.join('\n'));
    write('backward.jsonl', [...lines].reverse().join('\n'));
    const forward = contents(await load('forward.jsonl', { loss }));
    expect(contents(await load('backward.jsonl', { loss })).reverse()).toEqual(forward);
    const other = { ...loss, mlm: { ...mlm, seed: 4 } };
    expect(contents(await load('forward.jsonl', { loss: other }))).not.toEqual(forward);
  });

  test('leaves labels that are given as they are', async () => {
    write('given.jsonl', '{"input_ids": [5, 6], "labels": [-100, 9]}');
    expect(contents(await load('given.jsonl', { loss }))).toEqual([{ ids: [5, 6], labels: [-100, 9] }]);
  });
});
