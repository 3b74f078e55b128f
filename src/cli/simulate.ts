import { InvalidArgumentError, Option, type Command } from 'commander';
import { jsonOption, natural, positive, positiveNumber, positives, required } from './options.js';
import {
  formatCount,
  formatMs,
  out,
  plural,
  print,
  printJson,
  progressOn,
  remark,
  shown,
  table,
} from './output.js';
import { Exit } from './report-error.js';
import { stopOnSignals } from './signals.js';
import type { SimulatedRanks, Simulation, SimulationOptions } from './simulate-run.js';

interface Options extends Omit<SimulationOptions, 'lengths' | 'degrees' | 'solvers'> {
  readonly lengths?: string;
  readonly solvers?: readonly string[];
  readonly degrees?: 'any' | 'pow2';
  readonly json?: boolean;
  readonly out?: string;
}

const SOLVERS = ['static', 'adaptive', 'flexsp', 'ithaca'];

export function declareSimulate(program: Command): void {
  program
    .command('simulate')
    .summary('compare planners on many batches of a length distribution')
    .description(
      'Draws batches from the lengths of a corpus, plans each with several solvers on clusters of several sizes, and compares what the plans take.',
    )
    .argument('[package]', 'what ithaca compile wrote, priced on --cluster; or else --model')
    .option('--cluster <which>', 'h100x8, a100x64, a100x1024, or a cluster file (with --model: a100x64)')
    .option('--calibration <file>', 'of ithaca calibrate: measured rates of a package, instead of --cluster')
    .addOption(new Option('--model <name>', "one of FlexSP's models").choices(['7b', '13b', '30b']))
    .option('--lengths <file>', 'tokens of each sequence: text, JSONL, .npy, .idx, Parquet or Arrow')
    .option('--column <name>', 'column or key of --lengths (default: one with a known name)')
    .option('--context <tokens>', 'leave out longer sequences; 192K is 192,000', tokens)
    .option('--pad <n>', 'round lengths up to a multiple of n', positive, 1)
    .option('--batch <n>', 'sequences of a batch', positive, 512)
    .option('--batches <n>', 'batches to draw', positive, 10)
    .option('--solvers <names>', `some of ${SOLVERS.join(', ')} (default: all but flexsp)`, solverNames)
    .option('--ranks <list>', 'numbers of ranks, such as 16,64 (default: those of the cluster)', positives)
    .addOption(
      new Option('--degrees <which>', 'any, or powers of two (default: any; pow2 with --model)').choices([
        'any',
        'pow2',
      ]),
    )
    .option('--seed <n>', 'seed of the draws and the searches', natural, 0)
    .option(
      '--flexsp-seconds <n>',
      'limit of one programme of flexsp (default: 10, as published)',
      positiveNumber,
    )
    .option('--bound-seconds <n>', 'search this long for the bound of each batch', positiveNumber)
    .addOption(jsonOption('the table'))
    .option('--out <file>', 'write the table as JSON to a file')
    .addHelpText('after', HELP)
    .action(async (directory: string | undefined, options: Options, command: Command) => {
      await run(directory, checked(directory, options, command), options);
    });
}

const HELP = `
Every solver plans the same batches, all of them before the next batch begins. Ctrl-C prints what is done by then.

static      one degree for the whole run: of those that hold the longest sequence, the one that takes least
adaptive    the best single degree for each batch
flexsp      FlexSP's mixed-integer programmes on HiGHS, one after the other (minutes a batch), degrees 2, 4, 8, …
ithaca      this program's own; the same batch, seed and moves give the same plan

speed-up is over static; idle, of the ranks' time, the part in which no sequence is computed; all-to-all, of the busy
time, the part in which ranks only exchange; gap, by how much steps are at most longer than those of the best plans.
Sequences longer than the context are left out, as FlexSP does.

With --model and powers of two, times are those of FlexSP's published cost model, fitted on 8 × A100 nodes. With
--degrees any the same model is priced by ithaca's physical terms on the links of the cluster: compare times with
each other only. A package is priced by its own FLOPs, exchanged bytes and peak memory.

Examples:
  $ ithaca simulate --model 7b --lengths wikipedia.txt --context 384K --ranks 16,64
  $ ithaca simulate --model 7b --lengths wikipedia.txt --solvers static,flexsp,ithaca --batches 2
  $ ithaca simulate --model 30b --lengths corpus.parquet --column num_tokens --degrees any --json
  $ ithaca simulate llama.ithaca --cluster h100x8 --lengths corpus_text_document.idx --ranks 4,6,8`;

/** `192K`, `1M`, `4096`: K is a thousand, as papers that give contexts mean it. */
function tokens(text: string): number {
  const [, digits, unit = ''] = /^(\d+)([kKmM]?)$/.exec(text) ?? [];
  const value = Number(digits) * ({ k: 1e3, m: 1e6 }[unit.toLowerCase()] ?? 1);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError('Expected a number of tokens, such as 4096 or 192K.');
  return value;
}

function solverNames(text: string): string[] {
  const names = text.split(',').map((name) => name.trim());
  const unknown = names.find((name) => !SOLVERS.includes(name));
  if (unknown !== undefined) throw new InvalidArgumentError(`Allowed choices are ${SOLVERS.join(', ')}.`);
  return [...new Set(names)];
}

