import type { Command } from 'commander';
import { jsonOption, natural } from './options.js';
import { err, print, printJsonLine, remark, shown } from './output.js';

interface ExportOptions {
  readonly output?: string;
  readonly safetensors?: string;
  readonly step?: number;
  readonly package?: string;
  readonly model?: string;
  readonly json?: boolean;
}

export function declareExport(program: Command): void {
  program
    .command('export')
    .summary('write the trained weights: an ONNX model, or safetensors')
    .description('Writes the weights of a run into a copy of the source model, or into a safetensors file.')
    .argument('<run>', 'folder that ithaca train wrote')
    .option('-o, --output <model.onnx>', 'the source graph with the trained weights')
    .option(
      '--safetensors <file>',
      'weights under the original torch names and layouts, where the model has them',
    )
    .option('--step <n>', 'the checkpoint of this step (default: the latest)', natural)
    .option('--package <folder>', "the run's package, if it was moved")
    .option('--model <file>', 'the source model, if its weights are in external data and were moved')
    .addOption(jsonOption('what was written'))
    .addHelpText(
      'after',
      `
Examples:
  $ ithaca export run/ -o trained.onnx
  $ ithaca export run/ --safetensors trained.safetensors --step 50`,
    )
    .action(async (run: string, options: ExportOptions, self: Command) => {
      if (options.output === undefined && options.safetensors === undefined)
        self.error("give '-o <model.onnx>' or '--safetensors <file>', or both", { exitCode: 2 });
      const { runExport } = await import('./export-run.js');
      const written = await runExport(run, options);
      if (options.json === true) return printJsonLine(written);
      if (written.unnamed.length > 0)
        remark(
          `${err.yellow('note:')} no torch name is known for ${written.unnamed.map(shown).join(', ')}: written under the initialiser's name`,
        );
      for (const file of written.files) print(`${shown(file)} holds the weights of step ${written.step}`);
    });
}
