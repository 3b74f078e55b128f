import type { Command } from 'commander';
import { jsonOption } from './options.js';
import { print, printJson, out, remark, err, formatMs, shown } from './output.js';

interface OptOptions {
  readonly passes?: string;
  readonly list?: boolean;
  readonly timings?: boolean;
  readonly json?: boolean;
}

export function declareOpt(program: Command): void {
  program
    .command('opt')
    .summary('run compiler passes on an .ir file')
    .description('Runs compiler passes on a graph in text form and prints the result.')
    .argument('[file]', 'the .ir file; - reads standard input')
    .option('--passes <list>', 'passes in order, with options: \'simplify, loss {"tile": 128}\'')
    .option('--list', 'describe every pass: what it requires, ensures, and its options')
    .option('--timings', 'say on standard error how long each pass took')
    .addOption(jsonOption('the list of passes'))
    .addHelpText(
      'after',
      `
Without --passes the file's own '// RUN: simplify, recognize' lines say what to run, as in the reproducer that
a failing compile leaves.

Examples:
  $ ithaca opt --list
  $ ithaca opt --passes 'simplify, recognize' graph.ir
  $ ithaca opt llama.ithaca.repro.ir`,
    )
    .action(async (file: string | undefined, options: OptOptions) => {
      const { describePasses, runOnText } = await import('./opt-run.js');
      if (options.list === true) {
        if (options.json === true) printJson(describePasses());
        else for (const line of listLines(describePasses())) print(line);
        return;
      }
      const result = await runOnText(file, options.passes);
      print(result.text);
      if (options.timings === true)
        for (const { name, ms } of result.records) remark(`${err.dim(name)} ${formatMs(ms)}`);
      for (const note of result.notes) remark(`${err.dim('note:')} ${shown(note)}`);
    });
}

interface PassDescription {
  readonly name: string;
  readonly doc: string;
  readonly requires: readonly string[];
  readonly ensures: readonly string[];
  readonly destroys: readonly string[];
  readonly numerics: string;
  readonly options: readonly { readonly name: string; readonly text: string }[];
}

function* listLines(passes: readonly PassDescription[]): Generator<string> {
  for (const pass of passes) {
    yield `${out.bold(pass.name)}  ${out.dim(pass.numerics === 'exact' ? 'exact' : 'reorders sums')}`;
    yield `  ${pass.doc}`;
    const facts: readonly (readonly [string, readonly string[]])[] = [
      ['requires', pass.requires],
      ['ensures', pass.ensures],
      ['destroys', pass.destroys],
      ['options', pass.options.map(({ name, text }) => `${name} (${text})`)],
    ];
    for (const [what, list] of facts)
      if (list.length > 0) yield `  ${out.dim(what.padEnd(8))}  ${list.join(', ')}`;
    yield '';
  }
}
