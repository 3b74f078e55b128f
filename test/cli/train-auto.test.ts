import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { openPackage } from '../../src/package/read.js';
import { saveCalibration, type Calibration } from '../../src/runtime/planner/calibration.js';
import { describeMachine, localCluster } from '../../src/runtime/planner/machine.js';
import { UNCALIBRATED } from '../../src/runtime/planner/physical-cost.js';
import { VERSION } from '../../src/version.js';
import { modelFolder } from '../support/oracle.js';
import { tailedLengths, writeDocuments } from '../train/runs.js';
import { ithaca, jsonLines, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const at = (...parts: string[]): string => path.join(folder, ...parts);
const pkg = at('llama.ithaca');
const args = (out: string): string[] => [
  'train',
  pkg,
  '--data',
  at('tail.jsonl'),
  '--out',
  at(out),
  '--batch-tokens',
  '300',
  '--ranks',
  '3',
  '--sp',
  'auto',
  '--steps',
  '3',
  '--lr',
  '1e-3',
];

let calibration: Calibration;

beforeAll(async () => {
  await succeed(['compile', path.join(modelFolder('llama'), 'model.onnx'), '-o', pkg]);
  writeDocuments(at('tail.jsonl'), tailedLengths(30, 150));
  const { hash } = await openPackage(pkg);
  calibration = {
    format: 'ithaca-calibration',
    version: 1,
    ithaca: VERSION,
    package: { name: 'model', hash },
    ranks: 3,
    machine: describeMachine(),
    cluster: localCluster(3),
    coefficients: { ...UNCALIBRATED, microBatchMs: 2, stepMs: 1 },
  };
});

test('a run chooses groups for every step, records them and says how its predictions did', async () => {
  const { code, stdout, stderr } = await ithaca([...args('run'), '--eval-data', at('tail.jsonl')], {
    cwd: folder,
  });
  expect([code, stderr.includes('error')]).toEqual([0, false]);
  expect(stderr).toContain('groups chosen for every step from 3 ranks');
  expect(stdout).toMatch(
    /\nsteps took \S+ times what was predicted \(median of 2; from \S+ to \S+\), by rough rates: ithaca calibrate measures them\n/,
  );
  const lines = jsonLines(at('run', 'metrics.jsonl')) as { plan: { solver: string }; eval_loss?: number }[];
  expect(lines.map(({ plan }) => plan.solver)).toEqual(['ithaca', 'ithaca', 'ithaca']);
  // The loss of every document, whatever groups they are in.
  const evaluated = await succeed([
    'eval',
    pkg,
    '--batch',
    at('tail.jsonl'),
    '--sp',
    'auto',
    '--ranks',
    '3',
    '--json',
  ]);
  const whole = await succeed(['eval', pkg, '--batch', at('tail.jsonl'), '--json']);
  const [auto, one] = [evaluated, whole].map((text) => JSON.parse(text) as { loss: number; tokens: number });
  expect(auto!.tokens).toBe(one!.tokens);
  expect(Math.abs(auto!.loss - one!.loss)).toBeLessThan(1e-5);
});

test('a calibration in the working directory is used, kept with the run, and used when it goes on', async () => {
  mkdirSync(at('measured'));
  await saveCalibration(at('measured', 'calibration.json'), calibration);
  const options = { cwd: at('measured') };
  const { stdout, stderr } = await ithaca([...args('calibrated'), '--steps', '1'], options);
  expect(stderr).not.toContain('not using');
  expect(stdout).toMatch(/\nsteps took \S+ times what was predicted \(median of 1; from \S+ to \S+\)\n/);
  const kept = JSON.parse(readFileSync(at('calibrated', 'calibration.json'), 'utf8')) as Calibration;
  expect(kept).toEqual(calibration);
  const again = JSON.parse(
    await succeed(['train', '--resume', at('calibrated'), '--steps', '2', '--json'], { cwd: folder }),
  ) as { prediction: object };
  expect(again.prediction).toMatchObject({ steps: 1 });
  // Of three ranks, so of no use to two.
  const two = await ithaca(['train', '--resume', at('calibrated'), '--steps', '3', '--ranks', '2'], {
    cwd: folder,
  });
  expect(two.stderr).toMatch(/not using .*calibration\.json: the calibration was measured with 3 ranks/);
  expect(two.code).toBe(0);
});

test('Ctrl-C while plans are made ahead finishes the step and saves; the run goes on from there', async () => {
  let sent = false;
  const { code, stderr } = await ithaca([...args('stopped'), '--steps', '100000'], {
    onStderr: (text, kill) => {
      if (sent || !text.includes('step ')) return;
      sent = true;
      kill('SIGINT');
    },
  });
  const step = Number(/stopped after step (\d+); go on with: ithaca train --resume/.exec(stderr)?.[1]);
  expect(code).toBe(130);
  const summary = await succeed(['train', '--resume', at('stopped'), '--steps', String(step + 1), '--json']);
  expect(JSON.parse(summary)).toMatchObject({ step: step + 1, stopped: false });
});

test.each([
  [
    'a degree that is none',
    ['--sp', 'fast'],
    /^error: option '--sp <p>' argument 'fast' is invalid\. Expected a whole number of 1 or more, or 'auto'\./,
  ],
  [
    'no memory',
    ['--memory-per-rank', '0'],
    /^error: option '--memory-per-rank <gib>' argument '0' is invalid\. Expected a number above 0/,
  ],
  [
    'too little memory',
    ['--memory-per-rank', '1e-4'],
    /^error: model needs \S+ GiB on a rank for a single token, ranks have 0\.000100\n {2}hint: use fewer ranks/,
  ],
  [
    'documents that no group holds',
    ['--memory-per-rank', '1.6e-3'],
    /^error: tail\.jsonl:\d+: the document has 150 tokens, the largest group \(degree \d\) has room for \d+ with 0\.00160 GiB on each rank\n {2}hint: it needs --memory-per-rank \S+, or cut documents/,
  ],
  [
    'a calibration that is not there',
    ['--calibration', 'none.json'],
    /^error: .*none\.json: cannot be read as a calibration: .*\n {2}hint: measure it: ithaca calibrate/,
  ],
  [
    'a calibration of another package',
    ['--calibration', 'other.json'],
    /^error: the calibration is of package model \(000000000000\), not of model/,
  ],
  [
    'a config with such a degree',
    ['--config', 'fast.json'],
    /^error: fast\.json: 'train\.sp': expected a whole number of 1 or more, or 'auto'\n/,
  ],
])('%s: an error that names it, and no folder', async (_, more, expected) => {
  await saveCalibration(at('other.json'), {
    ...calibration,
    package: { name: 'model', hash: '0'.repeat(64) },
  });
  writeFileSync(at('fast.json'), JSON.stringify({ train: { sp: 'fast' } }));
  const { code, stderr } = await ithaca([...args('never'), ...more], { cwd: folder });
  expect(stderr).toMatch(expected);
  expect(code).toBeGreaterThan(0);
  expect(() => readFileSync(at('never', 'run.json'))).toThrow();
});

test('one batch on chosen groups needs the number of ranks', async () => {
  const { stderr } = await ithaca(['grad', pkg, '--batch', at('tail.jsonl'), '--sp', 'auto', '-o', at('g')]);
  expect(stderr).toBe(
    'error: --sp auto chooses groups from --ranks, which is not given\n  hint: add --ranks 4\n',
  );
});
