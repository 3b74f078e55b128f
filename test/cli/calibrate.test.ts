import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { loadCalibration } from '../../src/runtime/planner/calibration.js';
import { CLUSTERS, readCluster } from '../../src/runtime/planner/cluster.js';
import { modelFolder } from '../support/oracle.js';
import { ithaca, succeed, temporaryFolder } from './cli.js';

const folder = temporaryFolder();
const at = (...parts: string[]): string => path.join(folder, ...parts);
const pkg = at('gpt2.ithaca');

beforeAll(async () => {
  await succeed(['compile', path.join(modelFolder('gpt2'), 'model.onnx'), '-o', pkg]);
});

describe('calibrate', () => {
  test('measures, reports, saves, and plans are priced by it', async () => {
    const file = at('calibration.json');
    const args = ['calibrate', pkg, '--ranks', '2', '--seconds', '1'];
    const answer = JSON.parse(await succeed([...args, '--out', file, '--json'])) as Record<string, unknown>;
    const saved = loadCalibration(file);
    expect(answer).toMatchObject({
      file,
      ranks: 2,
      coefficients: saved.coefficients,
      samples: saved.measured!.samples.length,
      heldOut: saved.measured!.heldOut,
    });
    writeFileSync(at('lengths.txt'), '200\n100\n50\n30\n');
    const plan = ['plan', pkg, '--calibration', file, '--lengths', at('lengths.txt'), '--moves', '500'];
    const table = await succeed(plan);
    expect(table).toMatch(/^model on local {2}4 sequences, 380 tokens, 2 ranks\n/);
    expect(table).not.toContain('uncalibrated');
    const found = JSON.parse(await succeed([...plan, '--json'])) as { step_ms: number; calibrated?: boolean };
    expect(found.calibrated).toBeUndefined();
    expect(found.step_ms).toBeGreaterThan(saved.coefficients.stepMs);
  });

  test('reports to people: rates, errors of fits, plans it was not fitted to', async () => {
    const text = await succeed([
      'calibrate',
      pkg,
      '--ranks',
      '1',
      '--seconds',
      '0.5',
      '--out',
      at('one.json'),
    ]);
    expect(text).toMatch(/^model {2}1 rank on \d/);
    expect(text).toMatch(/\n {2}micro-batches +\d+ +[\d.]+ % +[\d.]+ % +on a core\n/);
    expect(text).toMatch(/\nPlans it was not fitted to\n.*tokens +predicted +measured +ratio +of work\n/);
    expect(text).toContain(`saved ${at('one.json')}`);
    expect(text).not.toContain('\u001b');
  });

  test('ends cleanly on Ctrl-C, and saves nothing', async () => {
    const file = at('stopped.json');
    const args = ['calibrate', pkg, '--ranks', '2', '--seconds', '60', '--out', file];
    let sent = false;
    const { code, stdout, stderr } = await ithaca(args, {
      onStderr: (text, kill) => {
        if (sent || !text.includes('measuring model on 2 ranks, about 60 s')) return;
        sent = true;
        setTimeout(() => kill('SIGINT'), 300);
      },
    });
    expect(stderr).toContain('SIGINT: ending the measurement in hand');
    expect(stderr).toMatch(/stopped: nothing was saved\n$/);
    expect([code, stdout]).toEqual([130, '']);
    expect(existsSync(file)).toBe(false);
  });

  test.each([
    [['calibrate', pkg], /required option '--ranks <n>' not specified/, 2],
    [['calibrate', pkg, '--ranks', '0'], /Expected a whole number of 1 or more/, 2],
    [
      ['calibrate', pkg, '--ranks', '2', '--cluster', 'a100x64'],
      /2 ranks are neither a node of a100x64 \(8\)/,
      1,
    ],
    [['calibrate', at('none'), '--ranks', '2'], /none/, 1],
    [
      ['plan', pkg, '--calibration', 'c.json', '--cluster', 'h100x8', '--lengths', 'l'],
      /--cluster does not go with --calibration/,
      2,
    ],
    [
      ['plan', pkg, '--calibration', at('gpt2.ithaca', 'manifest.json'), '--lengths', 'l'],
      /manifest\.json: format: .*\n {2}hint: measure it: ithaca calibrate/,
      1,
    ],
  ])('mistakes: %j', async (args, message, code) => {
    const result = await ithaca(args, { cwd: folder });
    expect(result.stderr).toMatch(message);
    expect(result).toMatchObject({ code, stdout: '' });
  });
});

