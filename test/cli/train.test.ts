import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import * as ort from 'onnxruntime-node';
import { beforeAll, expect, test } from 'vitest';
import { SafetensorsReader } from '../../src/files/safetensors.js';
import { modelFolder } from '../support/oracle.js';
import { BIN, ithaca, jsonLines, run, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const at = (...parts: string[]): string => path.join(folder, ...parts);
const pkg = at('llama.ithaca');
const whole = at('whole');

/** Texts of very different lengths, one of them not ASCII. */
const TEXTS = [
  'wine-dark sea',
  'ὦ ξεῖν᾽',
  'Tell me, Muse, of the man of many ways. '.repeat(4),
  'home',
  'rosy-fingered Dawn '.repeat(2),
];
const trainArgs = (out: string): string[] => [
  'train',
  pkg,
  '--data',
  at('texts', '*.txt'),
  '--tokenizer',
  'bytes',
  '--out',
  out,
  '--ranks',
  '2',
  '--sp',
  '2',
  '--steps',
  '4',
  '--save-every',
  '2',
  '--keep',
  '3',
  '--batch-tokens',
  '120',
  '--lr',
  '1e-3',
];

beforeAll(async () => {
  await succeed(['compile', path.join(modelFolder('llama'), 'model.onnx'), '-o', pkg]);
  mkdirSync(at('texts'));
  TEXTS.forEach((text, i) => writeFileSync(at('texts', `${i}.txt`), text));
  await succeed([...trainArgs(whole), '--eval-data', at('texts', '[01].txt'), '--eval-every', '3']);
});

const weightsOf = (run: string, step: number): string =>
  path.join(run, 'checkpoints', `step-${String(step).padStart(6, '0')}`, 'weights.safetensors');

/** A copy of the finished run as it was after step 2. */
function interrupted(name: string): string {
  const copy = at(name);
  cpSync(whole, copy, { recursive: true });
  rmSync(path.dirname(weightsOf(copy, 4)), { recursive: true });
  return copy;
}

test('a run leaves metrics, checkpoints and its settings', async () => {
  const lines = jsonLines(path.join(whole, 'metrics.jsonl'));
  expect(lines.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
  expect(Object.keys(lines[0]!)).toEqual(
    expect.arrayContaining([
      'loss',
      'grad_norm',
      'lr',
      'tokens',
      'tokens_per_s',
      'bytes_exchanged',
      'exchanges',
      'peak_bytes',
      'ms',
      'groups',
    ]),
  );
  expect(lines.flatMap((line) => ('eval_loss' in line ? [line['step']] : []))).toEqual([3, 4]);
  expect(readdirSync(path.join(whole, 'checkpoints')).sort()).toEqual(['step-000002', 'step-000004']);
  // What inspect computes from the types is what the ranks sent.
  const {
    groups,
    bytes_all_to_all: sent,
    exchanges,
  } = lines[0] as { groups: number[][]; bytes_all_to_all: number; exchanges: number };
  const tokens = groups[0]![0]!;
  expect(groups).toEqual([[tokens]]);
  const inspected = JSON.parse(
    await succeed(['inspect', pkg, '--tokens', String(tokens), '--degree', '2', '--json']),
  ) as {
    exchanges: { forward: { count: number; bytes: number }; backward: { count: number; bytes: number } };
  };
  const { forward, backward } = inspected.exchanges;
  expect([sent, exchanges]).toEqual([forward.bytes + backward.bytes, forward.count + backward.count]);
});

test('a run resumed on the same ranks is the uninterrupted one, bit for bit', async () => {
  const resumed = interrupted('resumed');
  await succeed(['train', '--resume', resumed]);
  for (const file of ['weights.safetensors', 'optimizer.safetensors', 'state.json']) {
    const [a, b] = [whole, resumed].map((r) => readFileSync(path.join(path.dirname(weightsOf(r, 4)), file)));
    expect(b!.equals(a!), file).toBe(true);
  }
  const losses = (run: string): unknown[] =>
    jsonLines(path.join(run, 'metrics.jsonl')).map(({ step, loss }) => [step, loss]);
  expect(losses(resumed)).toEqual(losses(whole));
});

test('a run resumed on other ranks goes on within 1e-5', async () => {
  const resumed = interrupted('other-ranks');
  await succeed(['train', pkg, '--resume', resumed, '--ranks', '3', '--sp', '1']);
  const [a, b] = [whole, resumed].map((run) => SafetensorsReader.open(weightsOf(run, 4)));
  for (const name of a!.tensors.keys()) {
    const [x, y] = [a!.read(name) as Float32Array, b!.read(name) as Float32Array];
    expect(Math.max(...x.map((value, i) => Math.abs(value - y[i]!))), name).toBeLessThan(1e-5);
  }
  a!.close();
  b!.close();
});

test('Ctrl-C finishes the step and saves; the run goes on from there', async () => {
  const out = at('stopped');
  let sent = false;
  const { code, stderr } = await ithaca([...trainArgs(out), '--steps', '100000', '--save-every', '100000'], {
    onStderr: (text, kill) => {
      if (sent || !text.includes('step ')) return;
      sent = true;
      kill('SIGINT');
    },
  });
  expect(stderr).toContain('SIGINT: finishing the step, then saving');
  const step = Number(/stopped after step (\d+); go on with: ithaca train --resume/.exec(stderr)?.[1]);
  expect(code).toBe(130);
  expect(existsSync(weightsOf(out, step))).toBe(true);
  expect(jsonLines(path.join(out, 'metrics.jsonl'))).toHaveLength(step);
  const summary = await succeed(['train', '--resume', out, '--steps', String(step + 1), '--json']);
  expect(JSON.parse(summary)).toMatchObject({ step: step + 1, stopped: false });
});

test('a second Ctrl-C ends the run at once, unsaved', async () => {
  const out = at('killed');
  // Steps long enough to be interrupted twice.
  const args = [...trainArgs(out), '--steps', '100000', '--save-every', '100000', '--batch-tokens', '20000'];
  const sent = new Set<string>();
  const { signal } = await ithaca(args, {
    onStderr: (text, kill) => {
      for (const awaited of ['step ', 'finishing the step'])
        if (text.includes(awaited) && !sent.has(awaited)) {
          sent.add(awaited);
          kill('SIGINT');
          return;
        }
    },
  });
  expect(signal).toBe('SIGINT');
  expect(existsSync(path.join(out, 'checkpoints'))).toBe(false);
  // Nothing was saved, so the folder is free for another run.
  await succeed([...trainArgs(out), '--steps', '1']);
  expect(jsonLines(path.join(out, 'metrics.jsonl'))).toHaveLength(1);
});

// Windows has no ulimit.
test.skipIf(process.platform === 'win32')(
  'a full disk while saving ends the run, and the last checkpoint is as it was',
  async () => {
    const out = interrupted('full');
    const before = readFileSync(weightsOf(out, 2));
    // Files above 200 KiB cannot be written; the weights have 540.
    const script = `trap '' XFSZ; ulimit -f 200; exec "$0" "$@"`;
    const { code, stderr } = await run('bash', [
      '-c',
      script,
      process.execPath,
      BIN,
      'train',
      '--resume',
      out,
    ]);
    expect(stderr).toMatch(
      /\nerror: cannot write .*step-000004.*: the file is larger than the disk allows\n {2}hint: .*\n$/,
    );
    expect(code).toBe(1);
    expect(readdirSync(path.join(out, 'checkpoints'))).toEqual(['step-000002']);
    expect(readFileSync(weightsOf(out, 2)).equals(before)).toBe(true);
  },
);

test('a folder that holds a run is not written over', async () => {
  const { code, stderr } = await ithaca(trainArgs(whole));
  expect(stderr).toMatch(
    /^error: --out .*whole holds a run already\n {2}hint: continue it with --resume .*\n$/,
  );
  expect(code).toBe(1);
});

test('a checkpoint cut short is refused, and the one before it offered', async () => {
  const out = at('cut');
  cpSync(whole, out, { recursive: true });
  truncateSync(weightsOf(out, 4), 1000);
  const { code, stderr } = await ithaca(['train', '--resume', out, '--steps', '5'], { cwd: folder });
  expect(stderr).toMatch(
    /^error: .*step-000004.weights\.safetensors is cut short: 1000 of \d+ bytes\n {2}hint: resume from the one before: --resume cut.checkpoints.step-000002\n$/,
  );
  expect(code).toBe(1);
  const again = JSON.parse(
    await succeed([
      'train',
      '--resume',
      path.join(out, 'checkpoints', 'step-000002'),
      '--steps',
      '3',
      '--json',
    ]),
  ) as { step: number };
  expect(again.step).toBe(3);
});

test.each([
  [
    'the data has changed',
    ['--data', 'texts/0.txt', '--steps', '9'],
    /^error: the training data is not what the run was trained on before/,
  ],
  ['all steps are done', [], /^error: .* has done 4 steps, of 4 in all\n {2}hint: give a larger total/],
  ['the seed is another', ['--seed', '7', '--steps', '9'], /^error: the run's seed is 0, not 7/],
  [
    'the ranks do not form groups',
    ['--ranks', '3', '--steps', '9'],
    /^error: 3 ranks cannot form groups of 2/,
  ],
])('resuming is refused where %s', async (_, args, expected) => {
  const before = readFileSync(path.join(whole, 'run.json'), 'utf8');
  const { code, stderr } = await ithaca(['train', '--resume', whole, ...args], { cwd: folder });
  expect(stderr).toMatch(expected);
  expect(code).toBe(1);
  expect(readFileSync(path.join(whole, 'run.json'), 'utf8')).toBe(before);
});

test('an optimizer setting that is not the package’s asks to compile again', async () => {
  writeFileSync(at('beta.json'), JSON.stringify({ optimizer: { beta1: 0.8, lr: 1e-3 } }));
  const { code, stderr } = await ithaca([...trainArgs(at('never')), '--config', 'beta.json'], {
    cwd: folder,
  });
  expect(stderr).toMatch(
    /^error: beta\.json: optimizer\.beta1 is 0\.8, but .* was compiled with 0\.9\n {2}hint: compile again/,
  );
  expect({ code, made: existsSync(at('never')) }).toEqual({ code: 1, made: false });
});

test('flags go before the config file, the config file before the defaults', async () => {
  writeFileSync(at('lr.json'), JSON.stringify({ optimizer: { lr: 5e-4 }, train: { seed: 3, keep: 7 } }));
  const args = [...trainArgs(at('configured')), '--config', at('lr.json'), '--keep', '1', '--steps', '1'];
  await succeed(args.filter((arg, i) => arg !== '--lr' && args[i - 1] !== '--lr'));
  const { settings } = JSON.parse(readFileSync(at('configured', 'run.json'), 'utf8')) as { settings: object };
  expect(settings).toMatchObject({ lr: 5e-4, seed: 3, keep: 1, evalEvery: 50 });
});

/** Mean loss of texts 0 and 1 on the exported model, in onnxruntime. */
async function lossInOnnxRuntime(model: string): Promise<number> {
  const session = await ort.InferenceSession.create(model);
  let [sum, count] = [0, 0];
  for (const text of TEXTS.slice(0, 2)) {
    const ids = [...Buffer.from(text)];
    const feed = (values: number[]): ort.Tensor =>
      new ort.Tensor('int64', BigInt64Array.from(values, BigInt), [1, ids.length]);
    const { logits } = await session.run({
      input_ids: feed(ids),
      attention_mask: feed(ids.map(() => 1)),
      position_ids: feed(ids.map((_, i) => i)),
    });
    const data = logits!.data as Float32Array;
    const vocabulary = data.length / ids.length;
    for (let t = 0; t + 1 < ids.length; t++) {
      const row = data.subarray(t * vocabulary, (t + 1) * vocabulary);
      const most = Math.max(...row);
      sum += most + Math.log(row.reduce((total, x) => total + Math.exp(x - most), 0)) - row[ids[t + 1]!]!;
      count++;
    }
  }
  await session.release();
  return sum / count;
}

test('export: onnxruntime finds the trained loss, safetensors has torch’s names and layouts', async () => {
  const model = at('trained.onnx');
  const tensors = at('trained.safetensors');
  await succeed(['export', whole, '-o', model, '--safetensors', tensors]);
  const trained = jsonLines(path.join(whole, 'metrics.jsonl')).at(-1)!['eval_loss'] as number;
  expect(Math.abs((await lossInOnnxRuntime(model)) - trained)).toBeLessThan(1e-5);
  const [torch, own] = [SafetensorsReader.open(tensors), SafetensorsReader.open(weightsOf(whole, 4))];
  const { initializers } = JSON.parse(
    readFileSync(path.join(modelFolder('llama'), 'mapping.json'), 'utf8'),
  ) as {
    initializers: Record<string, { param: string; layout: string }>;
  };
  expect([...torch.tensors.keys()].sort()).toEqual(
    Object.values(initializers)
      .map(({ param }) => param)
      .sort(),
  );
  for (const [name, { param, layout }] of Object.entries(initializers)) {
    const [rows, columns] = own.info(name).shape as [number, number];
    expect(torch.info(param).shape).toEqual(layout === 'transposed' ? [columns, rows] : own.info(name).shape);
    const [x, y] = [own.read(name) as Float32Array, torch.read(param) as Float32Array];
    const same = x.every(
      (v, i) => v === y[layout === 'transposed' ? (i % columns) * rows + Math.floor(i / columns) : i],
    );
    expect(same, param).toBe(true);
  }
  torch.close();
  own.close();
});

test('export names the checkpoints there are', async () => {
  const { code, stderr } = await ithaca(['export', whole, '-o', at('never.onnx'), '--step', '3']);
  expect(stderr).toMatch(
    /^error: .* holds no checkpoint of step 3\n {2}hint: it holds those of steps 2, 4\n$/,
  );
  expect({ code, made: existsSync(at('never.onnx')) }).toEqual({ code: 1, made: false });
});
