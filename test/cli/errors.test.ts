import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { onnx } from 'onnx-proto';
import onnxProto from 'onnx-proto';
import { beforeAll, describe, expect, test } from 'vitest';
import { modelFolder } from '../support/oracle.js';
import { ithaca, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const at = (...parts: string[]): string => path.join(folder, ...parts);
const llama = path.join(modelFolder('llama'), 'model.onnx');

const external = (location: string, bytes = 64): onnx.ITensorProto => ({
  dataLocation: 1,
  externalData: [
    { key: 'location', value: location },
    { key: 'offset', value: '0' },
    { key: 'length', value: String(bytes) },
  ],
});

const dims = (elemType: number, sizes: readonly (number | string)[]): onnx.ITypeProto => ({
  tensorType: {
    elemType,
    shape: { dim: sizes.map((size) => (typeof size === 'number' ? { dimValue: size } : { dimParam: size })) },
  },
});

/** logits = f(embed[input_ids]) · embedᵀ-like head, 8 tokens of vocabulary, 2 wide. */
function model(
  middle: readonly onnx.INodeProto[],
  options: { readonly hidden?: string; readonly head?: onnx.ITensorProto } = {},
): Uint8Array {
  const data = (values: number): Uint8Array => new Uint8Array(new Float32Array(values).fill(0.1).buffer);
  return onnxProto.onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [{ domain: '', version: 20 }],
    graph: {
      name: 'tiny',
      input: [{ name: 'input_ids', type: dims(7, ['batch', 'sequence']) }],
      output: [{ name: 'logits', type: dims(1, ['batch', 'sequence', 8]) }],
      initializer: [
        { name: 'embed', dims: [8, 2], dataType: 1, rawData: data(16) },
        { name: 'head', dims: [2, 8], dataType: 1, ...(options.head ?? { rawData: data(16) }) },
        { name: 'axis', dims: [1], dataType: 7, rawData: new Uint8Array(BigInt64Array.of(1n).buffer) },
      ],
      node: [
        { name: 'embedding', opType: 'Gather', input: ['embed', 'input_ids'], output: ['x'] },
        ...middle,
        {
          name: 'head_product',
          opType: 'MatMul',
          input: [options.hidden ?? 'x', 'head'],
          output: ['logits'],
        },
      ],
    },
  }).finish();
}

describe('models that are refused, with nothing written', () => {
  const whole = readFileSync(llama);
  mkdirSync(at('deep'));
  writeFileSync(at('outside.bin'), new Uint8Array(64));
  writeFileSync(at('deep', 'short.bin'), new Uint8Array(60));
  symlinkSync(at('outside.bin'), at('deep', 'link.bin'));
  const withHead = (location: string): Uint8Array => model([], { head: external(location) });
  test.each<[string, Uint8Array, RegExp]>([
    ['no ONNX file', Buffer.from('hello'), /not an ONNX file/],
    ['truncated', whole.subarray(0, whole.length >> 1), /truncated ONNX file/],
    ['empty', new Uint8Array(), /ONNX/],
    [
      'an unknown op',
      model([{ name: 'odd', opType: 'Frobnicate', input: ['x'], output: ['y'] }], { hidden: 'y' }),
      /odd.*Frobnicate/,
    ],
    [
      'an op that mixes tokens',
      model(
        [
          { name: 'mean', opType: 'ReduceMean', input: ['x', 'axis'], output: ['m'] },
          { name: 'mix', opType: 'Add', input: ['x', 'm'], output: ['y'] },
        ],
        { hidden: 'y' },
      ),
      /Add node mix: puts all tokens and the mean over a document together/,
    ],
    ['external data missing', withHead('absent.bin'), /absent\.bin/],
    ['external data too short', withHead('short.bin'), /short\.bin/],
    ['an absolute path of external data', withHead(at('outside.bin')), /outside\.bin/],
    ['external data that escapes by ..', withHead('../outside.bin'), /\.\..outside\.bin/],
    ['external data that escapes by a link', withHead('link.bin'), /link\.bin/],
  ])('%s', async (_, bytes, expected) => {
    writeFileSync(at('deep', 'bad.onnx'), bytes);
    const before = readdirSync(folder);
    const { code, stdout, stderr } = await ithaca([
      'compile',
      at('deep', 'bad.onnx'),
      '-o',
      at('bad.ithaca'),
    ]);
    const lines = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('✓'));
    expect(lines[0]).toMatch(/^error: /);
    expect(lines[0]).toMatch(expected);
    expect(lines[1]).toMatch(/^ {2}hint: /);
    expect(lines).toHaveLength(2);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(readdirSync(folder)).toEqual(before);
  });
});