describe('cluster', () => {
  test('list and show what is built in', async () => {
    const [text, json, shown] = await Promise.all([
      succeed(['cluster', 'list']),
      succeed(['cluster', 'list', '--json']),
      succeed(['cluster', 'show', 'a100x64', '--json']),
    ]);
    expect(text).toMatch(/h100x8 +8 ranks .*\n {2}a100x64 +64 ranks: 8 nodes of 8 .*arXiv 2412\.01523/);
    expect(JSON.parse(json)).toEqual([...CLUSTERS.values()]);
    expect(JSON.parse(shown)).toEqual(CLUSTERS.get('a100x64'));
  });

  test('detect writes a file that plan takes, and says how sure it is', async () => {
    const bin = at('bin');
    mkdirSync(bin);
    const csv = [0, 1].map((i) => `${i}, GPU-${i}, NVIDIA A100-SXM4-40GB, 40960, Disabled, 4, 16`).join('\n');
    const script = `#!/bin/sh\n[ "$1" = topo ] && exit 1\necho '${csv}'\n`;
    writeFileSync(path.join(bin, 'nvidia-smi'), script);
    chmodSync(path.join(bin, 'nvidia-smi'), 0o755);
    const env = { PATH: `${bin}:${process.env['PATH']}`, WORLD_SIZE: '4', LOCAL_WORLD_SIZE: '2' };
    const text = await succeed(['cluster', 'detect', '--out', at('found.json')], { env });
    expect(text).toMatch(/^nvidia-a100-sxm4-40gb-x4 {2}4 ranks: 2 nodes of 2\n/);
    expect(text).toMatch(/\n {2}teraflopsPerRank +125 +derived +40 % of its bfloat16 peak of 312\n/);
    expect(text).toMatch(/\nnobody knows .*links\.network/);
    expect(text).toContain(`wrote ${at('found.json')}`);
    expect(readCluster(at('found.json'))).toMatchObject({ nodes: 2, ranksPerNode: 2 });
    expect(await succeed(['cluster', 'show', at('found.json')])).toContain('between nodes');
    const json = JSON.parse(await succeed(['cluster', 'detect', '--json'], { env })) as Record<
      string,
      unknown
    >;
    expect(json['cluster']).toEqual(JSON.parse(readFileSync(at('found.json'), 'utf8')));
  });

  const good = CLUSTERS.get('a100x64')!;
  test.each([
    ['a key that is missing', { ...good, nodes: undefined }, /c\.json: nodes/],
    ['half a rank', { ...good, ranksPerNode: 2.5 }, /c\.json: ranksPerNode/],
    [
      'no bandwidth',
      { ...good, links: { ...good.links, node: { gibPerSecond: 0 } } },
      /c\.json: links\.node\.gibPerSecond/,
    ],
    [
      'links that are swapped',
      { ...good, links: { node: good.links.network, network: good.links.node } },
      /c\.json: links\.network\.gibPerSecond: the network is faster .*swapped/,
    ],
    ['too many ranks', { ...good, nodes: 60_000 }, /c\.json: nodes: nodes times ranksPerNode/],
    ['a word for a number', { ...good, memoryGibPerRank: '28' }, /c\.json: memoryGibPerRank/],
    ['nothing', null, /c\.json: .*\n {2}hint: a cluster has name, nodes/],
  ])('show refuses %s', async (_, cluster, message) => {
    const file = at('c.json');
    writeFileSync(file, JSON.stringify(cluster));
    const { code, stderr } = await ithaca(['cluster', 'show', file]);
    expect(stderr).toMatch(message);
    expect(code).toBe(1);
  });

  test('answers --help at every level', async () => {
    for (const args of [
      ['calibrate'],
      ['cluster'],
      ['cluster', 'detect'],
      ['cluster', 'show'],
      ['cluster', 'list'],
    ])
      expect(await succeed([...args, '--help'])).toMatch(new RegExp(`^Usage: ithaca ${args.join(' ')}`));
  });
});
