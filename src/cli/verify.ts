import type { Command } from 'commander';
import { jsonOption, positives, natural } from './options.js';
import { err, formatMs, out, plural, print, printJson, progressOn, shown, table } from './output.js';
import { Exit, EXIT } from './report-error.js';
import type { CaseResult, Refusal } from './verify-run.js';

interface VerifyOptions {
  readonly sp?: readonly number[];
  readonly tokens?: readonly number[];
  readonly seed: number;
  readonly json?: boolean;
}

/** Float64 sums in another order differ by about 3e-16 of the whole. */
const BAR = 1e-12;

export function declareVerify(program: Command): void {
  program
    .command('verify')
    .summary('compare the gradients of P ranks with those of one, in float64')
    .description(
      'Evaluates the train program on the reference executor (float64, all ranks in this process) and compares whole gradients of P ranks with those of one rank.',
    )
    .argument('<package>', 'directory that ithaca compile wrote')
    .option(
      '--sp <degrees>',
      'ranks of a group, such as 1,2,3,4 (default: 1 to 4, as far as the heads allow)',
      positives,
    )
    .option(
      '--tokens <counts>',
      'tokens of the batches, such as 11,2,1 (default: 11, fewer than P, and 1)',
      positives,
    )
    .option('--seed <n>', 'seed of the random documents', natural, 0)
    .addOption(jsonOption('every case'))
    .addHelpText(
      'after',
      `
Batches hold random tokens; some have several documents, some labels that are not counted. For each degree one
case has three groups: two of unequal length and an empty one.

The error is that of the worst parameter, ‖g − g′‖ / max(‖g‖, 1e-3·‖all gradients‖/√parameters). The exit code is 1
when one is above ${BAR}. The reference executor is slow: use it on small models.

Examples:
  $ ithaca verify llama.ithaca
  $ ithaca verify llama.ithaca --sp 1,2,3,4,5,8
  $ ithaca verify gpt2.ithaca --sp 3 --tokens 17`,
    )
    .action(async (directory: string, options: VerifyOptions) => {
      const { openPackage } = await import('../package/read.js');
      const { verifyPackage } = await import('./verify-run.js');
      const pkg = await openPackage(directory);
      const degrees = options.sp ?? [1, 2, 3, 4].filter((p) => p <= pkg.manifest.maxDegree);
      const progress = progressOn();
      const { cases, refusals } = verifyPackage(pkg, { ...options, degrees, onCase: progress.update });
      progress.end();
      const passed = cases.every(({ error }) => error <= BAR);
      if (options.json === true) printJson({ bar: BAR, passed, cases, refused: refusals });
      else show(cases, refusals, passed);
      if (!passed) throw new Exit(EXIT.user);
    });
}

function show(cases: readonly CaseResult[], refusals: readonly Refusal[], passed: boolean): void {
  const rows = cases.map((c) => [
    c.error <= BAR ? out.green('✓') : out.red('✗'),
    String(c.degree),
    c.lanes.join(' | '),
    c.error.toExponential(1),
    shown(c.parameter),
    out.dim(formatMs(c.ms)),
  ]);
  for (const line of table(rows, {
    head: ['', 'P', 'tokens', 'error', 'worst parameter', 'time'],
    align: ['left', 'right', 'left', 'right', 'left', 'right'],
  }))
    print(line);
  for (const { degree, reason } of refusals)
    print(`  ${out.yellow('–')} ${degree}  refused: ${shown(reason)}`);
  const worst = cases.reduce((most, { error }) => Math.max(most, error), 0).toExponential(1);
  if (passed)
    print(
      `${plural(cases.length, 'case')}, gradients of P ranks and of one agree: worst error ${worst}, allowed ${BAR}`,
    );
  else print(err.red(`gradients differ: worst error ${worst}, allowed ${BAR}`));
}
