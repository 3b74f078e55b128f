/** The other files that a stranger may have written: packages, configs, weights, data, tokenizers. */
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { reportOn } from '../../src/cli/inspect-report.js';
import { contentsOf, lowerModel } from '../../src/compile/compile.js';
import { loadConfigFile, parseConfig } from '../../src/config.js';
import { UserError } from '../../src/errors.js';
import { SafetensorsReader, writeSafetensors } from '../../src/files/safetensors.js';
import { openPackage } from '../../src/package/read.js';
import { writePackage } from '../../src/package/write.js';
import { loadCorpus } from '../../src/runtime/data/load.js';
import { BYTE_EDITS } from './bytes.js';
import { MAX_MESSAGE, UNPRINTABLE } from './compile.js';
import { diceOf, type Dice } from './dice.js';
import { damageJson } from './json.js';

/** One kind of file: makes a damaged one in a folder, and reads it as ithaca does. */
interface Reader {
  readonly damage: (dice: Dice) => void;
  readonly read: () => Promise<unknown>;
}

export interface ReaderOutcome {
  readonly reader: string;
  readonly kind: 'accepted' | 'refused' | 'fault';
  readonly text: string;
  readonly ms: number;
}

const damagedBytes = (bytes: Uint8Array, dice: Dice): Uint8Array =>
  BYTE_EDITS[dice.pick(Object.keys(BYTE_EDITS))]!(bytes, dice);

/** The text with one to three places changed, or bytes of it. */
function damagedJson(text: string, dice: Dice): Uint8Array {
  if (dice.chance(0.2)) return damagedBytes(Buffer.from(text), dice);
  const value = JSON.parse(text) as unknown;
  for (let i = dice.below(3); i >= 0; i--) damageJson(value, dice);
  return Buffer.from(JSON.stringify(value) ?? '');
}

async function packageReader(folder: string): Promise<Reader> {
  const [sound, damaged] = [path.join(folder, 'sound.ithaca'), path.join(folder, 'damaged.ithaca')];
  const model = path.resolve('test/models/llama/model.onnx');
  const options = { config: parseConfig({}, 'fuzz'), weights: true, replace: true };
  const contents = contentsOf(model, await lowerModel(model, options));
  await writePackage(sound, { ...contents, index: Promise.resolve('') }, { replace: true });
  const manifest = readFileSync(path.join(sound, 'manifest.json'), 'utf8');
  const files = (JSON.parse(manifest) as { files: { path: string; sha256: string; bytes: number }[] }).files;
  const texts = files.map((file) => file.path).filter((name) => name.endsWith('.json'));
  /** Hashes that fit: the damage itself has to be found. */
  const rehash = (name: string, bytes: Uint8Array): string => {
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const parsed = JSON.parse(manifest) as { files: typeof files };
    const entry = parsed.files.find((file) => file.path === name)!;
    Object.assign(entry, { sha256, bytes: bytes.length });
    return JSON.stringify(parsed);
  };
  return {
    damage: (dice) => {
      rmSync(damaged, { recursive: true, force: true });
      cpSync(sound, damaged, { recursive: true });
      if (dice.chance(0.3)) {
        writeFileSync(path.join(damaged, 'manifest.json'), damagedJson(manifest, dice));
        return;
      }
      const name = dice.pick(texts);
      const bytes = damagedJson(readFileSync(path.join(sound, name), 'utf8'), dice);
      writeFileSync(path.join(damaged, name), bytes);
      writeFileSync(path.join(damaged, 'manifest.json'), rehash(name, bytes));
    },
    read: async () => reportOn(await openPackage(damaged), { tokens: 64, degree: 2 }),
  };
}

const CONFIG = {
  trainable: { include: ['*'], exclude: ['wte'] },
  optimizer: { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1, zeroStage: 1 },
  loss: { kind: 'masked-lm', mlm: { maskId: 3, special: [1, 2] } },
  passes: { checkpoint: { policy: 'cheap' } },
};

function configReader(folder: string): Reader {
  const file = path.join(folder, 'config.json');
  return {
    damage: (dice) => writeFileSync(file, damagedJson(JSON.stringify(CONFIG), dice)),
    read: () => loadConfigFile({ file }),
  };
}

