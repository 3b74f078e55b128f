import type { Command } from 'commander';
import type { Cluster } from '../runtime/planner/cluster.js';
import type { Certainty, Detected } from '../runtime/planner/detect.js';
import { jsonOption } from './options.js';
import { out, plural, print, printJson, section, shown, table } from './output.js';

interface Options {
  readonly json?: boolean;
  readonly out?: string;
}

export function declareCluster(program: Command): void {
  const cluster = program
    .command('cluster')
    .summary('describe the machines that the planner plans for')
    .description('Clusters: the ones built in, files, and what this machine looks like.')
    .addHelpText(
      'after',
      `
Examples:
  $ ithaca cluster list
  $ ithaca cluster show h100x8 --json > mine.json
  $ ithaca cluster detect --out cluster.json`,
    );
  cluster
    .command('list')
    .summary('the clusters built in')
    .description('Lists the clusters built in, and where their figures come from.')
    .addOption(jsonOption('all of them'))
    .action(async ({ json }: Options) => {
      const { CLUSTERS, CLUSTER_SOURCES } = await import('../runtime/planner/cluster.js');
      if (json === true) return printJson([...CLUSTERS.values()]);
      const rows = [...CLUSTERS.values()].map((one) => [
        out.bold(one.name),
        size(one),
        CLUSTER_SOURCES.get(one.name) ?? '',
      ]);
      for (const line of table(rows)) print(line);
    });
  cluster
    .command('show')
    .summary('a cluster, by name or file')
    .description('Checks a cluster file, or names a built-in one, and shows it.')
    .argument('<which>', 'a name of `ithaca cluster list`, or a cluster file')
    .addOption(jsonOption('it in the format of a cluster file'))
    .action(async (which: string, { json }: Options) => {
      const { CLUSTER_SOURCES, readCluster } = await import('../runtime/planner/cluster.js');
      const found = readCluster(which);
      if (json === true) return printJson(found);
      print(`${out.bold(shown(found.name))}  ${size(found)}`);
      const source = CLUSTER_SOURCES.get(which);
      if (source !== undefined) print(source);
      section('Figures', table(figuresOf(found)));
    });
  cluster
    .command('detect')
    .summary('describe this machine, and the job it is part of')
    .description(
      'Finds GPUs (nvidia-smi) or cores and memory (limits of containers respected), and the nodes of a job (Slurm, Open MPI, MPICH, torchrun); says how sure every figure is.',
    )
    .option('--out <file>', 'write a cluster file')
    .addOption(jsonOption('the cluster, and where its figures come from'))
    .addHelpText(
      'after',
      `
found: read off the machine. derived: a rule of thumb applied to what was found. assumed: nobody knows; fill it in,
or measure it with ithaca calibrate.`,
    )
    .action(async (options: Options) => {
      const { detectCluster } = await import('../runtime/planner/detect.js');
      const detected = detectCluster();
      if (options.out !== undefined) await save(options.out, detected.cluster);
      if (options.json === true) return printJson(detected);
      show(detected, options.out);
    });
}

async function save(file: string, cluster: Cluster): Promise<void> {
  const { writeFileAtomic } = await import('../files/atomic.js');
  await writeFileAtomic(file, async (handle) => {
    await handle.writeFile(`${JSON.stringify(cluster, undefined, 2)}\n`);
  });
}

const COLORS = { found: out.green, derived: out.yellow, assumed: out.red } satisfies {
  [K in Certainty]: (text: string) => string;
};

function show({ cluster, figures, remarks }: Detected, file: string | undefined): void {
  print(`${out.bold(shown(cluster.name))}  ${size(cluster)}`);
  section(
    'Figures',
    table(
      figures.map(({ key, value, certainty, why }) => [
        key,
        shown(value),
        COLORS[certainty](certainty),
        shown(why),
      ]),
    ),
  );
  for (const text of remarks) print(`\n${out.yellow('note:')} ${shown(text)}`);
  const open = figures.filter(({ certainty }) => certainty === 'assumed').map(({ key }) => key);
  print();
  if (open.length > 0) print(`nobody knows ${open.join(', ')}: fill in, or measure with ithaca calibrate`);
  print(file === undefined ? 'write it with --out cluster.json' : `wrote ${shown(file)}`);
}

const size = ({ nodes, ranksPerNode }: Cluster): string =>
  nodes === 1
    ? plural(ranksPerNode, 'rank')
    : `${plural(nodes * ranksPerNode, 'rank')}: ${plural(nodes, 'node')} of ${ranksPerNode}`;

const rounded = (value: number): string => Number(value.toPrecision(3)).toLocaleString('en-US');

function figuresOf({ memoryGibPerRank, teraflopsPerRank, launchUs, links, nodes }: Cluster): string[][] {
  const row = (what: string, value: number, unit: string): string[] => [what, `${rounded(value)} ${unit}`];
  return [
    row('memory', memoryGibPerRank, 'GiB a rank'),
    row('compute', teraflopsPerRank, 'TFLOP/s a rank'),
    row('launch', launchUs, 'µs an instruction'),
    [
      ...row('inside a node', links.node.gibPerSecond, 'GiB/s a rank'),
      `${rounded(links.node.latencyUs)} µs a message`,
    ],
    ...(nodes === 1
      ? []
      : [
          [
            ...row('between nodes', links.network.gibPerSecond, 'GiB/s a rank'),
            `${rounded(links.network.latencyUs)} µs a message`,
          ],
        ]),
  ];
}
