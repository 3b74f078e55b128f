import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { Cluster } from './cluster.js';
import { findGpus, type GpuLink, type Gpus } from './gpus.js';
import { findJob, type Job } from './job.js';
import { describeMachine, localCluster, type Machine } from './machine.js';

/** Where a figure comes from: `found` on the machine, `derived` from what was found by rule of thumb, or `assumed`. */
export type Certainty = 'found' | 'derived' | 'assumed';

export interface Figure {
  /** Key of the cluster file. */
  readonly key: string;
  readonly value: string;
  readonly certainty: Certainty;
  /** What says so, or what would. */
  readonly why: string;
}

export interface Detected {
  readonly cluster: Cluster;
  readonly figures: readonly Figure[];
  /** What a person should know beside the figures. */
  readonly remarks: readonly string[];
}

export interface DetectOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Of files under /proc and /sys. */
  readonly root?: string;
}

/** Looks at this machine and at the launcher's environment, and describes the cluster as far as that tells. */
export function detectCluster({ env = process.env, root = '/' }: DetectOptions = {}): Detected {
  const job = findJob(env);
  const machine = describeMachine(root);
  const search = findGpus(env);
  const remarks =
    search.kind === 'failed'
      ? [`nvidia-smi is here but failed (${search.reason}): described as CPU ranks`]
      : [];
  if (search.kind === 'found') return gpuCluster(search.gpus, job, root);
  const found = cpuCluster(machine, job);
  return { ...found, remarks: [...remarks, ...found.remarks] };
}

const figure = (key: string, value: string, certainty: Certainty, why: string): Figure => ({
  key,
  value,
  certainty,
  why,
});

/** A chip's dense bfloat16 peak in 10¹² FLOP/s, and GB/s of one of its NVLinks one way: NVIDIA's data sheets. */
const CHIPS: readonly { readonly name: RegExp; readonly peak: number; readonly linkGb?: number }[] = [
  { name: /\b(?:GB200|GB300|B200|B300)\b/, peak: 2250, linkGb: 50 },
  { name: /\bH100 PCIe\b/i, peak: 756, linkGb: 25 },
  { name: /\b(?:H100|H200|H800|H20|GH200)\b/, peak: 989, linkGb: 25 },
  { name: /\bA100|A800\b/, peak: 312, linkGb: 25 },
  { name: /\bL40S\b/, peak: 362 },
  { name: /\bA40\b/, peak: 150, linkGb: 14 },
  { name: /\bV100\b/, peak: 125, linkGb: 25 },
  { name: /\bL4\b/, peak: 121 },
  { name: /\bT4\b/, peak: 65 },
  { name: /\bRTX 4090\b/, peak: 165 },
  { name: /\bRTX 3090\b/, peak: 71, linkGb: 14 },
];

/** What training reaches of a peak, where nothing was measured. */
const OF_PEAK = { compute: 0.4, nvlink: 0.7, pcie: 0.6, network: 0.8 };
/** The rest is the driver's, the libraries' and what the allocator cannot use. */
const OF_GPU_MEMORY = 0.9;
const GPU = { launchUs: 30, linkLatencyUs: 8, pcieLatencyUs: 15, networkLatencyUs: 15 };
/** Without anything to go by: 10 Gb/s Ethernet, and a GPU of some kind. */
const UNKNOWN = { networkGb: 1.25, teraflops: 50, linkGib: 10 };
const GIB = 2 ** 30;

