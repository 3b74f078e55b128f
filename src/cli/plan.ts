import { Option, type Command } from 'commander';
import type { CostModel } from '../runtime/planner/cost.js';
import type { MicroBatchRow, OneDegree, PlanOptions, PlanReport } from './plan-run.js';
import { jsonOption, natural, positive, positiveNumber, required } from './options.js';
import { formatCount, formatMs, out, plural, print, printJsonLine, section, shown, table } from './output.js';

interface Options extends PlanOptions {
  readonly problem?: string;
  readonly id?: string;
  readonly cluster?: string;
  readonly calibration?: string;
  readonly lengths?: string;
  readonly column?: string;
  readonly batch?: number;
  readonly html?: string;
  readonly json?: boolean;
}

export function declarePlan(program: Command): void {
  program
    .command('plan')
    .summary('choose micro-batches and groups for a batch of sequences')
    .description(
      'Plans one global batch: which micro-batches, which groups of ranks in each, which sequences in each group. Says how far from the best possible the plan can be.',
    )
    .argument('[package]', 'what ithaca compile wrote, to be trained on --cluster; or else --problem')
    .option('--cluster <which>', 'h100x8, a100x64, a100x1024, or a cluster file')
    .option('--calibration <file>', 'of ithaca calibrate: measured rates, instead of --cluster')
    .option('--lengths <file>', 'tokens of each sequence: text, JSONL, .npy, .idx, Parquet or Arrow')
    .option('--column <name>', 'column or key of --lengths (default: one with a known name)')
    .option('--batch <n>', 'plan the first n sequences of --lengths (default: all)', positive)
    .option('--problem <file>', 'batches and the constants that price them, instead of a package')
    .option('--id <id>', 'batch of the problem file')
    .addOption(
      new Option('--solver <name>', 'what makes the plan')
        .choices(['ithaca', 'static', 'adaptive', 'flexsp'])
        .default('ithaca'),
    )
    .option('--min-degree <n>', 'fewest ranks of a group', positive, 1)
    .option('--any-degree', 'also degrees between those that the problem file gives')
    .option('--moves <n>', 'budget of the search (default: grows with the batch)', natural)
    .option('--seed <n>', 'seed of the search: same batch, seed and moves, same plan', natural, 0)
    .option(
      '--offline <seconds>',
      'search this long for a tighter bound (default: one that takes no time)',
      positiveNumber,
    )
    .option('--html <file>', 'also write one self-contained page: ranks over time')
    .addOption(jsonOption('the plan, its predicted time and its bound'))
    .addHelpText(
      'after',
      `
A package is priced by its own FLOPs, exchanged bytes and peak memory, in float32, and by the rates of the cluster;
until they are calibrated (ithaca calibrate), compare its times with each other only. Every degree is tried that the
heads allow. A cluster file is JSON: {"name", "nodes", "ranksPerNode", "memoryGibPerRank", "teraflopsPerRank", "launchUs",
"links": {"node": {"gibPerSecond", "latencyUs"}, "network": {…}}}.

A problem file is JSON: {"bandwidth": {"2": 119.5, …}, "settings": {…}, "batches": [{"id", "setting", "lengths"}]}.
bandwidth is in 2³⁰ bytes a second by degree; a setting has gpus, degrees, device_token_capacity,
attn_ms_per_token2, linear_ms_per_token, microbatch_fixed_ms, a2a_mb_per_token and may have
model_state_mb_per_gpu, act_mb_per_token, memory_limit_gb, max_tokens and gpus_per_node.

No legal plan takes less than the bound; the gap is step over bound less one. static is what one degree for the whole
run takes, packed best fit decreasing as DeepSpeed users do: of the degrees that hold the run's longest sequence (99 %
of max_tokens of the setting, or else the batch's longest) the one that is fastest here. adaptive is the best single
degree for this batch, its groups balanced. flexsp solves mixed-integer programmes (minutes). Memory is that of the
fullest rank; all-to-all is the share of busy time in which ranks only exchange.

Examples:
  $ ithaca plan llama.ithaca --cluster a100x64 --lengths lengths.txt --batch 512
  $ ithaca plan llama.ithaca --calibration calibration.json --lengths lengths.txt
  $ ithaca plan --problem batches.json --id g64_192k_7b/github/0
  $ ithaca plan --problem batches.json --id g64_192k_7b/github/0 --min-degree 2 --json > plan.json
  $ ithaca plan --problem batches.json --id g16_64k_7b/wikipedia/0 --any-degree --offline 10
  $ ithaca plan llama.ithaca --cluster a100x1024 --lengths lengths.npy --html plan.html`,
    )
    .action(async (directory: string | undefined, options: Options, command: Command) => {
      checkUse(directory, options, command);
      const problem =
        directory === undefined
          ? await ofProblem(options, command)
          : await ofPackage(directory, options, command);
      const { allowDegrees } = await import('./plan-run.js');
      await planAndShow({ ...problem, cost: allowDegrees(problem.cost, options) }, options);
    });
}

