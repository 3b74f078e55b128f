import { Command } from 'commander';
import { VERSION } from '../version.js';
import { declareCalibrate } from './calibrate.js';
import { declareCluster } from './cluster.js';
import { declareCompile } from './compile.js';
import { declareEval } from './eval.js';
import { declareExplain } from './explain.js';
import { declareExport } from './export.js';
import { declareGrad } from './grad.js';
import { declareInspect } from './inspect.js';
import { declareOpt } from './opt.js';
import { err, out } from './output.js';
import { declarePlan } from './plan.js';
import { reportError } from './report-error.js';
import { declareSimulate } from './simulate.js';
import { declareTrain } from './train.js';
import { declareVerify } from './verify.js';

const declarations = [
  { name: 'compile', declare: declareCompile },
  { name: 'inspect', declare: declareInspect },
  { name: 'explain', declare: declareExplain },
  { name: 'verify', declare: declareVerify },
  { name: 'plan', declare: declarePlan },
  { name: 'simulate', declare: declareSimulate },
  { name: 'calibrate', declare: declareCalibrate },
  { name: 'cluster', declare: declareCluster },
  { name: 'train', declare: declareTrain },
  { name: 'export', declare: declareExport },
  { name: 'eval', declare: declareEval },
  { name: 'grad', declare: declareGrad },
  { name: 'opt', declare: declareOpt },
] as const;

/**
 * The command line. Declarations are light; what a command needs is imported when it runs, so that help and
 * mistakes answer at once.
 */
function build(): Command {
  const program = new Command('ithaca');
  program
    .description(
      'Compiles ONNX transformers into packages that train on sequences of any length, over any number of ranks.',
    )
    .version(VERSION, '-V, --version')
    .helpCommand('help [command]', 'describe a command')
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(asError(text)) })
    .configureHelp({
      styleTitle: (text) => out.bold(text),
      styleCommandText: (text) => out.cyan(text),
      styleOptionText: (text) => out.cyan(text),
    })
    .addHelpText('after', EXAMPLES);
  for (const { declare } of declarations) declare(program);
  return program;
}

const EXAMPLES = `
Examples:
  $ ithaca compile llama.onnx -o llama.ithaca
  $ ithaca inspect llama.ithaca
  $ ithaca train llama.ithaca --data 'docs/**/*.md' --tokenizer bytes --ranks 4 --sp 2 --out run/
  $ ithaca export run/ -o trained.onnx

Set ITHACA_DEBUG=1 to see stack traces.`;

/** Commander's `error: … (Did you mean …?)` in the form of all other errors. */
function asError(text: string): string {
  const [first = '', ...rest] = text.trim().split('\n');
  const message = first.replace(/^error: /, '');
  const near = /\(Did you mean (?:one of )?(.*)\?\)/.exec(rest.join(' '))?.[1];
  const hint = near === undefined ? `see ${helpOf(process.argv[2])}` : `did you mean ${near}?`;
  return `${err.red('error:')} ${message}\n  ${err.cyan('hint:')} ${hint}\n`;
}

const helpOf = (word: string | undefined): string =>
  declarations.some(({ name }) => name === word) ? `ithaca help ${word}` : 'ithaca --help';

// A reader that went away (`| head`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

process.on('uncaughtException', (error) => {
  process.exit(reportError(error));
});

try {
  await build().parseAsync();
} catch (error) {
  process.exitCode = reportError(error);
}
