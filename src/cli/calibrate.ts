import type { Command } from 'commander';
import type { Calibration } from '../runtime/planner/calibration.js';
import { jsonOption, positive, positiveNumber, required } from './options.js';
import {
  err,
  formatMs,
  out,
  plural,
  print,
  printJsonLine,
  progressOn,
  section,
  shown,
  table,
} from './output.js';
import { Exit } from './report-error.js';
import { stopOnSignals } from './signals.js';

interface Options {
  readonly ranks?: number;
  readonly cluster?: string;
  readonly out: string;
  readonly seconds: number;
  readonly json?: boolean;
}

type Measured = NonNullable<Calibration['measured']>;

export function declareCalibrate(program: Command): void {
  program
    .command('calibrate')
    .summary('measure what this machine does with a package, for the planner')
    .description(
      'Runs collectives and micro-batches of a package on local ranks, fits a cost model to them, and checks it on plans that it was not fitted to.',
    )
    .argument('<package>', 'what ithaca compile wrote')
    .option('--ranks <n>', 'ranks that run at the same time, as they will in training', positive)
    .option(
      '--cluster <which>',
      'what the ranks are part of: a preset or a cluster file (default: this machine alone)',
    )
    .option('--out <file>', 'where the calibration goes', 'calibration.json')
    .option('--seconds <n>', 'about how long it may take', positiveNumber, 60)
    .addOption(jsonOption('coefficients and errors'))
    .addHelpText(
      'after',
      `
Work is timed on the cores, which other processes disturb little; how much longer a step takes on the clock is one
more factor. Ranks may be more than the cores: what is measured, and fitted, is their rate while all are busy.

Errors are |predicted − measured| / measured. Measure on a machine that does nothing else, and again after the
package was compiled anew, or when the number of ranks changes.

Examples:
  $ ithaca calibrate llama.ithaca --ranks 2
  $ ithaca train llama.ithaca --data 'docs/**/*.md' --ranks 2 --sp auto --calibration calibration.json --out run/
  $ ithaca plan llama.ithaca --calibration calibration.json --lengths lengths.txt`,
    )
    .action(async (directory: string, options: Options, command: Command) => {
      const ranks = required(command, options.ranks, '--ranks <n>');
      await run(directory, { ...options, ranks });
    });
}

async function run(directory: string, options: Options & { readonly ranks: number }): Promise<void> {
  const { openPackage } = await import('../package/read.js');
  const { readCluster } = await import('../runtime/planner/cluster.js');
  const { calibrate } = await import('../runtime/planner/calibrate/calibrate.js');
  const { saveCalibration } = await import('../runtime/planner/calibration.js');
  const cluster = options.cluster === undefined ? undefined : readCluster(options.cluster);
  const pkg = await openPackage(directory);
  const progress = progressOn();
  const signals = stopOnSignals((signal) =>
    progress.keep(`${err.yellow(signal)}: ending the measurement in hand; once more to end at once`),
  );
  try {
    const { ranks, seconds } = options;
    progress.keep(`measuring ${shown(pkg.manifest.name)} on ${plural(ranks, 'rank')}, about ${seconds} s`);
    const calibration = await calibrate(pkg, {
      ranks,
      seconds,
      ...(cluster === undefined ? {} : { cluster }),
      onProgress: (what, share) => progress.update(`measuring ${what} ${Math.floor(100 * share)} %`),
      isStopped: () => signals.received !== undefined,
    });
    progress.end();
    if (calibration === undefined) {
      progress.keep('stopped: nothing was saved');
      throw new Exit(signals.received === 'SIGTERM' ? 143 : 130);
    }
    await saveCalibration(options.out, calibration);
    report(calibration, options);
  } finally {
    progress.end();
    signals.dispose();
  }
}

function report(calibration: Calibration, { out: file, json }: Options): void {
  const measured = calibration.measured!;
  if (json === true) {
    const { package: pkg, ranks, machine, cluster, coefficients } = calibration;
    const { samples, ...summary } = measured;
    printJsonLine({
      file,
      package: pkg,
      ranks,
      machine,
      cluster,
      coefficients,
      samples: samples.length,
      ...summary,
    });
    return;
  }
  const { ranks, machine, cluster, coefficients } = calibration;
  print(
    `${out.bold(shown(calibration.package.name))}  ${plural(ranks, 'rank')} on ${plural(machine.cores, 'core')} of ${shown(machine.cpu)}, measured in ${formatMs(1000 * measured.seconds)}`,
  );
  section('Rates of a rank while all are busy', [
    ...table([
      [
        'compute',
        `${gigaflops(cluster.teraflopsPerRank / Math.max(coefficients.compute, 1e-9))}`,
        'all but attention',
      ],
      [
        'attention',
        coefficients.attention > 0
          ? gigaflops(cluster.teraflopsPerRank / coefficients.attention)
          : 'too short to tell',
        '',
      ],
      ['micro-batch', ms(coefficients.microBatchMs), 'each, whatever its tokens'],
      ['step', ms(coefficients.stepMs), 'each, beside its micro-batches'],
      ['sharing', `${coefficients.sharing.toFixed(2)} ×`, 'as fast where others have nothing to do'],
      ['clock', `${measured.elapsed.toFixed(2)} ×`, 'as long as the work on the cores there are'],
    ]),
  ]);
  section('Fits', fitLines(measured));
  section('Plans it was not fitted to', heldOutLines(measured));
  print();
  const { othersShare } = measured;
  if (othersShare > 0.1)
    print(
      `${out.yellow('busy machine:')} other processes used ${percent(othersShare)} of the cores meanwhile; times on the clock are not those of a free one`,
    );
  print(`saved ${shown(file)}`);
}

function fitLines({ collectives, microBatches, steps, work }: Measured): string[] {
  const row = (what: string, { samples, mean, worst }: Measured['steps'], rates = ''): string[] => [
    what,
    String(samples),
    percent(mean),
    percent(worst),
    rates,
  ];
  return table(
    [
      ...collectives.map(({ kind, error, callUs, latencyUs, gibPerSecond }) =>
        row(
          kind,
          error,
          `${callUs.toFixed(0)} µs, ${latencyUs.toFixed(1)} µs a message, ${gibPerSecond.toFixed(2)} GiB/s`,
        ),
      ),
      row('micro-batches', microBatches, 'on a core'),
      row('other plans, work', work, 'on a core'),
      row('other plans, steps', steps, 'on the clock'),
    ],
    { head: ['', 'samples', 'mean error', 'worst', ''], align: ['left', 'right', 'right', 'right', 'left'] },
  );
}

function heldOutLines({ heldOut }: Measured): string[] {
  return table(
    heldOut.map((plan) => [
      plan.what,
      plan.tokens.toLocaleString('en-US'),
      ms(plan.predictedMs),
      ms(plan.measuredMs),
      (plan.measuredMs / plan.predictedMs).toFixed(2),
      (plan.measuredWorkMs / plan.predictedWorkMs).toFixed(2),
    ]),
    {
      head: ['', 'tokens', 'predicted', 'measured', 'ratio', 'of work'],
      align: ['left', 'right', 'right', 'right', 'right', 'right'],
    },
  );
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const ms = (value: number): string => `${value.toFixed(value < 10 ? 2 : 1)} ms`;
const gigaflops = (teraflops: number): string => `${(1000 * teraflops).toPrecision(3)} GFLOP/s`;
