import type { CostModel } from '../cost.js';

/** The degrees of a cost model as columns: what the inner loops of a search read. */
export interface DegreeTables {
  readonly ranks: number;
  readonly ranksPerNode: number;
  readonly microBatchMs: number;
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
  return {
    ranks: model.ranks,
    ranksPerNode: model.ranksPerNode,
    microBatchMs: model.microBatchMs,
    size: Int32Array.from(model.degrees, (cost) => cost.degree),
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
