import type { Command } from 'commander';
import { runBatch, withBatchOptions, type BatchOptions } from './batch.js';
import { jsonOption, required } from './options.js';
import { print, printJsonLine, table } from './output.js';

interface GradOptions extends BatchOptions {
  readonly output?: string;
  readonly json?: boolean;
}

export function declareGrad(program: Command): void {
  const command = program
    .command('grad')
    .summary('loss and gradients of one batch')
    .description('Computes whole gradients of the mean loss of a batch and writes them as safetensors.')
    .argument('<package>', 'directory that ithaca compile wrote');
  withBatchOptions(command)
    .option('-o, --output <file>', 'safetensors file for the gradients')
    .addOption(jsonOption('{"loss", "tokens", "grad_norm"}'))
    .addHelpText(
      'after',
      `
Labels are as in Hugging Face: aligned with input_ids, -100 where nothing is predicted, by default the ids
themselves; those of next-token losses are shifted here. The loss is the mean over counted tokens of the whole
batch, however it is spread. Gradients go by initialiser name; an initialiser that is tied to another has its own partial gradient.

Examples:
  $ ithaca grad llama.ithaca --batch batch.jsonl --json
  $ ithaca grad llama.ithaca --batch batch.jsonl --sp 3 -o grads.safetensors
  $ ithaca grad llama.ithaca --batch batch.jsonl --sp 2 --ranks 4 -o grads.safetensors`,
    )
    .action(async (directory: string, options: GradOptions, self: Command) => {
      const batch = required(self, options.batch, '--batch <file>');
      const result = await runBatch(directory, batch, options, async ({ pkg, session, plan }) => {
        const { loss, tokens, gradNorm } = await session.differentiate(plan);
        if (options.output !== undefined) {
          const { writeSafetensors } = await import('../files/safetensors.js');
          const entries = session.trained.map((name) => ({
            name,
            dtype: 'F32' as const,
            shape: pkg.parameter(name).shape,
            data: () => session.pieces(`grad/${name}`),
          }));
          await writeSafetensors(options.output, entries);
        }
        return { loss, tokens, grad_norm: gradNorm };
      });
      if (options.json === true) printJsonLine(result);
      else
        for (const line of table([
          ['loss', String(result.loss)],
          ['tokens', String(result.tokens)],
          ['gradient norm', String(result.grad_norm)],
        ]))
          print(line);
    });
}
