import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readLimits } from '../../../src/runtime/planner/cgroup.js';
import { parseCluster, worldOf } from '../../../src/runtime/planner/cluster.js';
import { detectCluster, type Detected } from '../../../src/runtime/planner/detect.js';
import { findGpus } from '../../../src/runtime/planner/gpus.js';
import { findJob } from '../../../src/runtime/planner/job.js';

const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-detect-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;

/** A folder with these files. */
function filesOf(files: Readonly<Record<string, string>>): string {
  const root = path.join(folder, String(made++));
  mkdirSync(root);
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), text);
  }
  return root;
}

/** An environment whose nvidia-smi answers so. */
function withSmi(csv: string, matrix = '', code = 0): NodeJS.ProcessEnv {
  const at = filesOf({ csv, matrix });
  const script = `#!/bin/sh\ncase "$1" in topo) cat '${at}/matrix';; *) cat '${at}/csv'; exit ${code};; esac\n`;
  writeFileSync(path.join(at, 'nvidia-smi'), script);
  chmodSync(path.join(at, 'nvidia-smi'), 0o755);
  return { PATH: `${at}:/usr/bin:/bin` };
}

const h100 = (index: number, mig = 'Disabled'): string =>
  `${index}, GPU-${index}aaaa-bbbb, NVIDIA H100 80GB HBM3, 81559, ${mig}, 5, 16`;

/** As `nvidia-smi topo -m` prints it: underlined headings, tabs, a network card, a legend. */
function topology(links: readonly (readonly string[])[]): string {
  const names = links.map((_, i) => `GPU${i}`);
  const head = `\t\u001b[4m${names.join('\t')}\tNIC0\tCPU Affinity\tNUMA Affinity\u001b[0m`;
  const rows = links.map((row, i) => `${names[i]}\t${row.join('\t')}\tPXB\t0-51\t0`);
  return `${head}\n${rows.join('\n')}\nNIC0\t${names.map(() => 'PXB').join('\t')}\t X\n\nLegend:\n\n  X    = Self\n`;
}

const certaintyOf = ({ figures }: Detected, key: string) => figures.find((one) => one.key === key)?.certainty;

