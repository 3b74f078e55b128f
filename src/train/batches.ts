import { UserError } from '../errors.js';
import type { Package } from '../package/read.js';
import type { Corpus, Document } from '../runtime/data/document.js';
import { loadCorpus } from '../runtime/data/load.js';
import { spreadDocuments, type SpreadOptions } from '../runtime/data/spread.js';
import { checkDegree, groupsOfDegree, type MicroBatchPlan } from '../runtime/session/plan.js';
import type { TrainSettings } from './settings.js';

/** Longest document of a run: what the model is right for, and what a group has room for. */
function longestDocument({ manifest }: Package, { maxTokensPerGroup }: TrainSettings): number | undefined {
  const limit = Math.min(manifest.maxDocument?.tokens ?? Infinity, maxTokensPerGroup ?? Infinity);
  return Number.isFinite(limit) ? limit : undefined;
}

/** @throws UserError naming file and line of what is not a document the model takes */
export function loadDocuments(
  pkg: Package,
  patterns: readonly string[],
  settings: TrainSettings,
): Promise<Corpus> {
  const maximumTokens = longestDocument(pkg, settings);
  return loadCorpus(patterns, {
    vocabulary: pkg.manifest.vocabulary,
    loss: pkg.manifest.loss,
    cwd: settings.cwd,
    ...(settings.tokenizer === undefined ? {} : { tokenizer: settings.tokenizer }),
    ...(maximumTokens === undefined ? {} : { long: { policy: settings.long, maximumTokens } }),
  });
}

/** Turns documents into micro-batches for groups of equal degree. */
export interface Spreader {
  readonly groups: readonly (readonly number[])[];
  plan(documents: readonly Document[]): readonly MicroBatchPlan[];
}

/** @throws UserError when the ranks do not form such groups, or the model has too few heads or sharded parameters */
export function spreaderOf(
  pkg: Package,
  { ranks, sp, maxTokensPerGroup }: Pick<TrainSettings, 'ranks' | 'sp' | 'maxTokensPerGroup'>,
): Spreader {
  checkDegree(sp, pkg.manifest);
  requireWholeParameters(pkg);
  const groups = groupsOfDegree(ranks, sp);
  const options: SpreadOptions = {
    ...(maxTokensPerGroup === undefined ? {} : { maxTokensPerLane: maxTokensPerGroup }),
    balancedLength: balancedLength(pkg),
  };
  return {
    groups,
    plan: (documents) =>
      spreadDocuments(documents, groups.length, options).map((lanes) => ({
        lanes: lanes.map((own, lane) => ({ ranks: groups[lane]!, documents: own })),
      })),
  };
}

/** Parameters placed @world are compiled, and run by the reference executor only. */
function requireWholeParameters(pkg: Package): void {
  const { inputs, buffers } = pkg.program('train');
  const sharded = inputs.find(
    ({ role, buffer }) => role === 'parameter' && buffers[buffer]!.type.includes('@'),
  );
  if (sharded !== undefined)
    throw new UserError(
      `parameter ${sharded.name} is sharded over the ranks, which local ranks cannot run yet`,
      'compile without passes.zero.shard; ithaca verify runs such a package on the reference executor',
    );
}

/** 12 times the hidden size (see `spreadDocuments`), which is about heads · head size. */
function balancedLength(pkg: Package): number {
  const widths = pkg.program('train').kernels.map(({ heads, headSize }) => heads * headSize);
  return 12 * Math.max(1, ...widths);
}

/** Documents in their order, in batches of about `tokens`. */
export function* batchesOf(corpus: Corpus, tokens: number): Generator<readonly Document[]> {
  let batch: Document[] = [];
  let used = 0;
  for (let index = 0; index < corpus.count; index++) {
    if (batch.length > 0 && used + corpus.length(index) > tokens) {
      yield batch;
      [batch, used] = [[], 0];
    }
    batch.push(corpus.document(index));
    used += corpus.length(index);
  }
  yield batch;
}
