import type { Command } from 'commander';
import { UserError } from '../errors.js';
import type { Package } from '../package/read.js';
import type { Document } from '../runtime/data/document.js';
import type { MicroBatchPlan } from '../runtime/session/plan.js';
import type { TrainingSession } from '../runtime/session/session.js';
import type { Spreader } from '../train/spreader.js';
import { degreeOrAuto, positive } from './options.js';
import { remark } from './output.js';

/** Options of commands that run one batch. */
export interface BatchOptions {
  readonly batch?: string;
  readonly sp: number | 'auto';
  readonly ranks?: number;
  readonly maxTokensPerGroup?: number;
  readonly tokenizer?: string;
}

export const withBatchOptions = (command: Command): Command =>
  command
    .option('--batch <file>', 'documents, one a line: {"input_ids": […], "labels": […]?} (required)')
    .option('--sp <p>', "ranks that share a sequence; 'auto': groups are chosen", degreeOrAuto, 1)
    .option(
      '--ranks <n>',
      'ranks in all; more than --sp gives several groups side by side (default: --sp)',
      positive,
    )
    .option('--max-tokens-per-group <n>', 'most tokens a group takes at a time', positive)
    .option('--tokenizer <which>', "for text: 'bytes', or a tokenizer.json");

export interface BatchRun {
  readonly pkg: Package;
  readonly session: TrainingSession;
  /** In the order of the file. */
  readonly documents: readonly Document[];
  readonly plan: readonly MicroBatchPlan[];
}

/**
 * Opens the package, loads the batch and starts the ranks, in this order: a mistake costs no thread. Ends the
 * ranks when `work` is done.
 */
export async function runBatch<T>(
  directory: string,
  batch: string,
  options: BatchOptions,
  work: (run: BatchRun) => Promise<T>,
  purpose: 'train' | 'eval' = 'train',
): Promise<T> {
  const { openPackage } = await import('../package/read.js');
  const { loadCorpus } = await import('../runtime/data/load.js');
  const { TrainingSession } = await import('../runtime/session/session.js');
  const { checkPlan } = await import('../runtime/session/plan.js');
  const pkg = await openPackage(directory);
  const { sp, maxTokensPerGroup, tokenizer } = options;
  const ranks = options.ranks ?? sp;
  if (ranks === 'auto')
    throw new UserError('--sp auto chooses groups from --ranks, which is not given', 'add --ranks 4');
  const corpus = await loadCorpus([batch], {
    vocabulary: pkg.manifest.vocabulary,
    loss: pkg.manifest.loss,
    purpose,
    ...(tokenizer === undefined ? {} : { tokenizer }),
  });
  const documents = Array.from({ length: corpus.count }, (_, index) => corpus.document(index));
  const plan = await planOf(pkg, documents, { sp, ranks, maxTokensPerGroup });
  for (const microBatch of plan) checkPlan(microBatch, ranks, pkg.manifest);
  const session = await TrainingSession.open(pkg, { ranks });
  try {
    return await work({ pkg, session, documents, plan });
  } finally {
    await session.close();
  }
}

async function planOf(
  pkg: Package,
  documents: readonly Document[],
  { sp, ...choices }: Pick<BatchOptions, 'sp' | 'maxTokensPerGroup'> & { readonly ranks: number },
): Promise<readonly MicroBatchPlan[]> {
  const { autoSpreader } = await import('../train/auto.js');
  const { findCalibration } = await import('../train/calibration.js');
  const { fixedSpreader } = await import('../train/spreader.js');
  const { calibration } = findCalibration(pkg, {
    cwd: process.cwd(),
    ranks: choices.ranks,
    calibration: undefined,
  });
  const spreader: Spreader =
    sp === 'auto'
      ? await autoSpreader(pkg, { ...choices, calibration, seed: 0, onFallback: remark })
      : fixedSpreader(pkg, sp, choices);
  try {
    return (await spreader.plan(documents)).microBatches;
  } finally {
    await spreader.close();
  }
}
