import { createHash } from 'node:crypto';
import type { MaskEntry } from '../../package/manifest.js';
import { IGNORED } from './document.js';
import { createRandom, randomBelow } from './random.js';

/** Shares of the chosen tokens that become the mask token, and another token (arXiv 1810.04805, section 3.1). */
const MASKED = 0.8;
const REPLACED = 0.1;

/**
 * Hides tokens of a document for masked language modelling. Which ones depends on the seed and the document's own
 * ids only: not on its place in the data, the epoch or the ranks.
 * @param ids below `vocabulary`
 * @returns the ids the model sees, and labels of their own tokens: the true id where one was chosen
 */
export function maskDocument(
  ids: ArrayLike<number>,
  vocabulary: number,
  { rate, maskId, seed, special }: MaskEntry,
): { ids: Int32Array; labels: Int32Array } {
  const shown = Int32Array.from(ids);
  const labels = new Int32Array(shown.length).fill(IGNORED);
  const digest = createHash('sha256').update(shown).digest();
  const random = createRandom(seed, digest.readInt32LE(0), digest.readInt32LE(4));
  const uniform = (): number => random() / 2 ** 32;
  const spared = new Set([...special, maskId]);
  for (let t = 0; t < shown.length; t++) {
    const id = shown[t]!;
    if (spared.has(id) || uniform() >= rate) continue;
    labels[t] = id;
    const how = uniform();
    if (how < MASKED) shown[t] = maskId;
    else if (how < MASKED + REPLACED) shown[t] = randomBelow(random, vocabulary);
  }
  return { ids: shown, labels };
}