describe('mistakes around a good package', () => {
  const pkg = at('llama.ithaca');
  beforeAll(async () => {
    await succeed(['compile', llama, '-o', pkg]);
    writeFileSync(at('misspelt.json'), '{"optimizer": {"weightDekay": 0}}');
    writeFileSync(at('misspelt-loss.json'), '{"loss": {"kind": "masked_lm"}}');
    writeFileSync(
      at('misspelt-mask.json'),
      '{"loss": {"kind": "masked-lm", "mlm": {"maskID": 3, "maskId": 3}}}',
    );
    writeFileSync(at('masked.json'), '{"loss": {"kind": "masked-lm"}}');
    writeFileSync(at('stray.jsonl'), '{"input_ids": [1, 2]}\n{"input_ids": [1, 512]}\n');
    writeFileSync(at('empty.jsonl'), '');
    writeFileSync(at('empty.txt'), '');
    writeFileSync(at('text.txt'), 'sing in me');
    writeFileSync(at('good.jsonl'), '{"input_ids": [1, 2, 3]}\n');
  });
  const train = (...rest: string[]): string[] => ['train', pkg, '--out', at('never'), ...rest];
  test.each<[string, () => string[], RegExp, RegExp]>([
    [
      'a config key misspelt',
      () => ['compile', llama, '-o', at('never'), '--config', 'misspelt.json'],
      /misspelt\.json: unknown key 'optimizer\.weightDekay'/,
      /did you mean 'weightDecay'/,
    ],
    [
      'a loss misspelt',
      () => ['compile', llama, '-o', at('never'), '--config', 'misspelt-loss.json'],
      /misspelt-loss\.json: there is no loss "masked_lm"/,
      /did you mean 'masked-lm'/,
    ],
    [
      'a masking option misspelt',
      () => ['compile', llama, '-o', at('never'), '--config', 'misspelt-mask.json'],
      /misspelt-mask\.json: unknown key 'loss\.mlm\.maskID'/,
      /did you mean 'maskId'/,
    ],
    [
      'a config whose loss the package was not compiled with',
      () => train('--data', 'good.jsonl', '--config', 'masked.json'),
      /masked\.json: the loss is masked-lm, but model was compiled with next-token/,
      /compile again/,
    ],
    [
      '--sp above the head count',
      () => train('--data', 'good.jsonl', '--sp', '9', '--ranks', '9'),
      /groups of 9 ranks are too large: .* has 8 attention heads/,
      /--sp 8/,
    ],
    [
      '--sp above the head count, for grad',
      () => ['grad', pkg, '--batch', 'good.jsonl', '--sp', '9', '-o', at('never')],
      /groups of 9 ranks are too large/,
      /--sp 8/,
    ],
    [
      'a token outside the vocabulary',
      () => ['eval', pkg, '--batch', 'stray.jsonl', '-o', at('never')],
      /stray\.jsonl:2: input_ids\[1\] is 512, outside the model's vocabulary of 512/,
      /tokenizer/,
    ],
    [
      'a document longer than fits',
      () => train('--data', 'text.txt', '--tokenizer', 'bytes', '--max-tokens-per-group', '4'),
      /text\.txt: the document has 10 tokens, the limit is 4/,
      /--long split/,
    ],
    [
      'an empty data file',
      () => train('--data', 'empty.txt', '--tokenizer', 'bytes'),
      /empty\.txt is empty/,
      /fill it/,
    ],
    [
      'an empty batch',
      () => ['grad', pkg, '--batch', 'empty.jsonl', '-o', at('never')],
      /empty\.jsonl holds no document/,
      /fill it/,
    ],
    [
      'text without a tokenizer',
      () => train('--data', 'text.txt'),
      /text\.txt is text, and no tokenizer was given/,
      /--tokenizer bytes/,
    ],
    [
      'data that is not there',
      () => train('--data', 'nowhere/*.txt', '--tokenizer', 'bytes'),
      /no file matches nowhere/,
      /quote/,
    ],
    ['no data at all', () => train(), /no training data was given/, /--data/],
    ['what is no package', () => ['inspect', folder], /is not a package/, /ithaca compile/],
    ['no package there', () => ['verify', at('nothing')], /does not exist/, /check/],
    ['no run there', () => ['export', at('nothing'), '-o', at('never')], /holds no run/, /train --out/],
    [
      'an output folder that is not there',
      () => ['grad', pkg, '--batch', 'good.jsonl', '-o', at('no', 'g.safetensors')],
      /no.g\.safetensors: the folder does not exist/,
      /create/,
    ],
  ])('%s', async (_, args, message, hint) => {
    const { code, stdout, stderr } = await ithaca(args(), { cwd: folder });
    const [first = '', second = '', ...rest] = stderr.trimEnd().split('\n');
    expect(first).toMatch(/^error: /);
    expect(first).toMatch(message);
    expect(second).toMatch(/^ {2}hint: /);
    expect(second).toMatch(hint);
    expect({ rest, code, stdout, made: existsSync(at('never')) }).toEqual({
      rest: [],
      code: 1,
      stdout: '',
      made: false,
    });
  });

  test('ITHACA_DEBUG=1 adds the stack', async () => {
    const { stderr } = await ithaca(['inspect', at('nothing')], { env: { ITHACA_DEBUG: '1' } });
    expect(stderr).toMatch(/\n {4}at /);
  });
});
