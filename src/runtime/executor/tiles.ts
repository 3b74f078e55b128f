import type { KernelInfo } from '../../package/program.js';

/** One call of an attention kernel: query rows `[row, row + rows)` of a packed row against keys `[key, key + keys)`. */
export interface AttentionTile {
  readonly row: number;
  readonly rows: number;
  readonly key: number;
  readonly keys: number;
}

/** Most bytes of the scores `[heads, rows, keys]` of one call; its model holds a few such tensors at a time. */
export const SCORE_BYTES = 16 << 20;

/**
 * Most query rows of a call where later keys are masked: what lies above the diagonal of a tile is computed
 * for nothing, half a tile's rows of keys on average; fewer rows make more calls and thinner products.
 */
const MASKED_ROWS = 128;

type Mask = Pick<KernelInfo, 'mask' | 'window'>;

/** Query rows of one call within a document of `length` tokens: as even as possible, at most what fits. */
export function queryRows({ mask, window }: Mask, heads: number, length: number): number {
  const most = mask === 'full' ? length : Math.min(length, MASKED_ROWS);
  const keys = window === undefined ? length : Math.min(length, most + window - 1);
  const fitting = Math.max(1, Math.min(most, Math.floor(SCORE_BYTES / (4 * Math.max(1, heads) * keys))));
  return Math.ceil(length / Math.ceil(length / fitting));
}

/** The calls for documents of these lengths, packed end to end; keys are only those the mask can reach. */
export function attentionTiles(kernel: Mask, heads: number, lengths: readonly number[]): AttentionTile[] {
  const tiles: AttentionTile[] = [];
  let start = 0;
  for (const length of lengths) {
    const most = queryRows(kernel, heads, length);
    for (let first = 0; first < length; first += most) {
      const rows = Math.min(most, length - first);
      const end = kernel.mask === 'full' ? length : first + rows;
      const from = kernel.window === undefined ? 0 : Math.max(0, first - kernel.window + 1);
      tiles.push({ row: start + first, rows, key: start + from, keys: end - from });
    }
    start += length;
  }
  return tiles;
}

/** Lengths of runs of equal numbers. */
export function documentLengths(documents: Int32Array): number[] {
  const lengths: number[] = [];
  let start = 0;
  for (let t = 1; t <= documents.length; t++) {
    if (t < documents.length && documents[t] === documents[start]) continue;
    lengths.push(t - start);
    start = t;
  }
  return lengths;
}
