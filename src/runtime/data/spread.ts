import { invariant, UserError } from '../../errors.js';
import type { Document } from './document.js';

export interface SpreadOptions {
  /** Most tokens a lane holds in one micro-batch; default: no limit, one micro-batch. */
  readonly maxTokensPerLane?: number;
  /**
   * Length at which attention costs as much as all that is linear in the tokens. For a dense transformer of
   * hidden size H a token costs about 24·H² FLOPs in its matrices and 2·L·H in causal attention: L ≈ 12·H.
   */
  readonly balancedLength?: number;
}

/**
 * Spreads a global batch over `lanes` groups of equal degree and as few micro-batches as the limit lets the greedy
 * rule find: longest document first, each to the lane and micro-batch of least cost that has room
 * (Graham's LPT rule). Lanes of like cost then share a micro-batch, because a micro-batch lasts as long as its
 * slowest lane. Deterministic; the loss does not depend on it.
 *
 * @returns `[microBatch][lane][document]`: every micro-batch has `lanes` lanes and at least one document, a lane
 *   may have none, a lane's documents keep the order of `documents`. No documents, no micro-batches.
 * @throws UserError for a document of more than `maxTokensPerLane`
 */
export function spreadDocuments(
  documents: readonly Document[],
  lanes: number,
  { maxTokensPerLane = Infinity, balancedLength = 8192 }: SpreadOptions = {},
): readonly (readonly (readonly Document[])[])[] {
  invariant(Number.isInteger(lanes) && lanes > 0, `${lanes} lanes`);
  const items = documents.map((document, index) => ({ document, index, tokens: document.ids.length }));
  const longest = items.toSorted((a, b) => b.tokens - a.tokens || a.index - b.index);
  const first = longest[0];
  if (first === undefined) return [];
  if (first.tokens > maxTokensPerLane) {
    throw new UserError(
      `${first.document.origin}: the document has ${first.tokens} tokens, a group has room for ${maxTokensPerLane}`,
      'cut it with --long split or --long truncate, or use larger groups (--sp)',
    );
  }
  const cost = (tokens: number) => tokens + (tokens * tokens) / balancedLength;
  const total = items.reduce((sum, { tokens }) => sum + tokens, 0);
  let microBatches = Math.max(1, Math.ceil(total / (lanes * maxTokensPerLane)));
  let bins = fill(longest, microBatches * lanes, maxTokensPerLane, cost);
  while (bins === undefined) bins = fill(longest, ++microBatches * lanes, maxTokensPerLane, cost);
  const byCost = bins.toSorted((a, b) => b.cost - a.cost);
  return Array.from({ length: microBatches }, (_, microBatch) =>
    byCost
      .slice(microBatch * lanes, (microBatch + 1) * lanes)
      .map(({ items }) => items.toSorted((a, b) => a.index - b.index).map(({ document }) => document)),
  ).filter((lanesOfOne) => lanesOfOne.some((lane) => lane.length > 0));
}

interface Item {
  readonly document: Document;
  readonly index: number;
  readonly tokens: number;
}

interface Bin {
  cost: number;
  tokens: number;
  readonly items: Item[];
}

/** undefined when a document finds no room; with a bin a document it always does. */
function fill(
  longest: readonly Item[],
  count: number,
  maxTokens: number,
  cost: (tokens: number) => number,
): readonly Bin[] | undefined {
  const bins: Bin[] = Array.from({ length: count }, () => ({ cost: 0, tokens: 0, items: [] }));
  for (const item of longest) {
    let best: Bin | undefined;
    for (const bin of bins) {
      if (bin.tokens + item.tokens > maxTokens) continue;
      if (best === undefined || bin.cost < best.cost) best = bin;
    }
    if (best === undefined) return undefined;
    best.cost += cost(item.tokens);
    best.tokens += item.tokens;
    best.items.push(item);
  }
  return bins;
}
