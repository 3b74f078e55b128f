import type { Document } from './document.js';

/** Documents end to end: the inputs of one lane in one micro-batch. All arrays int32[S], S = Σ lengths. */
export interface PackedRow {
  readonly tokens: Int32Array;
  /** from 0 in every document */
  readonly positions: Int32Array;
  /** 0, 1, 2, …: which document a token belongs to; attention stays inside */
  readonly documents: Int32Array;
  /** already shifted, −100 where nothing is counted */
  readonly labels: Int32Array;
  /** 0 for documents that give none */
  readonly token_types: Int32Array;
}

/** Packs `documents` in their order; none gives a row of no tokens. */
export function packDocuments(documents: readonly Document[]): PackedRow {
  const length = documents.reduce((sum, { ids }) => sum + ids.length, 0);
  const row: PackedRow = {
    tokens: new Int32Array(length),
    positions: new Int32Array(length),
    documents: new Int32Array(length),
    labels: new Int32Array(length),
    token_types: new Int32Array(length),
  };
  let start = 0;
  for (const [number, { ids, labels, types }] of documents.entries()) {
    row.tokens.set(ids, start);
    row.labels.set(labels, start);
    if (types !== undefined) row.token_types.set(types, start);
    row.documents.fill(number, start, start + ids.length);
    for (let t = 0; t < ids.length; t++) row.positions[start + t] = t;
    start += ids.length;
  }
  return row;
}
