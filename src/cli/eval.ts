import type { Command } from 'commander';
import { pooledToken } from '../ir/pooled.js';
import type { EvalMetrics } from '../runtime/session/session.js';
import { runBatch, withBatchOptions, type BatchOptions, type BatchRun } from './batch.js';
import { jsonOption, required } from './options.js';
import { print, printJsonLine, table } from './output.js';

interface EvalOptions extends BatchOptions {
  readonly output?: string;
  readonly json?: boolean;
}

export function declareEval(program: Command): void {
  const command = program
    .command('eval')
    .summary('loss and logits of one batch')
    .description(
      'Computes the loss of a batch and, if asked, its logits, which are streamed to the file tile by tile.',
    )
    .argument('<package>', 'directory that ithaca compile wrote');
  withBatchOptions(command)
    .option('-o, --output <file>', 'safetensors file for the logits')
    .addOption(jsonOption('{"loss", "tokens", "accuracy"?}'))
    .addHelpText(
      'after',
      `
The logits of document i of the file (from 0, blank lines not counted) are the float32 tensor 'logits.i' of
[tokens, classes], classes being the vocabulary of a language model; of [classes] where documents are classified.
The loss is the mean over counted tokens, or labelled documents; of a distilled model, the cross entropy of labels.
The accuracy is the share of them whose label has the largest logit.

Examples:
  $ ithaca eval llama.ithaca --batch batch.jsonl
  $ ithaca eval llama.ithaca --batch batch.jsonl --sp 2 -o logits.safetensors --json`,
    )
    .action(async (directory: string, options: EvalOptions, self: Command) => {
      const batch = required(self, options.batch, '--batch <file>');
      const { output } = options;
      const { pkg, metrics } = await runBatch(
        directory,
        batch,
        options,
        async (run) => ({
          pkg: run.pkg,
          metrics: await (output === undefined ? run.session.evaluate(run.plan) : evaluateTo(output, run)),
        }),
        'eval',
      );
      const { loss, tokens, correct } = metrics;
      const accuracy = correct === undefined || tokens === 0 ? undefined : correct / tokens;
      const { kind, pool } = pkg.manifest.loss;
      if (options.json === true) printJsonLine({ loss, tokens, accuracy });
      else
        for (const line of table([
          [kind === 'regression' ? 'mean squared error' : 'loss', String(loss)],
          ...(accuracy === undefined ? [] : [['accuracy', String(accuracy)]]),
          [pool === undefined ? 'tokens' : 'documents', String(tokens)],
        ]))
          print(line);
    });
}

/** Writes tiles as they come, so that at most a few are in memory. */
async function evaluateTo(output: string, { pkg, session, documents, plan }: BatchRun): Promise<EvalMetrics> {
  const { SafetensorsStreamWriter } = await import('../files/safetensors.js');
  const { classes, pool } = pkg.manifest.loss;
  const nameOf = new Map(documents.map((document, index) => [document, `logits.${index}`]));
  const writer = await SafetensorsStreamWriter.create(
    output,
    documents.map((document) => ({
      name: nameOf.get(document)!,
      dtype: 'F32' as const,
      shape: pool === undefined ? [document.ids.length, classes] : [classes],
    })),
  );
  try {
    const metrics = await session.evaluate(plan, ({ microBatch, lane, row, rows, data }) => {
      // A tile may reach over several documents of its lane's row.
      let start = 0;
      for (const document of plan[microBatch]!.lanes[lane]!.documents) {
        // The rows that are the document's: all, or the token that stands for it.
        const first = pool === undefined ? start : start + pooledToken(document.ids, pool);
        const end = pool === undefined ? start + document.ids.length : first + 1;
        const [from, to] = [Math.max(row, first), Math.min(row + rows, end)];
        if (from < to)
          writer.writeAt(
            nameOf.get(document)!,
            (from - first) * classes,
            data.subarray((from - row) * classes, (to - row) * classes),
          );
        start += document.ids.length;
      }
    });
    await writer.commit();
    return metrics;
  } catch (error) {
    await writer.abort();
    throw error;
  }
}
