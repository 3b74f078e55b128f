import type { CostModel } from '../cost.js';
import { fitsByCount } from '../place.js';

/** The degrees of a cost model as columns: what the inner loops of a search read. */
export interface DegreeTables {
  readonly ranks: number;
  readonly ranksPerNode: number;
  readonly microBatchMs: number;
  /** Whether groups fit wherever there are ranks enough: their sizes lose nothing at nodes' borders. */
  readonly fitsByCount: boolean;
  /** Ranks of a group, ascending. */
  readonly size: Int32Array;
  readonly capacity: Float64Array;
  readonly msPerToken: Float64Array;
  readonly msPerPair: Float64Array;
  readonly exchangeMs: Float64Array;
  readonly exchangeMsPerToken: Float64Array;
  readonly overlap: Float64Array;
}

export function degreeTables(model: CostModel): DegreeTables {
  const column = (
    key: 'capacity' | 'msPerToken' | 'msPerPair' | 'exchangeMs' | 'exchangeMsPerToken' | 'overlap',
  ) => Float64Array.from(model.degrees, (cost) => cost[key]);
  const size = Int32Array.from(model.degrees, (cost) => cost.degree);
  return {
    ranks: model.ranks,
    ranksPerNode: model.ranksPerNode,
    microBatchMs: model.microBatchMs,
    fitsByCount: fitsByCount(size, model.ranks, model.ranksPerNode),
    size,
    capacity: column('capacity'),
    msPerToken: column('msPerToken'),
    msPerPair: column('msPerPair'),
    exchangeMs: column('exchangeMs'),
    exchangeMsPerToken: column('exchangeMsPerToken'),
    overlap: column('overlap'),
  };
}

/** `groupMs` of the cost model for the degree in column `k`. */
export function loadMs(tables: DegreeTables, k: number, tokens: number, pairs: number): number {
  if (tokens === 0) return 0;
  const compute = tables.msPerToken[k]! * tokens + tables.msPerPair[k]! * pairs;
  const exchange = tables.exchangeMs[k]! + tables.exchangeMsPerToken[k]! * tokens;
  return compute + exchange - tables.overlap[k]! * (compute < exchange ? compute : exchange);
}

/** No way to group sequences of so many tokens and pairs in column `k` has group times that add up to less. */
export function leastMs(tables: DegreeTables, k: number, tokens: number, pairs: number): number {
  const compute = tables.msPerToken[k]! * tokens + tables.msPerPair[k]! * pairs;
  const exchange = tables.exchangeMsPerToken[k]! * tokens;
  const shown = 1 - tables.overlap[k]!;
  return Math.max(compute + shown * exchange, exchange + shown * compute);
}

/** A group of column `k` takes at least this much longer with so many tokens and pairs more. */
export function leastIncreaseMs(tables: DegreeTables, k: number, tokens: number, pairs: number): number {
  const compute = tables.msPerToken[k]! * tokens + tables.msPerPair[k]! * pairs;
  const exchange = tables.exchangeMsPerToken[k]! * tokens;
  const shown = 1 - tables.overlap[k]!;
  return Math.min(compute + shown * exchange, exchange + shown * compute);
}
