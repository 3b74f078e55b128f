import type { Command } from 'commander';
import type { CompileResult } from '../compile/compile.js';
import { UserError } from '../errors.js';
import { jsonOption, required } from './options.js';
import {
  formatCount,
  formatMs,
  err,
  foldNotes,
  out,
  plural,
  print,
  printJson,
  progressOn,
  shown,
  table,
} from './output.js';
import { modelsOf } from '../package/access.js';

interface CompileCommandOptions {
  readonly output?: string;
  readonly config?: string;
  readonly weights: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

export function declareCompile(program: Command): void {
  program
    .command('compile')
    .summary('turn an ONNX model into a package that trains')
    .description(
      'Compiles an ONNX transformer into an execution package: one directory that runs on any number of ranks.',
    )
    .argument('<model.onnx>', 'the exported model')
    .option('-o, --output <package>', 'directory to write, such as llama.ithaca (required)')
    .option('--config <file>', 'configuration; default: ithaca.config.{ts,js,json} in the working directory')
    .option('--no-weights', 'accept a graph whose weights are absent (it can be inspected, not run)')
    .option('--force', 'replace a package that is already there')
    .addOption(jsonOption('the summary'))
    .addHelpText(
      'after',
      `
The config bakes in the loss, which parameters are trained, pass options, and AdamW's betas, eps, decay, clipping and ZeRO
stage; the learning rate and the degrees are chosen when training.

Examples:
  $ ithaca compile llama.onnx -o llama.ithaca
  $ ithaca compile llama.onnx -o llama.ithaca --config frozen-embeddings.config.ts --force
  $ ithaca compile llama-8b.onnx -o llama-8b.ithaca --no-weights`,
    )
    .action(async (model: string, options: CompileCommandOptions, command: Command) => {
      const output = required(command, options.output, '-o, --output <package>');
      const { loadConfig } = await import('../config.js');
      await requireFree(output, options.force === true);
      const { compileModel } = await import('../compile/compile.js');
      const config = await loadConfig({ file: options.config });
      const stages = stageReporter(options.json !== true);
      const started = performance.now();
      const result = await stages.during(
        compileModel(model, output, {
          config,
          weights: options.weights,
          replace: options.force === true,
          onStage: stages.begin,
          reproducer: `${output.replace(/[/\\]+$/, '')}.repro.ir`,
        }),
      );
      const summary = summaryOf(output, result, performance.now() - started);
      if (options.json === true) printJson(summary);
      else for (const line of describe(summary)) print(line);
    });
}

/** Before the work, not after it. */
async function requireFree(output: string, force: boolean): Promise<void> {
  const { statIfPresent } = await import('../files/fs-errors.js');
  if (!force && statIfPresent(output) !== undefined)
    throw new UserError(`${output} exists already`, 'replace it with --force, or choose another -o');
}

interface StageReporter {
  begin(stage: string): void;
  /** Reports the stage that was begun last as done when the work is, and clears it when it fails. */
  during<T>(work: Promise<T>): Promise<T>;
}

/** One line a stage on standard error, with how long it took. */
function stageReporter(wanted: boolean): StageReporter {
  const progress = progressOn();
  let current: { readonly stage: string; readonly started: number } | undefined;
  const finish = (): void => {
    if (current === undefined) return;
    const ms = performance.now() - current.started;
    progress.keep(`${err.green('✓')} ${current.stage.padEnd(10)} ${err.dim(formatMs(ms))}`);
    current = undefined;
  };
  return {
    begin: (stage) => {
      if (!wanted) return;
      finish();
      current = { stage, started: performance.now() };
      progress.update(`${err.cyan('…')} ${stage}`);
    },
    during: async (work) => {
      try {
        const result = await work;
        finish();
        return result;
      } finally {
        progress.end();
      }
    },
  };
}

interface Summary {
  readonly package: string;
  readonly parameters: { readonly tensors: number; readonly elements: number };
  readonly trained: { readonly tensors: number; readonly elements: number };
  readonly recognized: Readonly<Record<string, number>>;
  readonly loss: string;
  readonly maxDegree: number;
  readonly maxDocument: number | null;
  readonly programs: Readonly<Record<string, { instructions: number; segments: number; exchanges: number }>>;
  readonly segmentFiles: number;
  readonly notes: readonly string[];
  readonly ms: number;
}

const elementsOf = (parameters: readonly { readonly shape: readonly number[] }[]): number =>
  parameters.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);

function summaryOf(output: string, { manifest, programs }: CompileResult, ms: number): Summary {
  const trained = manifest.parameters.filter((p) => p.trainable);
  const files = new Set<string>();
  for (const program of programs.values()) for (const { file } of modelsOf(program)) files.add(file);
  return {
    package: output,
    parameters: { tensors: manifest.parameters.length, elements: elementsOf(manifest.parameters) },
    trained: { tensors: trained.length, elements: elementsOf(trained) },
    recognized: manifest.recognized,
    loss: manifest.loss.kind,
    maxDegree: manifest.maxDegree,
    maxDocument: manifest.maxDocument?.tokens ?? null,
    programs: Object.fromEntries(
      [...programs].map(([name, program]) => [
        name,
        {
          instructions: program.instructions.length,
          segments: program.segments.length + program.kernels.length,
          exchanges: program.instructions.filter((i) => i.kind === 'collective' && i.op === 'all_to_all')
            .length,
        },
      ]),
    ),
    segmentFiles: files.size,
    notes: manifest.notes,
    ms: Math.round(ms),
  };
}

function* describe(summary: Summary): Generator<string> {
  const { parameters, trained } = summary;
  yield `${out.bold(shown(summary.package))} ${out.dim(`compiled in ${formatMs(summary.ms)}`)}`;
  yield* table([
    [
      'parameters',
      `${plural(parameters.tensors, 'tensor')}, ${formatCount(parameters.elements)} elements; ` +
        `trained: ${plural(trained.tensors, 'tensor')}, ${formatCount(trained.elements)} elements`,
    ],
    ['recognised', recognizedText(summary.recognized)],
    ['loss', summary.loss],
    ['degrees', `1 to ${summary.maxDegree} ranks a sequence`],
    ...(summary.maxDocument === null ? [] : [['documents', `up to ${summary.maxDocument} tokens each`]]),
    [
      'programs',
      Object.entries(summary.programs)
        .map(([name, p]) => `${name} (${plural(p.instructions, 'instruction')})`)
        .join(', '),
    ],
    ['segments', `${summary.segmentFiles} distinct`],
  ]);
  for (const note of foldNotes(summary.notes)) yield `  ${out.dim('note:')} ${note}`;
  yield '';
  yield `next: ${out.cyan(`ithaca inspect ${shown(summary.package)}`)}`;
}

export const recognizedText = (recognized: Readonly<Record<string, number>>): string => {
  const kinds = Object.entries(recognized);
  return kinds.length === 0 ? 'nothing' : kinds.map(([kind, n]) => `${shown(kind)} × ${n}`).join(', ');
};
