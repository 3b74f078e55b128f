import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const MODEL = path.resolve('test/models/llama/model.onnx');

test('ONNX Runtime keeps no record of what is compiled and run', async () => {
  const home = path.join(folder, 'home');
  mkdirSync(home);
  const env = { HOME: home, XDG_CACHE_HOME: home, TMPDIR: home };
  const out = path.join(folder, 'llama.ithaca');
  await succeed(['compile', MODEL, '-o', out], { env });
  expect(readdirSync(home)).toEqual([]);
  const data = path.join(folder, 'text.txt');
  writeFileSync(data, 'Ranks are threads of one process.\n'.repeat(20));
  const run = ['--tokenizer', 'bytes', '--ranks', '2', '--steps', '1', '--batch-tokens', '64'];
  await succeed(['train', out, '--data', data, ...run, '--out', path.join(folder, 'run')], { env });
  expect(readdirSync(home)).toEqual([]);
});
