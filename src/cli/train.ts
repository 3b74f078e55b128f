import path from 'node:path';
import { Option, type Command } from 'commander';
import type { OpenedRun, OpenHooks } from '../train/open.js';
import type { PredictionError } from '../train/prediction.js';
import type { TrainFlags } from '../train/settings.js';
import { degreeOrAuto, jsonOption, natural, positive, positiveNumber, ratio } from './options.js';
import { err, formatCount, out, plural, print, printJsonLine, remark, shown } from './output.js';
import { Exit } from './report-error.js';
import { stopOnSignals } from './signals.js';
import { trainReporter } from './train-reporter.js';

interface TrainOptions {
  readonly data?: readonly string[];
  readonly evalData?: readonly string[];
  readonly tokenizer?: string;
  readonly ranks?: number;
  readonly sp?: number | 'auto';
  readonly steps?: number;
  readonly out?: string;
  readonly resume?: string;
  readonly lr?: number;
  readonly warmup?: number;
  readonly schedule?: 'cosine' | 'linear' | 'constant';
  readonly minRatio?: number;
  readonly batchTokens?: number;
  readonly maxTokensPerGroup?: number;
  readonly memoryPerRank?: number;
  readonly calibration?: string;
  readonly seed?: number;
  readonly long?: 'error' | 'split' | 'truncate';
  readonly saveEvery?: number;
  readonly evalEvery?: number;
  readonly keep?: number;
  readonly config?: string;
  readonly json?: boolean;
}

export function declareTrain(program: Command): void {
  program
    .command('train')
    .summary('train a package on local ranks')
    .description(
      'Trains a package with AdamW on local ranks, or goes on with a run. Ctrl-C finishes the step and saves.',
    )
    .argument('[package]', "directory that ithaca compile wrote; with --resume, the run's own by default")
    .optionsGroup('Data:')
    .option('--data <globs...>', 'training documents: text files, or JSONL with input_ids or text')
    .option('--eval-data <globs...>', 'documents whose loss is computed now and then')
    .option('--tokenizer <which>', "for text: 'bytes', or a Hugging Face tokenizer.json")
    .addOption(
      new Option('--long <policy>', 'documents longer than fits (default: error)').choices([
        'error',
        'split',
        'truncate',
      ]),
    )
    .option('--seed <n>', 'of the order of the documents (default: 0)', natural)
    .optionsGroup('Ranks:')
    .option('--ranks <n>', 'ranks in all (default: 1)', positive)
    .option(
      '--sp <p>',
      "ranks that share a sequence (default: 1); 'auto': groups are chosen for every step",
      degreeOrAuto,
    )
    .option('--batch-tokens <n>', 'tokens of a step (default: 8192)', positive)
    .option('--max-tokens-per-group <n>', 'most tokens a group takes at a time (default: no limit)', positive)
    .option('--memory-per-rank <gib>', 'GiB a rank may use; groups hold no more than fits', positiveNumber)
    .option(
      '--calibration <file>',
      'what ithaca calibrate measured, for plans and predictions (default: calibration.json, where it fits)',
    )
    .optionsGroup('Steps:')
    .option('--steps <n>', 'updates in all, those before a --resume included (default: 100)', positive)
    .option('--lr <rate>', 'largest learning rate (default: 3e-4)', positiveNumber)
    .option('--warmup <n>', 'steps over which it rises (default: 0)', natural)
    .addOption(
      new Option('--schedule <kind>', 'how it falls (default: cosine)').choices([
        'cosine',
        'linear',
        'constant',
      ]),
    )
    .option('--min-ratio <r>', 'where it ends, as a share of the largest (default: 0.1)', ratio)
    .optionsGroup('Run:')
    .option('-o, --out <folder>', 'a new run: metrics.jsonl, checkpoints/, run.json')
    .option(
      '--resume <run>',
      "go on with a run, or with one of its checkpoints; the run's options hold unless given again",
    )
    .option(
      '--save-every <n>',
      'steps between checkpoints (default: 100; the last step is always saved)',
      positive,
    )
    .option('--eval-every <n>', 'steps between evaluations (default: 50)', positive)
    .option('--keep <n>', 'checkpoints to keep (default: 2)', positive)
    .option('--config <file>', 'configuration; default: ithaca.config.{ts,js,json} in the working directory')
    .addOption(jsonOption('a summary at the end'))
    .addHelpText(
      'after',
      `
Options go before the config file, the config file before the defaults. Betas, weight decay, clipping and the ZeRO
stage are part of the package: change them in the config and compile again.

With --sp auto a planner, on a thread of its own and some batches ahead, splits each batch into micro-batches and the
ranks of each micro-batch into groups: long documents get many ranks, short ones few. Each step's groups are in
metrics.jsonl; a run that goes on repeats them.

Examples:
  $ ithaca train llama.ithaca --data 'docs/**/*.md' --tokenizer bytes --ranks 4 --sp 2 --steps 50 --out run/
  $ ithaca train llama.ithaca --data train.jsonl --eval-data valid.jsonl --lr 1e-3 --warmup 10 --out run/
  $ ithaca train llama.ithaca --data train.jsonl --ranks 8 --sp auto --memory-per-rank 2 --out run/
  $ ithaca train --resume run/ --ranks 2 --steps 100`,
    )
    .action(async (directory: string | undefined, options: TrainOptions, self: Command) => {
      if ((options.out === undefined) === (options.resume === undefined))
        self.error("give either '--out <folder>' for a new run, or '--resume <run>'", { exitCode: 2 });
      if (options.resume !== undefined && options.config !== undefined)
        self.error('--config does not go with --resume: a run keeps its settings, change them by options', {
          exitCode: 2,
        });
      if (options.out !== undefined && directory === undefined)
        self.error("missing required argument 'package'", { exitCode: 2 });
      await run(directory, options);
    });
}

