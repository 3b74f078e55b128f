import { UserError } from '../../errors.js';

/** How many ranks a launcher started, by its environment variables. */
export interface Job {
  readonly nodes?: number;
  readonly ranksPerNode?: number;
  /** Variables that said so. */
  readonly source: string;
}

interface Launcher {
  readonly world: readonly string[];
  readonly local: readonly string[];
  readonly nodes: readonly string[];
}

/** Slurm (man srun), Open MPI, MPICH and Intel MPI (Hydra), torchrun. The first that says anything. */
const LAUNCHERS: readonly Launcher[] = [
  {
    nodes: ['SLURM_JOB_NUM_NODES', 'SLURM_NNODES'],
    local: ['SLURM_NTASKS_PER_NODE', 'SLURM_TASKS_PER_NODE', 'SLURM_GPUS_ON_NODE'],
    world: ['SLURM_NTASKS', 'SLURM_NPROCS'],
  },
  { nodes: [], local: ['OMPI_COMM_WORLD_LOCAL_SIZE'], world: ['OMPI_COMM_WORLD_SIZE'] },
  { nodes: [], local: ['MPI_LOCALNRANKS'], world: ['PMI_SIZE'] },
  { nodes: [], local: ['LOCAL_WORLD_SIZE'], world: ['WORLD_SIZE'] },
];

const MOST = 2 ** 20;

/** @throws UserError for a variable that is no number, or numbers that contradict each other */
export function findJob(env: NodeJS.ProcessEnv = process.env): Job | undefined {
  for (const launcher of LAUNCHERS) {
    const source: string[] = [];
    const read = (names: readonly string[]): number | undefined => {
      const name = names.find((one) => (env[one] ?? '') !== '');
      if (name === undefined) return undefined;
      source.push(name);
      return countOf(name, env[name]!);
    };
    const [nodes, local, world] = [read(launcher.nodes), read(launcher.local), read(launcher.world)];
    if (source.length === 0) continue;
    const perNode = local ?? (world !== undefined && nodes !== undefined ? world / nodes : undefined);
    const count = nodes ?? (world !== undefined && perNode !== undefined ? world / perNode : undefined);
    const isWhole = [perNode, count].every((value) => value === undefined || Number.isInteger(value));
    // Slurm's number of tasks may be fewer than the tasks a node allows.
    const fits =
      world === undefined || perNode === undefined || count === undefined || world <= perNode * count;
    if (!isWhole || !fits)
      throw new UserError(
        `${source.map((name) => `${name}=${env[name]}`).join(', ')}: that are no nodes of equally many ranks`,
        'ithaca plans for nodes that are all alike: ask the scheduler for such, or write the cluster file by hand',
      );
    return {
      ...(count === undefined ? {} : { nodes: count }),
      ...(perNode === undefined ? {} : { ranksPerNode: perNode }),
      source: source.join(', '),
    };
  }
  return undefined;
}

/** `8`, or Slurm's `8(x4)`: as many on each of 4 nodes. Lists of different numbers are no nodes that are alike. */
function countOf(name: string, text: string): number {
  const value = Number(/^(\d+)(?:\(x\d+\))?$/.exec(text.trim())?.[1]);
  if (Number.isInteger(value) && value >= 1 && value <= MOST) return value;
  throw new UserError(
    `the environment variable ${name} is ${JSON.stringify(text.slice(0, 80))}, expected a number of 1 or more`,
    text.includes(',')
      ? 'its nodes differ: ithaca plans for nodes that are all alike'
      : 'unset it, or write the cluster file by hand',
  );
}
