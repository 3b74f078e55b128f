import { expect, test } from 'vitest';
import {
  colorsFor,
  foldNotes,
  formatBytes,
  formatCount,
  formatMs,
  progressOn,
  shown,
  table,
} from '../../src/cli/output.js';
import { trainReporter } from '../../src/cli/train-reporter.js';
import type { StepMetrics } from '../../src/train/run-directory.js';

test('columns are aligned, whatever their colours', () => {
  const red = colorsFor({ isTTY: true }, {}).red;
  expect(
    table(
      [
        ['a', red('1')],
        ['bcd', '23'],
      ],
      { align: ['left', 'right'] },
    ),
  ).toEqual([`  a     ${red('1')}`, '  bcd  23']);
});

test('colours: a terminal has them unless NO_COLOR is set, anything else only if forced', () => {
  const has = (isTTY: boolean, env: NodeJS.ProcessEnv): boolean => colorsFor({ isTTY }, env).red('x') !== 'x';
  expect([has(true, {}), has(true, { NO_COLOR: '1' }), has(true, { TERM: 'dumb' })]).toEqual([
    true,
    false,
    false,
  ]);
  expect([has(false, {}), has(false, { CI: '1' }), has(false, { FORCE_COLOR: '1' })]).toEqual([
    false,
    false,
    true,
  ]);
});

test('terminal escapes in names are shown, not obeyed', () => {
  expect(shown('a\u001b[2Jb\n')).toBe('a\\x1b[2Jb\\x0a');
});

test('numbers for people', () => {
  expect([formatBytes(512), formatBytes(1536), formatBytes(5 * 2 ** 30)]).toEqual([
    '512 B',
    '1.50 KiB',
    '5.00 GiB',
  ]);
  expect([formatCount(1234), formatCount(135_488), formatCount(2.5e9)]).toEqual([
    '1,234',
    '135.5 k',
    '2.50 G',
  ]);
  expect([formatMs(12.3), formatMs(1500), formatMs(125_000), formatMs(3_700_000)]).toEqual([
    '12 ms',
    '1.5 s',
    '2 min 5 s',
    '1 h 1 min',
  ]);
});

test('remarks of repeated layers are folded', () => {
  expect(foldNotes(['silu at node_silu: found', 'silu at node_silu_1: found', 'other'])).toEqual([
    'silu at node_silu: found (× 2)',
    'other',
  ]);
});

const stream = (
  isTTY: boolean,
): { isTTY: boolean; columns: number; text: string; write(text: string): boolean } => ({
  isTTY,
  columns: 20,
  text: '',
  write(text) {
    this.text += text;
    return true;
  },
});

test('progress rewrites one line on a terminal, cut to its width, and says nothing elsewhere', () => {
  const [terminal, file] = [stream(true), stream(false)];
  for (const to of [terminal, file]) {
    const progress = progressOn(to);
    progress.update('one');
    progress.update('a line that is longer than the terminal');
    progress.keep('done');
    progress.end();
  }
  expect(terminal.text).toBe('one\r\u001b[Ka line that is long\r\u001b[Kdone\n');
  expect(file.text).toBe('done\n');
});

test('a long run prints about twenty lines where there is no terminal', () => {
  const file = stream(false);
  const reporter = trainReporter(file as unknown as NodeJS.WriteStream);
  const metrics: StepMetrics = {
    step: 0,
    loss: 1,
    grad_norm: 1,
    lr: 1e-3,
    tokens: 10,
    predicted: 9,
    tokens_per_s: 100,
    bytes_exchanged: 0,
    bytes_all_to_all: 0,
    exchanges: 0,
    peak_bytes: 0,
    ms: 1,
    groups: [[10]],
    predicted_ms: 1,
    plan_wait_ms: 0,
    micro_batches: [],
  };
  reporter.begin(1000, 0);
  for (let step = 1; step <= 1000; step++) reporter.onStep({ ...metrics, step });
  reporter.end();
  const lines = file.text.trimEnd().split('\n');
  expect(lines).toHaveLength(21);
  expect(lines[0]).toMatch(/^step {4}1\/1000 {2}loss 1\.0000 /);
  expect(lines.at(-1)).toMatch(/^step 1000\/1000 /);
});
