import type { KernelInfo } from '../../package/program.js';

/** One call of an attention kernel: query rows `[row, row + rows)` of a packed row against keys `[key, key + keys)`. */
export interface AttentionTile {
  readonly row: number;
  readonly rows: number;
  readonly key: number;
  readonly keys: number;
}

/**
 * Bytes of the scores `[heads, rows, keys]` of one call, unless that would leave fewer than {@link FEWEST_ROWS};
 * a model holds a few such tensors at a time.
 */
export const SCORE_BYTES = 16 << 20;
const FEWEST_ROWS = 16;

/**
 * Rows of a call where later keys are masked. What lies above the diagonal of a tile is computed for nothing, half
 * a tile's rows of keys a row; fewer rows prepare keys and values more often. Measured on one core, 8 heads over 2 of
 * size 64, both directions: 64 rows are best up to 1024 tokens, 128 from 2048 on, twice as fast as one call.
 */
const maskedRows = (length: number): number => Math.max(64, Math.min(128, Math.ceil(length / 16)));

type Mask = Pick<KernelInfo, 'mask' | 'window' | 'ahead'>;

/** Query rows of one call within a document of `length` tokens, as even as possible. */
export function queryRows(mask: Mask, heads: number, length: number): number {
  if (length === 0) return 0;
  const rows = mostQueryRows(mask, heads, { from: length, to: length });
  return Math.ceil(length / Math.ceil(length / rows));
}

/** No call has more query rows than this, in documents of `from` to `to` tokens. */
export function mostQueryRows(
  { mask, window, ahead = 0 }: Mask,
  heads: number,
  { from, to }: { readonly from: number; readonly to: number },
): number {
  const most = (length: number): number => (mask === 'full' ? length : Math.min(length, maskedRows(length)));
  // Fewest in the shortest document, and more keys never leave room for more rows.
  const keys = window === undefined ? from : Math.min(from, most(from) + window - 1 + ahead);
  const fitting = Math.floor(SCORE_BYTES / (4 * Math.max(1, heads) * keys));
  return Math.min(most(to), Math.max(fitting, FEWEST_ROWS));
}

/** The calls for documents of these lengths, packed end to end; keys are only those the mask can reach. */
export function attentionTiles(kernel: Mask, heads: number, lengths: readonly number[]): AttentionTile[] {
  const tiles: AttentionTile[] = [];
  let start = 0;
  for (const length of lengths) {
    const most = queryRows(kernel, heads, length);
    for (let first = 0; first < length; first += most) {
      const rows = Math.min(most, length - first);
      const end = kernel.mask === 'full' ? length : Math.min(length, first + rows + (kernel.ahead ?? 0));
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
