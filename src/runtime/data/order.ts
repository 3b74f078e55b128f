import { invariant } from '../../errors.js';
import type { Corpus, Document } from './document.js';
import { createRandom, randomBelow } from './random.js';

/** Where a run stands in its data: `index` documents of epoch `epoch` (both from 0) have been used. */
export interface DataPosition {
  readonly epoch: number;
  readonly index: number;
}

/** How large a global batch is: the next document would exceed `tokens`, or there are `documents` of them. */
export interface BatchBudget {
  readonly tokens?: number;
  readonly documents?: number;
}

export interface DataOrder {
  /** Save it with a checkpoint, give it to `createDataOrder` to go on. */
  readonly position: DataPosition;
  /**
   * The documents of one global batch, at least one (a document longer than the budget is a batch of its own).
   * A batch runs on into the next epoch: no batch is short, and every document comes once an epoch.
   */
  nextBatch(budget: BatchBudget): readonly Document[];
}

/**
 * Each epoch uses its own permutation of the corpus, which depends on seed, epoch and the number of documents
 * only, so that a saved position suffices to resume.
 */
export function createDataOrder(
  corpus: Corpus,
  seed: number,
  position: DataPosition = { epoch: 0, index: 0 },
): DataOrder {
  const { count } = corpus;
  let { epoch, index } = position;
  invariant(Number.isSafeInteger(epoch) && epoch >= 0, `data position in epoch ${epoch}`);
  invariant(Number.isSafeInteger(index) && index >= 0 && index < count, `data position ${index} of ${count}`);
  let permutation = permutationOf(count, seed, epoch);

  function advance(): void {
    index++;
    if (index < count) return;
    index = 0;
    epoch++;
    permutation = permutationOf(count, seed, epoch);
  }

  return {
    get position() {
      return { epoch, index };
    },
    nextBatch({ tokens = Infinity, documents = Infinity }) {
      invariant(tokens < Infinity || documents < Infinity, 'a batch without budget');
      const batch: Document[] = [];
      for (let used = 0; batch.length < documents; advance()) {
        const next = permutation[index]!;
        used += corpus.length(next);
        if (batch.length > 0 && used > tokens) break;
        batch.push(corpus.document(next));
      }
      return batch;
    },
  };
}

/** Fisher–Yates (Durstenfeld's form) over 0 … count − 1. */
export function permutationOf(count: number, seed: number, epoch: number): Uint32Array {
  const random = createRandom(seed, epoch);
  const order = Uint32Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last--) {
    const other = randomBelow(random, last + 1);
    const moved = order[last]!;
    order[last] = order[other]!;
    order[other] = moved;
  }
  return order;
}
