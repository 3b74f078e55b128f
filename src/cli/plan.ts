import { Option, type Command } from 'commander';
import type { CostModel } from '../runtime/planner/cost.js';
import type { MicroBatchRow, PlanOptions, PlanReport } from './plan-run.js';
import { jsonOption, natural, positive, positiveNumber, required } from './options.js';
import { formatCount, formatMs, out, plural, print, printJsonLine, section, shown, table } from './output.js';

interface Options extends PlanOptions {
  readonly problem?: string;
  readonly id?: string;
  readonly json?: boolean;
}

export function declarePlan(program: Command): void {
  program
    .command('plan')
    .summary('choose micro-batches and groups for a batch of sequences')
    .description(
      'Plans one global batch: which micro-batches, which groups of ranks in each, which sequences in each group. Says how far from the best possible the plan can be.',
    )
    .option('--problem <file>', 'batches and the constants that price them (required)')
    .option('--id <id>', 'batch of the problem file (required)')
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
      '--bound-seconds <n>',
      'search this long for a tighter bound (default: one takes no time)',
      positiveNumber,
    )
    .addOption(jsonOption('the plan, its predicted time and its bound'))
    .addHelpText(
      'after',
      `
A problem file is JSON: {"bandwidth": {"2": 119.5, …}, "settings": {…}, "batches": [{"id", "setting", "lengths"}]}.
bandwidth is in 2³⁰ bytes a second by degree; a setting has gpus, degrees, device_token_capacity,
attn_ms_per_token2, linear_ms_per_token, microbatch_fixed_ms, a2a_mb_per_token and may have
model_state_mb_per_gpu, act_mb_per_token, memory_limit_gb and gpus_per_node.

No legal plan takes less than the bound; the gap is step over bound less one. The static solver takes the smallest
degree that holds the longest sequence, adaptive the best single degree, flexsp solves mixed-integer programmes
(minutes). Memory is that of the fullest rank; all-to-all is the share of busy time in which ranks only exchange.

Examples:
  $ ithaca plan --problem batches.json --id g64_192k_7b/github/0
  $ ithaca plan --problem batches.json --id g64_192k_7b/github/0 --min-degree 2 --json > plan.json
  $ ithaca plan --problem batches.json --id g16_64k_7b/wikipedia/0 --any-degree --bound-seconds 10`,
    )
    .action(async (options: Options, command: Command) => {
      const file = required(command, options.problem, '--problem <file>');
      const id = required(command, options.id, '--id <id>');
      const { findProblem, readProblems } = await import('../runtime/planner/problem.js');
      const { allowDegrees } = await import('./plan-run.js');
      const { lengths, cost } = findProblem(readProblems(file), id);
      await planAndShow(`${id}`, lengths, allowDegrees(cost, options), options);
    });
}

async function planAndShow(
  title: string,
  lengths: readonly number[],
  model: CostModel,
  options: Options,
): Promise<void> {
  const { planBatch } = await import('./plan-run.js');
  const report = await planBatch(lengths, model, options);
  const { solution, plan, boundMs, gap } = report;
  if (options.json === true)
    return printJsonLine({
      plan,
      step_ms: solution.times.stepMs,
      bound_ms: boundMs,
      solve_ms: solution.solveMs,
      gap,
      solver: solution.solver,
    });
  const tokens = lengths.reduce((a, b) => a + b, 0);
  print(
    `${out.bold(shown(title))}  ${plural(lengths.length, 'sequence')}, ${formatCount(tokens)} tokens, ${plural(model.ranks, 'rank')}`,
  );
  print();
  for (const line of planLines(report)) print(line);
  section('Step', stepLines(report));
  section('Against', await comparison(report, lengths, model, options));
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

function stepLines({ solution, boundMs, gap }: PlanReport): string[] {
  const { solver, times, solveMs, cutShort } = solution;
  return table([
    ['step', `${exactMs(times.stepMs)} ms`, `predicted; ranks idle ${percent(times.idle)} of it`],
    ['bound', `${exactMs(boundMs)} ms`, 'no legal plan takes less'],
    ['gap', percent(gap), 'at most this much longer than the best plan'],
    ['solved', formatMs(solveMs), `by ${solver}${cutShort ? ', cut short by the clock' : ''}`],
  ]);
}

/** The plans that a run of one degree would have. */
async function comparison(
  { solution }: PlanReport,
  lengths: readonly number[],
  model: CostModel,
  options: Options,
): Promise<string[]> {
  const { solveBatch } = await import('./plan-run.js');
  const rows: string[][] = [];
  for (const name of ['static', 'adaptive'].filter((other) => other !== solution.solver)) {
    const other = await solveBatch(lengths, model, name, options);
    const degrees = new Set(
      other.plan.microBatches.flatMap(({ groups }) =>
        groups.filter(({ sequences }) => sequences.length > 0).map(({ degree }) => degree),
      ),
    );
    const { stepMs } = other.times;
    const factor = solution.times.stepMs > 0 ? stepMs / solution.times.stepMs : 1;
    rows.push([
      name,
      `degree ${[...degrees].join(', ')}`,
      plural(other.plan.microBatches.length, 'micro-batch', 'micro-batches'),
      `${exactMs(stepMs)} ms`,
      `${factor.toFixed(3)} × this plan`,
    ]);
  }
  return table(rows, { align: ['left', 'left', 'left', 'right', 'right'] });
}