async function safetensorsReader(folder: string): Promise<Reader> {
  const [sound, file] = [path.join(folder, 'sound.safetensors'), path.join(folder, 'damaged.safetensors')];
  const entry = (name: string, shape: number[]) => ({
    name,
    dtype: 'F32' as const,
    shape,
    data: () => new Float32Array(shape.reduce((n, d) => n * d, 1)),
  });
  await writeSafetensors(sound, [entry('a', [3, 4]), entry('__proto__', [2]), entry('c', [])]);
  const bytes = readFileSync(sound);
  const length = Number(bytes.readBigUInt64LE(0));
  return {
    damage: (dice) => {
      if (dice.chance(0.4)) return writeFileSync(file, damagedBytes(bytes, dice));
      const header = damagedJson(bytes.subarray(8, 8 + length).toString(), dice);
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(BigInt(header.length));
      writeFileSync(file, Buffer.concat([size, header, bytes.subarray(8 + length)]));
    },
    read: async () => {
      const reader = SafetensorsReader.open(file);
      try {
        for (const name of ['a', '__proto__', 'c']) {
          const target = new Float32Array(Math.min(reader.info(name).elements, 1e6));
          if (target.length === reader.info(name).elements) reader.readInto(name, target);
        }
      } finally {
        reader.close();
      }
      return Promise.resolve();
    },
  };
}

const LINES = [
  { input_ids: [1, 2, 3], labels: [-100, 2, 3], attention_mask: [1, 1, 1] },
  { input_ids: [4, 5], token_type_ids: [0, 1] },
  { text: 'héllo' },
];

function dataReader(folder: string): Reader {
  const file = path.join(folder, 'data.jsonl');
  return {
    damage: (dice) => {
      const lines = LINES.map((line) => Buffer.from(damagedJson(JSON.stringify(line), dice)).toString());
      writeFileSync(file, lines.join(dice.chance(0.9) ? '\n' : '\r'));
    },
    read: () => loadCorpus([file], { vocabulary: 300, tokenizer: 'bytes' }),
  };
}

const TOKENIZER = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [{ id: 0, content: '<s>', special: true, single_word: false, lstrip: false, rstrip: false }],
  normalizer: { type: 'NFC' },
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: null,
  decoder: { type: 'ByteLevel' },
  model: { type: 'BPE', vocab: { '<s>': 0, a: 1, b: 2, ab: 3 }, merges: ['a b'] },
};

function tokenizerReader(folder: string): Reader {
  const [file, text] = [path.join(folder, 'tokenizer.json'), path.join(folder, 'text.txt')];
  writeFileSync(text, 'abba');
  return {
    damage: (dice) => writeFileSync(file, damagedJson(JSON.stringify(TOKENIZER), dice)),
    read: () => loadCorpus([text], { vocabulary: 300, tokenizer: file }),
  };
}

/** Cases of a seed each, over all readers in turn. @param folder is made and left behind */
export async function* readerCases(
  folder: string,
  seed: number,
  runs: number,
): AsyncGenerator<ReaderOutcome> {
  mkdirSync(folder, { recursive: true });
  const readers: Readonly<Record<string, Reader>> = {
    package: await packageReader(folder),
    config: configReader(folder),
    safetensors: await safetensorsReader(folder),
    data: dataReader(folder),
    tokenizer: tokenizerReader(folder),
  };
  const names = Object.keys(readers);
  for (let i = 0; i < runs; i++) {
    const reader = names[i % names.length]!;
    readers[reader]!.damage(diceOf(seed + i));
    const began = performance.now();
    const { kind, text } = await outcomeOf(readers[reader]!.read);
    yield { reader: `${reader}, seed ${seed + i}`, kind, text, ms: performance.now() - began };
  }
}

async function outcomeOf(read: () => Promise<unknown>): Promise<Pick<ReaderOutcome, 'kind' | 'text'>> {
  try {
    await read();
    return { kind: 'accepted', text: '' };
  } catch (error) {
    if (!(error instanceof UserError))
      return { kind: 'fault', text: error instanceof Error ? (error.stack ?? error.message) : String(error) };
    const isLine = !UNPRINTABLE.test(error.message) && error.message.length < MAX_MESSAGE;
    return { kind: isLine ? 'refused' : 'fault', text: error.message };
  }
}