/** A batch to plan. */
interface Task {
  readonly title: string;
  readonly lengths: readonly number[];
  readonly cost: CostModel;
  /** Longest sequence of the run. */
  readonly longest?: number;
  /** Cluster whose rates nobody has measured. */
  readonly uncalibrated?: string;
}

/** Options of one kind of problem do not go with the other. */
function checkUse(directory: string | undefined, options: Options, command: Command): void {
  const [one, other] =
    directory === undefined
      ? [
          '--problem',
          (['cluster', 'calibration', 'lengths', 'column', 'batch'] as const).find(
            (key) => options[key] !== undefined,
          ),
        ]
      : ['a package', (['problem', 'id', 'anyDegree'] as const).find((key) => options[key] !== undefined)];
  if (other === undefined) return;
  const flag = other === 'anyDegree' ? 'any-degree' : other;
  const missing = directory === undefined && options.problem === undefined;
  command.error(missing ? `--${flag} needs a package` : `--${flag} does not go with ${one}`, { exitCode: 2 });
}

async function ofProblem(options: Options, command: Command): Promise<Task> {
  const file = required(command, options.problem, '--problem <file>');
  const id = required(command, options.id, '--id <id>');
  const { findProblem, readProblems } = await import('../runtime/planner/problem.js');
  const { lengths, cost, longest } = findProblem(readProblems(file, id), id);
  return { title: id, lengths, cost, longest };
}

async function ofPackage(directory: string, options: Options, command: Command): Promise<Task> {
  const { calibration } = options;
  if (calibration !== undefined && options.cluster !== undefined)
    command.error('--cluster does not go with --calibration, which has its own', { exitCode: 2 });
  const cluster =
    calibration === undefined ? required(command, options.cluster, '--cluster <which>') : undefined;
  const lengths = required(command, options.lengths, '--lengths <file>');
  const { readPackageProblem } = await import('./plan-package.js');
  const problem = await readPackageProblem(directory, {
    cluster,
    calibration,
    lengths,
    batch: options.batch,
    column: options.column,
  });
  const { name } = problem.cluster;
  return {
    ...problem,
    title: `${problem.name} on ${name}`,
    ...(calibration === undefined ? { uncalibrated: name } : {}),
  };
}

async function planAndShow(task: Task, options: Options): Promise<void> {
  const { oneDegreePlans, planBatch } = await import('./plan-run.js');
  const { lengths, cost: model, longest, uncalibrated } = task;
  const report = await planBatch(lengths, model, options, longest);
  const { html, json = false } = options;
  if (json && html === undefined) return printJsonLine(jsonOf(report, uncalibrated));
  const others = await oneDegreePlans(lengths, model, options.seed, longest);
  if (html !== undefined) await writePage(html, task, report, others);
  if (json) return printJsonLine(jsonOf(report, uncalibrated));
  showTitle(task);
  print();
  for (const line of planLines(report)) print(line);
  section('Step', stepLines(report));
  section('Against', againstLines(report, others));
  if (html !== undefined) {
    print();
    print(`${shown(html)} written`);
  }
  if (uncalibrated === undefined) return;
  print();
  print(
    `${out.yellow('uncalibrated:')} times follow from FLOPs, bytes and the rates of ${shown(uncalibrated)}; nothing was measured`,
  );
}