function gpuCluster(gpus: Gpus, job: Job | undefined, root: string): Detected {
  const { names } = gpus;
  const ranks = ranksPerNode(job, names.length, `${names.length} × ${names[0]}, nvidia-smi`);
  const nodes = nodesOf(job);
  const name = names[0]!;
  const chip = CHIPS.find((one) => one.name.test(name));
  const memoryGib = gpus.memoryGib * OF_GPU_MEMORY;
  const teraflops = (chip?.peak ?? UNKNOWN.teraflops / OF_PEAK.compute) * OF_PEAK.compute;
  const inside = insideLink(gpus, chip?.linkGb);
  const network = networkLink(root, ranks.value);
  const cluster: Cluster = {
    name: `${name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')}-x${nodes.value * ranks.value}`,
    nodes: nodes.value,
    ranksPerNode: ranks.value,
    memoryGibPerRank: memoryGib,
    teraflopsPerRank: teraflops,
    launchUs: GPU.launchUs,
    collectiveUs: 0,
    links: { node: inside.link, network: nodes.value === 1 ? inside.link : network.link },
  };
  return {
    cluster,
    figures: [
      nodes.figure,
      ranks.figure,
      figure(
        'memoryGibPerRank',
        gib(memoryGib),
        'found',
        `${percent(OF_GPU_MEMORY)} of what nvidia-smi says a GPU has`,
      ),
      chip === undefined
        ? figure(
            'teraflopsPerRank',
            teraflops.toFixed(0),
            'assumed',
            `nothing is known of ${name}: fill it in`,
          )
        : figure(
            'teraflopsPerRank',
            teraflops.toFixed(0),
            'derived',
            `${percent(OF_PEAK.compute)} of its bfloat16 peak of ${chip.peak}`,
          ),
      figure('launchUs', String(GPU.launchUs), 'assumed', 'a few kernels an instruction'),
      figure('links.node', shownLink(inside.link), inside.certainty, inside.why),
      ...(nodes.value === 1
        ? []
        : [figure('links.network', shownLink(network.link), network.certainty, network.why)]),
    ],
    remarks: [
      ...(gpus.isDivided
        ? ['a GPU is divided (MIG): set ranksPerNode and memoryGibPerRank to its parts by hand']
        : []),
      ...(new Set(names).size > 1
        ? [`GPUs differ (${[...new Set(names)].join(', ')}): all are taken for the first`]
        : []),
    ],
  };
}

function cpuCluster(machine: Machine, job: Job | undefined): Detected {
  const cores = Math.max(1, Math.floor(machine.cores));
  const ranks = ranksPerNode(job, cores, `a rank a core: ${machine.cores} of ${machine.cpu}`);
  const nodes = nodesOf(job);
  const local = localCluster(ranks.value, machine);
  const networkGib = (UNKNOWN.networkGb * 1e9) / GIB / ranks.value;
  const network = { gibPerSecond: networkGib, latencyUs: 50 };
  const cluster: Cluster = {
    ...local,
    nodes: nodes.value,
    links: { node: local.links.node, network: nodes.value === 1 ? local.links.node : network },
  };
  const measure = `ithaca calibrate PACKAGE --ranks ${ranks.value} measures it`;
  return {
    cluster,
    figures: [
      nodes.figure,
      ranks.figure,
      figure(
        'memoryGibPerRank',
        gib(cluster.memoryGibPerRank),
        'found',
        `an equal share of 80 % of ${gib(machine.memoryGib)} GiB, limits of containers respected`,
      ),
      figure('teraflopsPerRank', cluster.teraflopsPerRank.toPrecision(2), 'assumed', measure),
      figure('links.node', shownLink(local.links.node), 'assumed', measure),
      ...(nodes.value === 1
        ? []
        : [figure('links.network', shownLink(network), 'assumed', '10 Gb/s a node: fill it in')]),
    ],
    remarks: ['no GPU was found: ranks are threads that share cores and memory'],
  };
}

interface Count {
  readonly value: number;
  readonly figure: Figure;
}

function ranksPerNode(job: Job | undefined, here: number, why: string): Count {
  const value = job?.ranksPerNode ?? here;
  const said = job?.ranksPerNode === undefined ? why : `${job.source} in the environment`;
  return { value, figure: figure('ranksPerNode', String(value), 'found', said) };
}

