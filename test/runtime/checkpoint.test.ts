import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { UserError } from '../../src/errors.js';
import {
  listCheckpoints,
  loadCheckpoint,
  saveCheckpoint,
  type CheckpointState,
  type ParameterState,
} from '../../src/runtime/checkpoint.js';

let run: string;
beforeEach(() => {
  run = mkdtempSync(path.join(tmpdir(), 'ithaca-checkpoint-'));
});
afterEach(() => rmSync(run, { recursive: true }));

const stateAt = (step: number): CheckpointState => ({
  step,
  seed: 17,
  packageHash: 'ab'.repeat(32),
  data: { epoch: 1, index: 5, fingerprint: 'cd'.repeat(32) },
  optimizer: {
    kind: 'adamw',
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weightDecay: 0.1,
    clipNorm: null,
    schedule: { kind: 'cosine', peak: 3e-4, warmupSteps: 2, totalSteps: 100, minRatio: 0.1 },
  },
});

const parameters: ParameterState[] = [
  {
    name: '__proto__',
    shape: [2, 2],
    weight: new Float32Array([1, 2, 3, 4]),
    m: () => new Float32Array([5, 6, 7, 8]),
    v: new Float32Array([0.5, 0.25, 1e-30, 0]),
  },
  { name: 'frozen', shape: [1], weight: () => new Float32Array([9]) },
];

const save = (step: number, keep?: number) => saveCheckpoint(run, stateAt(step), parameters, { keep });
const names = () => readdirSync(path.join(run, 'checkpoints')).sort();

async function refusal(target: string): Promise<UserError> {
  const error = await loadCheckpoint(target).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UserError);
  return error as UserError;
}

test('what is saved is loaded, from the run or the directory', async () => {
  const directory = await save(50);
  expect(directory).toBe(path.join(run, 'checkpoints', 'step-000050'));
  for (const target of [run, directory]) {
    const checkpoint = await loadCheckpoint(target);
    expect(checkpoint.directory).toBe(directory);
    expect(checkpoint.state).toEqual(stateAt(50));
    expect([...checkpoint.weights.read('__proto__')]).toEqual([1, 2, 3, 4]);
    expect(checkpoint.weights.info('__proto__').shape).toEqual([2, 2]);
    expect([...checkpoint.weights.read('frozen')]).toEqual([9]);
    expect([...checkpoint.optimizer.read('m/__proto__')]).toEqual([5, 6, 7, 8]);
    expect([...checkpoint.optimizer.read('v/__proto__')]).toEqual([0.5, 0.25, Math.fround(1e-30), 0]);
    expect(checkpoint.optimizer.tensors.size).toBe(2);
    checkpoint.close();
  }
});

test('the last two stay, or as many as asked for; the same step is replaced', async () => {
  for (const step of [1, 2, 10]) await save(step);
  expect(names()).toEqual(['step-000002', 'step-000010']);
  await save(10);
  await save(1_000_000);
  expect(names()).toEqual(['step-000010', 'step-1000000']);
  expect((await loadCheckpoint(run)).state.step).toBe(1_000_000);
  await save(2_000_000, 1);
  expect(names()).toEqual(['step-2000000']);
});

test('going on from an earlier checkpoint does not remove it, nor the later ones', async () => {
  for (const step of [50, 100]) await save(step);
  await save(75);
  expect(names()).toEqual(['step-000050', 'step-000075', 'step-000100']);
});

test('only complete directories count', async () => {
  await save(1);
  mkdirSync(path.join(run, 'checkpoints', 'step-000002'));
  mkdirSync(path.join(run, 'checkpoints', '.step-000003.tmp-1-00'));
  writeFileSync(path.join(run, 'checkpoints', 'step-000004'), '');
  expect(listCheckpoints(run).map(({ step }) => step)).toEqual([1]);
  expect(listCheckpoints(path.join(run, 'nowhere'))).toEqual([]);
  expect((await loadCheckpoint(run)).state.step).toBe(1);
});

test('a failure while saving leaves the older checkpoints and nothing else', async () => {
  await save(1);
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  const failing: ParameterState = {
    name: 'w',
    shape: [1],
    weight: () => {
      throw full;
    },
  };
  const error = await saveCheckpoint(run, stateAt(2), [...parameters, failing]).then(
    () => undefined,
    (reason: unknown) => reason as UserError,
  );
  expect(error).toBeInstanceOf(UserError);
  expect(error?.message).toMatch(/step-000002: the disk is full/);
  expect(names()).toEqual(['step-000001']);
});

test('a run folder that is a file', async () => {
  writeFileSync(path.join(run, 'file'), '');
  const saving = saveCheckpoint(path.join(run, 'file'), stateAt(1), parameters);
  await expect(saving).rejects.toThrow(/a part of the path is a file/);
});

test.each(['weights.safetensors', 'optimizer.safetensors', 'state.json'])('%s cut short', async (name) => {
  await save(1);
  const file = path.join(await save(2), name);
  truncateSync(file, readFileSync(file).length - 1);
  const error = await refusal(run);
  expect(error.message).toMatch(new RegExp(`step-000002/${name} is cut short`));
  expect(error.hint).toMatch(/--resume .*step-000001/);
});

test('one byte changed, one file missing, one too long', async () => {
  const directory = await save(1);
  const file = path.join(directory, 'weights.safetensors');
  const bytes = readFileSync(file);
  const changed = Buffer.from(bytes);
  changed[bytes.length - 1]! ^= 1;
  writeFileSync(file, changed);
  const error = await refusal(run);
  expect(error.message).toMatch(/weights.safetensors was altered/);
  expect(error.hint).toMatch(/no earlier checkpoint/);
  writeFileSync(file, Buffer.concat([bytes, bytes]));
  expect((await refusal(run)).message).toMatch(/weights.safetensors was altered: \d+ bytes/);
  rmSync(file);
  expect((await refusal(run)).message).toMatch(/weights.safetensors is missing/);
});

test('a damaged manifest, another version, a key too many', async () => {
  const directory = await save(1);
  const file = path.join(directory, 'manifest.json');
  const text = readFileSync(file, 'utf8');
  writeFileSync(file, text.slice(0, 40));
  expect((await refusal(directory)).message).toMatch(/manifest.json is cut short or altered/);
  writeFileSync(file, text.replace('"version": 1', '"version": 9'));
  expect((await refusal(directory)).message).toMatch(/manifest.json does not fit.*version/);
  writeFileSync(
    file,
    text.replace('"files": {', '"files": { "../../etc/passwd": {"sha256": "", "bytes": 0},'),
  );
  expect((await refusal(directory)).message).toMatch(/manifest.json does not fit.*files/);
  await save(1);
  expect((await loadCheckpoint(directory)).state.step).toBe(1);
});

test('no checkpoint there', async () => {
  expect((await refusal(path.join(run, 'nowhere'))).message).toMatch(/does not exist/);
  expect((await refusal(run)).message).toMatch(/no complete checkpoint/);
  writeFileSync(path.join(run, 'file'), '');
  expect((await refusal(path.join(run, 'file'))).message).toMatch(/no complete checkpoint/);
  expect(existsSync(path.join(run, 'checkpoints'))).toBe(false);
});
