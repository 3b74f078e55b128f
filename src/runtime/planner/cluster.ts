import { readFileSync, statSync } from 'node:fs';
import { z } from 'zod';
import { UserError } from '../../errors.js';

const link = z.strictObject({
  /** 2³⁰ bytes a second that one rank sends over this level while all ranks do. */
  gibPerSecond: z.number().positive().max(1e6),
  /** Of one message. */
  latencyUs: z.number().nonnegative().max(1e7).default(0),
});

/** What measured rates must be; what people write must also make sense. */
export const clusterShape = z.strictObject({
  name: z.string().min(1).max(200),
  nodes: z.number().int().positive().max(65_536),
  ranksPerNode: z.number().int().positive().max(1024),
  /** What one rank may use for parameters, states and activations. */
  memoryGibPerRank: z.number().positive().max(1e5),
  /** 10¹² floating-point operations a second that one rank reaches; `ithaca calibrate` measures it. */
  teraflopsPerRank: z.number().positive().max(1e6),
  /** Of one instruction of a program, however small its tensors are. */
  launchUs: z.number().nonnegative().max(1e6).default(0),
  /** Of one collective, however few bytes and messages it has. */
  collectiveUs: z.number().nonnegative().max(1e6).default(0),
  links: z.strictObject({
    /** Between ranks of a node. */
    node: link,
    /** Between ranks of different nodes. */
    network: link,
  }),
});

const clusterSchema = clusterShape
  .refine(({ nodes, ranksPerNode }) => nodes * ranksPerNode <= 65_536, {
    path: ['nodes'],
    message: 'nodes times ranksPerNode is more than 65536 ranks',
  })
  .refine(({ nodes, links }) => nodes === 1 || links.network.gibPerSecond <= links.node.gibPerSecond, {
    path: ['links', 'network', 'gibPerSecond'],
    message: 'the network is faster than the links inside a node: are the two swapped?',
  });

/** Machines that train together, all alike. */
export type Cluster = z.output<typeof clusterShape>;

export const worldOf = (cluster: Cluster): number => cluster.nodes * cluster.ranksPerNode;

/*
 * FlexSP's cluster (arXiv 2412.01523, section 6.1): 8 × A100-40GB with NVLink a node, 400 Gb/s InfiniBand a node.
 *
 * memory: the 28 GB that FlexSP's training path lets a rank use.
 * compute: its fitted 0.184, 0.306 and 0.804 ms a token for 7, 13 and 30 billion parameters are 250 to 276 TFLOP/s by
 * 6 operations a parameter, 80 to 88 % of the peak of 312 (NVIDIA A100 data sheet); its quadratic terms 154 to 181. A package
 * is priced with attention and all else at one rate, hence between the two.
 * links: its measured GB/s by degree (119.5, 104.1, 96.5 inside a node; 10.3, 5.9, 4.9 at 16, 32, 64 ranks) divide
 * all of a rank's share; what leaves the rank is (d−1)/d of it, inside a node, and (d−8)/d across nodes.
 * latency and launch: usual figures of NCCL and CUDA, not FlexSP's.
 */
const a100 = {
  ranksPerNode: 8,
  memoryGibPerRank: 28,
  teraflopsPerRank: 220,
  launchUs: 30,
  links: { node: { gibPerSecond: 84, latencyUs: 8 }, network: { gibPerSecond: 4.5, latencyUs: 15 } },
};

/*
 * A DGX H100 (NVIDIA's data sheet): 80 GB, bfloat16 peak 989 TFLOP/s, NVLink 450 GB/s one way.
 *
 * memory: 90 % of the 79.6 GiB that nvidia-smi shows. compute: 40 % of the peak, which large models reach (MFU 38 to
 * 43 % on 16,384 of them: Llama 3, arXiv 2407.21783, table 4). links: 70 % of NVLink's; the network of 400 Gb/s a GPU
 * at 90 %, for larger clusters made from this file.
 */
const h100 = {
  ranksPerNode: 8,
  memoryGibPerRank: 72,
  teraflopsPerRank: 400,
  launchUs: 30,
  links: { node: { gibPerSecond: 300, latencyUs: 8 }, network: { gibPerSecond: 42, latencyUs: 12 } },
};

/** Clusters by name. Rates are what training reaches, not peaks: calibrate before trusting absolute times. */
export const CLUSTERS: ReadonlyMap<string, Cluster> = new Map(
  [
    { name: 'h100x8', nodes: 1, ...h100 },
    { name: 'a100x64', nodes: 8, ...a100 },
    { name: 'a100x1024', nodes: 128, ...a100 },
  ].map((cluster) => [cluster.name, clusterSchema.parse(cluster)]),
);

/** What a preset is, in a line. */
export const CLUSTER_SOURCES: ReadonlyMap<string, string> = new Map([
  ['h100x8', 'a DGX H100; NVIDIA’s data sheet, 40 % of peak compute (as Llama 3 reached), 70 % of NVLink'],
  [
    'a100x64',
    'FlexSP’s 8 nodes of 8 × A100-40GB; rates fitted to its published constants (arXiv 2412.01523)',
  ],
  ['a100x1024', 'the same with 128 nodes'],
]);

const MAX_BYTES = 2 ** 20;

/**
 * A preset by its name, or a cluster file.
 * @throws UserError for a file that cannot be read or does not have the format
 */
export function readCluster(nameOrFile: string): Cluster {
  const preset = CLUSTERS.get(nameOrFile);
  if (preset !== undefined) return preset;
  const hint = `give a cluster file, or one of ${[...CLUSTERS.keys()].join(', ')}`;
  let json: unknown;
  try {
    if (statSync(nameOrFile).size > MAX_BYTES) throw new Error(`it is larger than ${MAX_BYTES} bytes`);
    json = JSON.parse(readFileSync(nameOrFile, 'utf8'));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new UserError(`${nameOrFile}: cannot be read as a cluster: ${reason}`, hint, { cause });
  }
  return parseCluster(json, nameOrFile);
}

/** @throws UserError naming the key that does not fit */
export function parseCluster(json: unknown, file = 'cluster'): Cluster {
  const parsed = clusterSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const at = issue === undefined || issue.path.length === 0 ? '' : `${issue.path.join('.')}: `;
  throw new UserError(
    `${file}: ${at}${issue?.message ?? 'does not fit the format'}`,
    'a cluster has name, nodes, ranksPerNode, memoryGibPerRank, teraflopsPerRank, links {node, network {gibPerSecond, latencyUs}} and may have launchUs and collectiveUs; ithaca cluster show h100x8 --json prints one',
  );
}
