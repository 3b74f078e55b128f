import { readFileSync, statSync } from 'node:fs';
import { z } from 'zod';
import { UserError } from '../../errors.js';

const link = z.strictObject({
  /** 2³⁰ bytes a second that one rank sends over this level while all ranks do. */
  gibPerSecond: z.number().positive(),
  /** Of one message. */
  latencyUs: z.number().nonnegative().default(0),
});

export const clusterSchema = z.strictObject({
  name: z.string().min(1).max(200),
  nodes: z.number().int().positive().max(65_536),
  ranksPerNode: z.number().int().positive().max(1024),
  /** What one rank may use for parameters, states and activations. */
  memoryGibPerRank: z.number().positive(),
  /** 10¹² floating-point operations a second that one rank reaches; `ithaca calibrate` measures it. */
  teraflopsPerRank: z.number().positive(),
  /** Of one instruction of a program, however small its tensors are. */
  launchUs: z.number().nonnegative().default(0),
  links: z.strictObject({
    /** Between ranks of a node. */
    node: link,
    /** Between ranks of different nodes. */
    network: link,
  }),
});

/** Machines that train together, all alike. */
export type Cluster = z.output<typeof clusterSchema>;

export const worldOf = (cluster: Cluster): number => cluster.nodes * cluster.ranksPerNode;

// FlexSP's cluster (arXiv 2412.01523, section 6.1): 8 × A100-40GB with NVLink a node, 400 Gb/s InfiniBand a node.
const a100 = {
  ranksPerNode: 8,
  memoryGibPerRank: 28,
  teraflopsPerRank: 140,
  links: { node: { gibPerSecond: 100, latencyUs: 8 }, network: { gibPerSecond: 5.5, latencyUs: 15 } },
};

/** Clusters by name. Rates are what training reaches, not peaks: calibrate before trusting absolute times. */
export const CLUSTERS: ReadonlyMap<string, Cluster> = new Map(
  [
    {
      name: 'h100x8',
      nodes: 1,
      ranksPerNode: 8,
      memoryGibPerRank: 72,
      teraflopsPerRank: 400,
      links: { node: { gibPerSecond: 300, latencyUs: 8 }, network: { gibPerSecond: 45, latencyUs: 12 } },
    },
    { name: 'a100x64', nodes: 8, ...a100 },
    { name: 'a100x1024', nodes: 128, ...a100 },
  ].map((cluster) => [cluster.name, clusterSchema.parse(cluster)]),
);

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
  throw new UserError(
    `${file}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'does not fit the format'}`,
    'a cluster has name, nodes, ranksPerNode, memoryGibPerRank, teraflopsPerRank and links {node, network}',
  );
}
