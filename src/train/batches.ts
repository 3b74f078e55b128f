import type { Package } from '../package/read.js';
import type { Corpus, Document } from '../runtime/data/document.js';
import { loadCorpus } from '../runtime/data/load.js';
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
  purpose: 'train' | 'eval' = 'train',
): Promise<Corpus> {
  const maximumTokens = longestDocument(pkg, settings);
  return loadCorpus(patterns, {
    vocabulary: pkg.manifest.vocabulary,
    loss: pkg.manifest.loss,
    purpose,
    cwd: settings.cwd,
    ...(settings.tokenizer === undefined ? {} : { tokenizer: settings.tokenizer }),
    ...(maximumTokens === undefined ? {} : { long: { policy: settings.long, maximumTokens } }),
  });
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
