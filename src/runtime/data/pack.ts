import { IGNORED, type Document } from './document.js';

/** Documents end to end: the inputs of one lane in one micro-batch. S = Σ lengths; arrays are int32[S] if not said otherwise. */
export interface PackedRow {
  readonly tokens: Int32Array<ArrayBuffer>;
  /** from 0 in every document */
  readonly positions: Int32Array<ArrayBuffer>;
  /** 0, 1, 2, …: which document a token belongs to; attention stays inside */
  readonly documents: Int32Array<ArrayBuffer>;
  /** already shifted, −100 where nothing is counted */
  readonly labels: Int32Array<ArrayBuffer>;
  /** 0 for documents that give none */
  readonly token_types: Int32Array<ArrayBuffer>;
  /** tokens of the document that a token belongs to */
  readonly lengths: Int32Array<ArrayBuffer>;
  /** float32[S, outputs]: a document's targets at each of its counted tokens; only where documents have some */
  readonly targets?: Float32Array<ArrayBuffer>;
  /** int32[S, K]; only where documents have a teacher */
  readonly teacher_ids?: Int32Array<ArrayBuffer>;
  /** float32[S, K] */
  readonly teacher_logits?: Float32Array<ArrayBuffer>;
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
    lengths: new Int32Array(length),
    ...wideRows(documents, length),
  };
  let start = 0;
  for (const [number, document] of documents.entries()) {
    const { ids, labels, types } = document;
    row.tokens.set(ids, start);
    row.labels.set(labels, start);
    if (types !== undefined) row.token_types.set(types, start);
    row.documents.fill(number, start, start + ids.length);
    row.lengths.fill(ids.length, start, start + ids.length);
    for (let t = 0; t < ids.length; t++) row.positions[start + t] = t;
    packWide(row, document, start);
    start += ids.length;
  }
  return row;
}

/** Rows of several elements a token, for documents that have some. */
function wideRows(
  [first]: readonly Document[],
  length: number,
): Pick<PackedRow, 'targets' | 'teacher_ids' | 'teacher_logits'> {
  const width = first?.teacher && first.teacher.ids.length / first.ids.length;
  return {
    ...(first?.targets && { targets: new Float32Array(length * first.targets.length) }),
    ...(width !== undefined && {
      teacher_ids: new Int32Array(length * width),
      teacher_logits: new Float32Array(length * width),
    }),
  };
}

function packWide(row: PackedRow, { labels, targets, teacher, ids }: Document, start: number): void {
  if (targets !== undefined)
    labels.forEach((label, t) => {
      if (label !== IGNORED) row.targets?.set(targets, (start + t) * targets.length);
    });
  if (teacher === undefined) return;
  const width = teacher.ids.length / ids.length;
  row.teacher_ids?.set(teacher.ids, start * width);
  row.teacher_logits?.set(teacher.logits, start * width);
}