const jsonOf = (
  { plan, solution, boundMs, boundSpentMs, gap }: PlanReport,
  uncalibrated?: string,
): object => ({
  plan,
  step_ms: solution.times.stepMs,
  bound_ms: boundMs,
  solve_ms: solution.solveMs,
  bound_spent_ms: boundSpentMs,
  gap,
  solver: solution.solver,
  moves: solution.moves,
  ...(uncalibrated === undefined ? {} : { cluster: uncalibrated, calibrated: false }),
});

function showTitle({ title, lengths, cost }: Task): void {
  const tokens = lengths.reduce((a, b) => a + b, 0);
  print(
    `${out.bold(shown(title))}  ${plural(lengths.length, 'sequence')}, ${formatCount(tokens)} tokens, ${plural(cost.ranks, 'rank')}`,
  );
}

async function writePage(
  file: string,
  { title, lengths, cost }: Task,
  report: PlanReport,
  others: readonly OneDegree[],
): Promise<void> {
  const { planPage } = await import('../report/plan-page.js');
  const { writeFileAtomic } = await import('../files/atomic.js');
  const { solution, boundMs } = report;
  const page = Buffer.from(planPage({ title, lengths, model: cost, solution, boundMs, others }));
  await writeFileAtomic(file, (handle) => handle.writeFile(page));
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const exactMs = (ms: number): string =>
  ms.toLocaleString('en-US', { minimumFractionDigits: 1, maximumFractionDigits: 1 });

function planLines({ rows }: PlanReport): string[] {
  return table(
    rows.map((row, m) => [
      String(m),
      groupsText(row),
      row.sequences.toLocaleString('en-US'),
      row.tokens.toLocaleString('en-US'),
      exactMs(row.ms),
      percent(row.memory),
      percent(row.exchange),
    ]),
    {
      head: ['micro-batch', 'groups × degree', 'sequences', 'tokens', 'predicted ms', 'memory', 'all-to-all'],
      align: ['right', 'left', 'right', 'right', 'right', 'right', 'right'],
    },
  );
}

const groupsText = ({ groups, idleRanks }: MicroBatchRow): string =>
  groups.map(({ degree, count }) => `${count}×${degree}`).join(' + ') +
  (idleRanks === 0 ? '' : out.dim(` (${idleRanks} idle)`));

function stepLines({ solution, boundMs, boundSpentMs, gap }: PlanReport): string[] {
  const { solver, times, solveMs, moves, cutShort } = solution;
  return table([
    ['step', `${exactMs(times.stepMs)} ms`, `predicted; ranks idle ${percent(times.idle)} of it`],
    ['bound', `${exactMs(boundMs)} ms`, `no legal plan takes less; found in ${formatMs(boundSpentMs)}`],
    ['gap', percent(gap), 'at most this much longer than the best plan'],
    [
      'solved',
      formatMs(solveMs),
      `by ${solver}${moves === 0 ? '' : `, ${plural(moves, 'move')}`}${cutShort ? ', cut short by the clock' : ''}`,
    ],
  ]);
}

function againstLines({ solution }: PlanReport, others: readonly OneDegree[]): string[] {
  const { stepMs } = solution.times;
  return table(
    others
      .filter((other) => other.solver !== solution.solver)
      .map((other) => [
        other.solver,
        `degree ${other.degree}`,
        plural(other.microBatches, 'micro-batch', 'micro-batches'),
        `${exactMs(other.stepMs)} ms`,
        `${(stepMs > 0 ? other.stepMs / stepMs : 1).toFixed(3)} × this plan`,
      ]),
    { align: ['left', 'left', 'left', 'right', 'right'] },
  );
}