describe('GPUs', () => {
  it('are read off nvidia-smi, with the links between them', () => {
    const matrix = topology([
      [' X ', 'NV18', 'NV18'],
      ['NV18', ' X ', 'NV18'],
      ['NV18', 'NV18', ' X '],
    ]);
    const env = withSmi([0, 1, 2].map((i) => h100(i)).join('\n') + '\n', matrix);
    const found = detectCluster({ env, root: filesOf({}) });
    expect(found.cluster).toMatchObject({ nodes: 1, ranksPerNode: 3, name: 'nvidia-h100-80gb-hbm3-x3' });
    expect(found.cluster.memoryGibPerRank).toBeCloseTo((0.9 * 81559) / 1024, 6);
    expect(found.cluster.teraflopsPerRank).toBeCloseTo(0.4 * 989, 6);
    expect(found.cluster.links.node.gibPerSecond).toBeCloseTo((0.7 * 18 * 25e9) / 2 ** 30, 6);
    expect(certaintyOf(found, 'ranksPerNode')).toBe('found');
    expect(certaintyOf(found, 'teraflopsPerRank')).toBe('derived');
    expect(certaintyOf(found, 'nodes')).toBe('assumed');
    expect(parseCluster(JSON.parse(JSON.stringify(found.cluster)))).toEqual(found.cluster);
  });

  it('are connected as their worst pair is', () => {
    const matrix = topology([
      [' X ', 'NV4', 'SYS'],
      ['NV4', ' X ', 'PHB'],
      ['SYS', 'PHB', ' X '],
    ]);
    const gpus = findGpus(withSmi([0, 1, 2].map((i) => h100(i)).join('\n'), matrix));
    expect(gpus).toMatchObject({ kind: 'found', gpus: { link: { path: 'SYS' } } });
    const two = findGpus({
      ...withSmi([0, 1, 2].map((i) => h100(i)).join('\n'), matrix),
      CUDA_VISIBLE_DEVICES: '0,1',
    });
    expect(two).toMatchObject({ kind: 'found', gpus: { link: { nvlinks: 4 }, names: { length: 2 } } });
    const none = detectCluster({
      env: withSmi([0, 1].map((i) => h100(i)).join('\n'), 'garbage'),
      root: filesOf({}),
    });
    // PCIe 5 × 16 lanes at 3.938 GB/s.
    expect(none.cluster.links.node.gibPerSecond).toBeCloseTo((0.6 * 16 * 3.938e9) / 2 ** 30, 6);
  });

  it('that CUDA_VISIBLE_DEVICES hides do not count, by index or UUID', () => {
    const env = withSmi([0, 1, 2, 3].map((i) => h100(i)).join('\n'));
    const count = (list: string): number => {
      const found = findGpus({ ...env, CUDA_VISIBLE_DEVICES: list });
      return found.kind === 'found' ? found.gpus.names.length : 0;
    };
    expect([
      count('2'),
      count('3, 1'),
      count('GPU-1aaaa,GPU-2'),
      count('0,9,1'),
      count(''),
      count('-1'),
    ]).toEqual([1, 2, 2, 1, 0, 0]);
  });

  it('that are divided, unknown or unlike are said to be', () => {
    const divided = detectCluster({ env: withSmi(h100(0, 'Enabled')), root: filesOf({}) });
    expect(divided.remarks.join()).toContain('divided (MIG)');
    const odd = 'Some Accelerator, 16000, [N/A], [N/A], [N/A]';
    const unknown = detectCluster({
      env: withSmi(`0, GPU-a, ${odd}\n1, GPU-b, Other, 8000, [N/A], 4, 8`),
      root: filesOf({}),
    });
    expect(certaintyOf(unknown, 'teraflopsPerRank')).toBe('assumed');
    expect(certaintyOf(unknown, 'links.node')).toBe('assumed');
    expect(unknown.cluster.memoryGibPerRank).toBeCloseTo((0.9 * 8000) / 1024, 6);
    expect(unknown.remarks.join()).toContain('GPUs differ');
  });

  it('whose tool fails or talks nonsense are no end of it', () => {
    const failed = detectCluster({
      env: withSmi("couldn't communicate with the NVIDIA driver\n", '', 9),
      root: filesOf({}),
    });
    expect(failed.remarks[0]).toMatch(/nvidia-smi is here but failed \(couldn't communicate/);
    expect(failed.cluster.name).toBe('local');
    expect(findGpus(withSmi('hello\n')).kind).toBe('failed');
    expect(findGpus(withSmi('No devices were found\n', '', 6)).kind).toBe('none');
    expect(findGpus(withSmi('')).kind).toBe('none');
    expect(findGpus({ PATH: folder }).kind).toBe('none');
  });
});

describe('a job', () => {
  it('is known by its launcher', () => {
    const slurm = { SLURM_NNODES: '4', SLURM_NTASKS_PER_NODE: '8', SLURM_NTASKS: '32' };
    expect(findJob(slurm)).toMatchObject({ nodes: 4, ranksPerNode: 8 });
    expect(findJob({ SLURM_JOB_NUM_NODES: '2', SLURM_TASKS_PER_NODE: '4(x2)' })).toMatchObject({
      nodes: 2,
      ranksPerNode: 4,
    });
    expect(findJob({ SLURM_NNODES: '2', SLURM_GPUS_ON_NODE: '8', SLURM_NTASKS: '2' })).toMatchObject({
      nodes: 2,
      ranksPerNode: 8,
    });
    expect(findJob({ OMPI_COMM_WORLD_SIZE: '12', OMPI_COMM_WORLD_LOCAL_SIZE: '4' })).toMatchObject({
      nodes: 3,
      ranksPerNode: 4,
    });
    expect(findJob({ PMI_SIZE: '6', MPI_LOCALNRANKS: '3' })).toMatchObject({ nodes: 2, ranksPerNode: 3 });
    expect(findJob({ WORLD_SIZE: '16', LOCAL_WORLD_SIZE: '8' })).toMatchObject({
      nodes: 2,
      ranksPerNode: 8,
      source: 'LOCAL_WORLD_SIZE, WORLD_SIZE',
    });
    expect(findJob({ SLURM_NNODES: '3', SLURM_NTASKS: '12' })).toMatchObject({ nodes: 3, ranksPerNode: 4 });
    expect(findJob({ PATH: '/bin' })).toBeUndefined();
  });

  it.each([
    [{ SLURM_NNODES: 'many' }, 'SLURM_NNODES is "many", expected a number'],
    [{ SLURM_NNODES: '2', SLURM_TASKS_PER_NODE: '8,4' }, 'SLURM_TASKS_PER_NODE is "8,4"'],
    [{ WORLD_SIZE: '-1' }, 'WORLD_SIZE is "-1"'],
    [{ WORLD_SIZE: '7', LOCAL_WORLD_SIZE: '4' }, 'no nodes of equally many ranks'],
    [{ SLURM_NNODES: '2', SLURM_NTASKS_PER_NODE: '4', SLURM_NTASKS: '9' }, 'no nodes of equally many ranks'],
  ])('%j is refused', (env, message) => {
    expect(() => findJob(env)).toThrow(message);
  });

  it('on GPUs with InfiniBand describes the network too', () => {
    const port = (name: string, state: string) => ({
      [`sys/class/infiniband/${name}/ports/1/rate`]: '400 Gb/sec (4X NDR)\n',
      [`sys/class/infiniband/${name}/ports/1/state`]: `${state}\n`,
    });
    const root = filesOf({
      ...port('mlx5_0', '4: ACTIVE'),
      ...port('mlx5_1', '4: ACTIVE'),
      ...port('mlx5_2', '1: DOWN'),
    });
    const env = {
      ...withSmi([0, 1].map((i) => h100(i)).join('\n')),
      SLURM_NNODES: '8',
      SLURM_NTASKS_PER_NODE: '2',
    };
    const found = detectCluster({ env, root });
    expect(worldOf(found.cluster)).toBe(16);
    expect(found.cluster.links.network.gibPerSecond).toBeCloseTo((0.8 * 100e9) / 2 ** 30 / 2, 6);
    expect([certaintyOf(found, 'nodes'), certaintyOf(found, 'links.network')]).toEqual(['found', 'derived']);
    const without = detectCluster({ env, root: filesOf({}) });
    expect(certaintyOf(without, 'links.network')).toBe('assumed');
  });
});

describe('limits of containers', () => {
  const one = (files: Readonly<Record<string, string>>) => readLimits(filesOf(files));
  it('of version 2 are those of the group and of all above it', () => {
    const limits = one({
      'proc/self/cgroup': '0::/pod/job\n',
      'sys/fs/cgroup/pod/job/cpu.max': 'max 100000\n',
      'sys/fs/cgroup/pod/cpu.max': '150000 100000\n',
      'sys/fs/cgroup/pod/job/memory.max': '2147483648\n',
      'sys/fs/cgroup/memory.max': 'max\n',
    });
    expect(limits).toEqual({ cores: 1.5, memoryBytes: 2 ** 31 });
  });

  it('of version 1 are by controller', () => {
    const limits = one({
      'proc/self/cgroup': '4:memory:/a\n3:cpu,cpuacct:/a\n2:pids:/a\n',
      'sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us': '400000\n',
      'sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us': '200000\n',
      'sys/fs/cgroup/memory/a/memory.limit_in_bytes': '1073741824\n',
      'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
    });
    expect(limits).toEqual({ cores: 2, memoryBytes: 2 ** 30 });
  });

  it('that do not exist, or make no sense, limit nothing', () => {
    const none = { cores: Infinity, memoryBytes: Infinity };
    expect(one({})).toEqual(none);
    expect(
      one({ 'proc/self/cgroup': 'nonsense\n0::/../../x\n', 'sys/fs/cgroup/cpu.max': 'a b c\n' }),
    ).toEqual(none);
  });

  it('make a machine smaller', () => {
    const root = filesOf({
      'proc/self/cgroup': '0::/\n',
      'sys/fs/cgroup/cpu.max': '100000 100000',
      'sys/fs/cgroup/memory.max': '1073741824',
    });
    const { cluster } = detectCluster({ env: { PATH: folder }, root });
    expect(cluster.ranksPerNode).toBe(1);
    expect(cluster.memoryGibPerRank).toBeCloseTo(0.8, 9);
  });
});