async function run(directory: string | undefined, options: TrainOptions): Promise<void> {
  const { train } = await import('../train/loop.js');
  const reporter = trainReporter();
  const signals = stopOnSignals((signal) => {
    reporter.keep(`${err.yellow(signal)}: finishing the step, then saving; once more to end at once`);
  });
  try {
    const opened = await open(directory, options, {
      reporter,
      isStopped: () => signals.received !== undefined,
    });
    try {
      announce(opened);
      reporter.begin(opened.settings.steps, opened.firstStep);
      const result = await train(opened).catch(async (error: unknown) => {
        reporter.end();
        await remarkRecovery(error, opened.directory);
        throw error;
      });
      reporter.end();
      const { last } = result;
      if (options.json === true)
        printJsonLine({
          run: opened.directory,
          step: result.step,
          stopped: result.stopped,
          loss: last?.loss,
          eval_loss: last?.eval_loss,
          eval_accuracy: last?.eval_accuracy,
          prediction: result.prediction,
        });
      else if (result.stopped)
        remark(
          `stopped after step ${result.step}; go on with: ithaca train --resume ${shown(opened.directory)}`,
        );
      else {
        print(
          `trained ${plural(result.step, 'step')}${last === undefined ? '' : `, loss ${last.loss.toFixed(4)}`}`,
        );
        if (result.prediction !== undefined)
          print(describePrediction(result.prediction, opened.isCalibrated));
        print(`next: ${out.cyan(`ithaca export ${shown(opened.directory)} -o trained.onnx`)}`);
      }
    } finally {
      reporter.end();
      await opened.close();
    }
  } finally {
    signals.dispose();
  }
  // As a program that a signal ended: a script's next command must not take the run for complete.
  if (signals.received !== undefined) throw new Exit(signals.received === 'SIGINT' ? 130 : 143);
}

/** A rank that died is no reason to begin again: says where to go on. */
async function remarkRecovery(error: unknown, directory: string): Promise<void> {
  const { RankFailure } = await import('../runtime/ranks/pool.js');
  const { listCheckpoints } = await import('../runtime/checkpoint.js');
  const last = listCheckpoints(directory).at(-1);
  if (error instanceof RankFailure && last !== undefined)
    remark(
      `the checkpoint of step ${last.step} is intact; go on with: ithaca train --resume ${shown(directory)}`,
    );
}

async function open(
  directory: string | undefined,
  options: TrainOptions,
  hooks: OpenHooks,
): Promise<OpenedRun> {
  const { absoluteTokenizer, resumeRun, startRun } = await import('../train/open.js');
  const flags: TrainFlags = {
    data: options.data === undefined ? undefined : [...options.data],
    evalData: options.evalData === undefined ? undefined : [...options.evalData],
    tokenizer: absoluteTokenizer(options.tokenizer),
    ranks: options.ranks,
    sp: options.sp,
    steps: options.steps,
    lr: options.lr,
    warmupSteps: options.warmup,
    schedule: options.schedule,
    minRatio: options.minRatio,
    batchTokens: options.batchTokens,
    maxTokensPerGroup: options.maxTokensPerGroup,
    memoryGibPerRank: options.memoryPerRank,
    calibration: options.calibration === undefined ? undefined : path.resolve(options.calibration),
    seed: options.seed,
    long: options.long,
    saveEvery: options.saveEvery,
    evalEvery: options.evalEvery,
    keep: options.keep,
  };
  if (options.resume !== undefined) return resumeRun(options.resume, directory, flags, hooks);
  const { loadConfigFile } = await import('../config.js');
  const { openPackage } = await import('../package/read.js');
  const { requireBaked, settingsOf } = await import('../train/settings.js');
  const { requireFreshRun } = await import('../train/run-directory.js');
  const { config, given, source } = await loadConfigFile({ file: options.config });
  const settings = settingsOf(flags, config, process.cwd());
  requireFreshRun(options.out!);
  const pkg = await openPackage(directory!);
  requireBaked(pkg.manifest, given, source);
  return startRun(pkg, options.out!, settings, hooks);
}

/** How well the cost model knew what steps would take. */
function describePrediction({ steps, median, least, most }: PredictionError, isCalibrated: boolean): string {
  const times = (ratio: number): string => (ratio >= 100 ? ratio.toFixed(0) : ratio.toPrecision(2));
  return (
    `steps took ${times(median)} times what was predicted (median of ${steps}; from ${times(least)} to ${times(most)})` +
    (isCalibrated ? '' : ', by rough rates: ithaca calibrate measures them')
  );
}

function announce({ pkg, spreader, corpus, evalCorpus, resumed, firstStep, directory }: OpenedRun): void {
  const trained = pkg.manifest.parameters
    .filter((p) => p.trainable)
    .reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);
  const data = (c: typeof corpus): string =>
    `${plural(c.count, 'document')}, ${formatCount(c.tokens)} tokens`;
  remark(
    `${err.bold(resumed ? `resuming ${shown(directory)} at step ${firstStep}` : `training ${shown(pkg.manifest.name)}`)}  ` +
      err.dim(
        [
          `${formatCount(trained)} parameters`,
          spreader.groups,
          data(corpus),
          ...(evalCorpus === undefined ? [] : [`evaluation: ${data(evalCorpus)}`]),
        ].join(' · '),
      ),
  );
}
