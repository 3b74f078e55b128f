import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { openPackage } from '../../src/package/read.js';
import { saveCalibration } from '../../src/runtime/planner/calibration.js';
import { describeMachine, localCluster } from '../../src/runtime/planner/machine.js';
import { UNCALIBRATED } from '../../src/runtime/planner/physical-cost.js';
import { VERSION } from '../../src/version.js';
import { drawLengths } from '../bench/planner-lengths.js';
import { modelFolder } from '../support/oracle.js';
import { ithaca, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const corpus = path.join(folder, 'corpus.txt');
writeFileSync(corpus, drawLengths('wikipedia', 300, 70_000, 1, 3).join('\n'));
const small = ['--lengths', corpus, '--context', '40K', '--batch', '40', '--batches', '2'];

interface Row {
  readonly ranks: number;
  readonly solver: string;
  readonly batches: number;
  readonly step_ms: number;
  readonly speedup?: number;
  readonly bound_ms: number;
}
interface Result {
  readonly rows: readonly Row[];
  readonly interrupted: boolean;
  readonly sequences: { readonly kept: number; readonly dropped: number };
}

describe("FlexSP's models", () => {
  test('a table for people, progress on standard error', async () => {
    const { code, stdout, stderr } = await ithaca(['simulate', '--model', '7b', ...small, '--ranks', '8,16']);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^7b on nodes of 8 × A100 {2}batches of 40 sequences of at most 40,000 tokens, degrees that are/,
    );
    expect(stdout).toMatch(
      /\n {2}ranks {2}batches {2}solver +step ms {2}speed-up +idle {2}all-to-all +solve +longest +gap\n/,
    );
    expect(stdout).toMatch(/\n +8 +2 {2}static \(8\) .* 1\.000 × /);
    expect(stdout).toMatch(/\n +ithaca +[\d,]+ +\d\.\d{3} × /);
    expect(stdout).toContain("FlexSP's published cost model");
    expect(stderr).toBe('8 ranks: 2 batches done\n16 ranks: 2 batches done\n');
  });

  test('--json and --out say the same, and the same again; any degree is no slower than powers of two', async () => {
    const file = path.join(folder, 'table.json');
    const args = ['simulate', '--model', '7b', ...small, '--ranks', '8', '--json', '--degrees', 'any'];
    const [first, second] = await Promise.all([succeed([...args, '--out', file]), succeed(args)]);
    const timeless = (text: string): unknown =>
      JSON.parse(text, (key, value: unknown) => (key === 'solve_ms' ? undefined : value));
    expect(timeless(readFileSync(file, 'utf8'))).toEqual(timeless(first));
    expect(timeless(second)).toEqual(timeless(first));
    const { rows, interrupted, sequences } = JSON.parse(first) as Result;
    expect(interrupted).toBe(false);
    expect(sequences.kept + sequences.dropped).toBe(300);
    expect(rows.map(({ solver }) => solver)).toEqual(['static', 'adaptive', 'ithaca']);
    for (const row of rows) {
      expect(row).toMatchObject({ ranks: 8, batches: 2 });
      expect(row.step_ms).toBeGreaterThanOrEqual(row.bound_ms);
      expect(row.speedup).toBeGreaterThanOrEqual(1);
    }
  });

  test('Ctrl-C prints what is done', async () => {
    const few = ['--ranks', '8,64', '--batch', '12', '--batches', '1', '--flexsp-seconds', '0.01', '--json'];
    const args = ['--model', '7b', ...small, '--solvers', 'static,ithaca,flexsp', ...few];
    let sent = false;
    const result = await ithaca(['simulate', ...args], {
      onStderr: (text, kill) => {
        if (sent || !text.includes('8 ranks')) return;
        sent = true;
        kill('SIGINT');
      },
    });
    expect(result.code).toBe(130);
    expect(result.stderr).toContain('stopping: what is done so far counts');
    const { rows, interrupted } = JSON.parse(result.stdout) as Result;
    expect(interrupted).toBe(true);
    expect(rows.filter(({ ranks }) => ranks === 8).map(({ solver }) => solver)).toEqual([
      'static',
      'ithaca',
      'flexsp',
    ]);
  });
});

describe('a package', () => {
  const llama = path.join(folder, 'llama.ithaca');
  beforeAll(async () => {
    await succeed(['compile', path.join(modelFolder('llama'), 'model.onnx'), '-o', llama]);
  });

  test('is priced by its own costs on some ranks of a cluster', async () => {
    const args = ['simulate', llama, '--cluster', 'h100x8', ...small, '--ranks', '3', '--json'];
    const { rows } = JSON.parse(await succeed(args)) as Result;
    expect(rows.map(({ ranks, solver }) => [ranks, solver])).toEqual([
      [3, 'static'],
      [3, 'adaptive'],
      [3, 'ithaca'],
    ]);
  });

  test('by measured rates, of as many ranks as were measured', async () => {
    const file = path.join(folder, 'calibration.json');
    const { hash } = await openPackage(llama);
    await saveCalibration(file, {
      format: 'ithaca-calibration',
      version: 1,
      ithaca: VERSION,
      package: { name: 'llama', hash },
      ranks: 4,
      machine: describeMachine(),
      cluster: localCluster(4),
      coefficients: { ...UNCALIBRATED, microBatchMs: 2 },
    });
    const args = ['simulate', llama, '--calibration', file, ...small, '--solvers', 'adaptive,ithaca'];
    expect(await succeed(args)).toMatch(/\n +4 +2 {2}adaptive [^]*the rates that were measured\n$/);
    const { stderr } = await ithaca([...args, '--ranks', '3']);
    expect(stderr).toMatch(/measured with 4 ranks, it says nothing of 3\n {2}hint: measure them/);
  });

  test.each([
    [[llama, ...small], /required option '--cluster <which>' not specified/, 2],
    [[llama, ...small, '--cluster', 'h100x8', '--model', '7b'], /--model does not go with a package/, 2],
    [[llama, ...small, '--cluster', 'h100x8', '--ranks', '16'], /h100x8 has 8 ranks, --ranks asks for 16/, 1],
    [
      [llama, ...small, '--cluster', 'h100x8', '--calibration', 'c.json'],
      /--cluster does not go with --calib/,
      2,
    ],
    [['--model', '7b', ...small, '--calibration', 'c.json'], /--calibration needs a package/, 2],
    [[llama, ...small, '--calibration', corpus], /corpus\.txt: /, 1],
    [small, /give a package, or --model/, 2],
    [['--model', '7b'], /required option '--lengths <file>' not specified/, 2],
    [['--model', '7b', ...small, '--context', '12Q'], /Expected a number of tokens, such as 4096 or 192K/, 2],
    [['--model', '7b', ...small, '--context', '3'], /none of 300 sequences has at most 3 tokens/, 1],
    [
      ['--model', '7b', ...small, '--solvers', 'magic'],
      /Allowed choices are static, adaptive, flexsp, ithaca/,
      2,
    ],
    [['--model', '7b', ...small, '--cluster', 'h100x8'], /constants are those of a100x64, not of h100x8/, 1],
    [['--model', '30b', ...small, '--ranks', '8'], /the 30b model needs 6\d\.\d GiB on each of 8 ranks/, 1],
  ])('mistakes: %j', async (args, message, code) => {
    const result = await ithaca(['simulate', ...args]);
    expect(result.stderr).toMatch(message);
    expect(result).toMatchObject({ code, stdout: '' });
  });
});