function checked(directory: string | undefined, options: Options, command: Command): SimulationOptions {
  const fail = (message: string): never => command.error(message, { exitCode: 2 });
  const lengths = required(command, options.lengths, '--lengths <file>');
  if (directory !== undefined && options.model !== undefined) fail('--model does not go with a package');
  if (directory === undefined && options.model === undefined) fail('give a package, or --model');
  if (directory === undefined && options.calibration !== undefined) fail('--calibration needs a package');
  if (options.calibration !== undefined && options.cluster !== undefined)
    fail('--cluster does not go with --calibration, which has its own');
  if (directory !== undefined && options.calibration === undefined)
    required(command, options.cluster, '--cluster <which>');
  const { solvers = SOLVERS.filter((name) => name !== 'flexsp') } = options;
  const { degrees = directory === undefined ? 'pow2' : 'any' } = options;
  return { ...options, lengths, solvers, degrees };
}

async function run(
  directory: string | undefined,
  options: SimulationOptions,
  { json, out: file }: Options,
): Promise<void> {
  const { openSimulation, runSimulation } = await import('./simulate-run.js');
  const simulation = await openSimulation(directory, options);
  const progress = progressOn();
  const stop = new AbortController();
  const signals = stopOnSignals(() => {
    progress.keep('stopping: what is done so far counts; again to end at once');
    stop.abort();
  });
  let rows: readonly SimulatedRanks[];
  try {
    rows = await runSimulation(simulation, options, {
      signal: stop.signal,
      onSolve: (ranks, batch, solver) =>
        progress.update(`${plural(ranks, 'rank')}, batch ${batch + 1} of ${options.batches}, ${solver}`),
      onRanks: ({ ranks, batches }) =>
        progress.keep(`${plural(ranks, 'rank')}: ${plural(batches, 'batch', 'batches')} done`),
    });
  } finally {
    progress.end();
    signals.dispose();
  }
  const result = resultOf(simulation, options, rows, stop.signal.aborted);
  if (file !== undefined) await write(file, result);
  if (json === true) printJson(result);
  else show(simulation, options, rows);
  if (file !== undefined) remark(`written to ${shown(file)}`);
  if (signals.received !== undefined) throw new Exit(signals.received === 'SIGINT' ? 130 : 143);
}

async function write(file: string, result: unknown): Promise<void> {
  const { writeFileAtomic } = await import('../files/atomic.js');
  await writeFileAtomic(file, async (handle) => {
    await handle.writeFile(`${JSON.stringify(result, undefined, 2)}\n`);
  });
}

function resultOf(
  { name, cluster, costs, context, drawn }: Simulation,
  { degrees, pad, batch, batches, seed, flexspSeconds }: SimulationOptions,
  rows: readonly SimulatedRanks[],
  interrupted: boolean,
): unknown {
  return {
    name,
    cluster: cluster.name,
    costs,
    degrees,
    context,
    pad,
    batch,
    batches,
    seed,
    flexsp_seconds: flexspSeconds,
    sequences: { kept: drawn.kept, dropped: drawn.dropped, longest: drawn.longest, repeated: drawn.repeats },
    interrupted,
    rows: rows.flatMap(({ ranks, batches: done, boundMs, solvers }) =>
      solvers.map((row) => ({
        ranks,
        solver: row.solver,
        degree: row.degree,
        batches: done,
        step_ms: row.stepMs,
        speedup: row.speedUp,
        idle: row.idle,
        all_to_all: row.exchange,
        solve_ms: row.solveMs,
        bound_ms: boundMs,
        gap: row.gap,
        cut_short: row.cutShort,
      })),
    ),
  };
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

function show(
  { name, cluster, costs, context, drawn }: Simulation,
  { batch, degrees }: SimulationOptions,
  rows: readonly SimulatedRanks[],
): void {
  const limit = context === undefined ? '' : ` of at most ${context.toLocaleString('en-US')} tokens`;
  print(
    `${out.bold(shown(name))} on ${costs === 'flexsp' ? 'nodes of 8 × A100' : shown(cluster.name)}  batches of ${plural(batch, 'sequence')}${limit}, ${degrees === 'any' ? 'any degree' : 'degrees that are powers of two'}`,
  );
  const left = drawn.dropped === 0 ? '' : `; ${formatCount(drawn.dropped)} longer ones left out`;
  const again = drawn.repeats ? '; some are drawn more than once' : '';
  print(out.dim(`drawn from ${plural(drawn.kept, 'sequence')}${left}${again}`));
  print();
  const lines = rows.flatMap(({ ranks, batches, solvers }) =>
    solvers.map((row, i) => [
      i === 0 ? String(ranks) : '',
      i === 0 ? String(batches) : '',
      row.degree === undefined ? row.solver : `${row.solver} (${row.degree})`,
      row.stepMs.toLocaleString('en-US', { maximumFractionDigits: row.stepMs < 100 ? 2 : 0 }),
      row.speedUp === undefined ? '–' : `${row.speedUp.toFixed(3)} ×`,
      percent(row.idle),
      percent(row.exchange),
      formatMs(row.solveMs.median),
      formatMs(row.solveMs.max),
      percent(row.gap),
    ]),
  );
  const head = [
    'ranks',
    'batches',
    'solver',
    'step ms',
    'speed-up',
    'idle',
    'all-to-all',
    'solve',
    'longest',
    'gap',
  ];
  const align = head.map((title) => (title === 'solver' ? 'left' : 'right'));
  for (const line of table(lines, { head, align })) print(line);
  print();
  print(out.dim(CREDIT[costs]));
}

const CREDIT: Readonly<Record<Simulation['costs'], string>> = {
  package: 'times follow from the FLOPs, bytes and peak memory of the package and the rates of the cluster',
  calibrated:
    'times follow from the FLOPs, bytes and peak memory of the package and the rates that were measured',
  flexsp: "times are those of FlexSP's published cost model (arXiv 2412.01523); nothing was measured here",
  physical: "compute and memory as FlexSP's authors fitted them, all-to-alls by the links of the cluster",
};