function nodesOf(job: Job | undefined): Count {
  const value = job?.nodes ?? 1;
  const known = job?.nodes !== undefined;
  return {
    value,
    figure: figure(
      'nodes',
      String(value),
      known ? 'found' : 'assumed',
      known ? `${job.source} in the environment` : 'no launcher says otherwise',
    ),
  };
}

interface FoundLink {
  readonly link: Cluster['links']['node'];
  readonly certainty: Certainty;
  readonly why: string;
}

function insideLink({ link, pcieGibPerSecond, names }: Gpus, linkGb: number | undefined): FoundLink {
  if (link !== undefined && 'nvlinks' in link) {
    const gb = link.nvlinks * (linkGb ?? 25);
    return {
      link: { gibPerSecond: (gb * 1e9 * OF_PEAK.nvlink) / GIB, latencyUs: GPU.linkLatencyUs },
      certainty: 'derived',
      why: `${percent(OF_PEAK.nvlink)} of ${link.nvlinks} NVLinks, ${gb} GB/s`,
    };
  }
  const latencyUs = GPU.pcieLatencyUs;
  if (pcieGibPerSecond === undefined)
    return { link: { gibPerSecond: UNKNOWN.linkGib, latencyUs }, certainty: 'assumed', why: 'fill it in' };
  return {
    link: { gibPerSecond: pcieGibPerSecond * OF_PEAK.pcie, latencyUs },
    certainty: 'derived',
    why: `${percent(OF_PEAK.pcie)} of PCIe${names.length === 1 ? '' : `, ${pathText(link)}`}`,
  };
}

const pathText = (link: GpuLink | undefined): string =>
  link === undefined || 'nvlinks' in link ? 'no matrix from nvidia-smi topo' : `worst pair ${link.path}`;

/** The InfiniBand or RoCE ports of this node, shared by its ranks. */
function networkLink(root: string, ranks: number): FoundLink {
  const gigabits = portRates(root);
  const latencyUs = GPU.networkLatencyUs;
  if (gigabits.length === 0)
    return {
      link: { gibPerSecond: (UNKNOWN.networkGb * 1e9) / GIB / ranks, latencyUs: 50 },
      certainty: 'assumed',
      why: 'no InfiniBand port is active here, 10 Gb/s a node taken: fill it in',
    };
  const sum = gigabits.reduce((a, b) => a + b, 0);
  return {
    link: { gibPerSecond: ((sum / 8) * 1e9 * OF_PEAK.network) / GIB / ranks, latencyUs },
    certainty: 'derived',
    why: `${percent(OF_PEAK.network)} of ${gigabits.length} active ports, ${sum} Gb/s together, shared by ${ranks} ranks`,
  };
}

/** Gb/s of active ports (`/sys/class/infiniband/mlx5_0/ports/1/rate`: "400 Gb/sec (4X NDR)"). */
function portRates(root: string): readonly number[] {
  const folder = path.join(root, 'sys/class/infiniband');
  const list = (at: string): string[] => {
    try {
      return readdirSync(at).slice(0, 256);
    } catch {
      return [];
    }
  };
  const read = (...parts: readonly string[]): string => {
    try {
      return readFileSync(path.join(...parts), 'latin1');
    } catch {
      return '';
    }
  };
  return list(folder).flatMap((device) =>
    list(path.join(folder, device, 'ports')).flatMap((port) => {
      const at = path.join(folder, device, 'ports', port);
      const rate = Number(/^([\d.]+) Gb\/sec/.exec(read(at, 'rate'))?.[1]);
      return read(at, 'state').includes('ACTIVE') && rate > 0 ? [rate] : [];
    }),
  );
}

const gib = (value: number): string => value.toPrecision(3);
const percent = (share: number): string => `${Math.round(100 * share)} %`;
const shownLink = ({ gibPerSecond, latencyUs }: Cluster['links']['node']): string =>
  `${gibPerSecond.toPrecision(3)} GiB/s, ${latencyUs.toPrecision(3)} µs`;
