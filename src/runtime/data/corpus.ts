import { createHash, type Hash } from 'node:crypto';
import { invariant, UserError } from '../../errors.js';
import { IGNORED, type Corpus, type Document, type Teacher } from './document.js';

/**
 * Documents held compactly: their tokens lie end to end in a few large arrays, each document followed by
 * {@link IGNORED}. With the usual labels (each token predicts the next) labels are then the same memory one
 * element on, and neither they nor chunks of a long document cost anything.
 */

const SLAB_ELEMENTS = 1 << 20;

/** Where each document lies; one element a document in every array. */
interface Columns {
  readonly slabs: readonly Int32Array[];
  readonly files: readonly string[];
  readonly slab: Int32Array;
  readonly start: Int32Array;
  readonly labelStart: Int32Array;
  /** −1 where the document has no token types */
  readonly typeStart: Int32Array;
  /** Where its targets lie, as the bits of float32; −1 where it has none. */
  readonly targetStart: Int32Array;
  /** How many they are. */
  readonly outputs: Int32Array;
  /** Where its teacher's ids lie, and as many elements on the bits of their logits; −1 where it has none. */
  readonly teacherStart: Int32Array;
  /** From the first id to the first logit. */
  readonly teacherStride: Int32Array;
  /** Ids a token. */
  readonly width: Int32Array;
  readonly length: Int32Array;
  readonly file: Int32Array;
  /** from 1; 0 where the document is a whole file */
  readonly line: Int32Array;
  /** from 1; 0 where the document was not split */
  readonly chunk: Int32Array;
}

/** What only some losses need of a document. */
export type Extra = Pick<Document, 'targets' | 'teacher'>;

export interface CorpusBuilder {
  /**
   * @param ids n ≥ 1 token ids
   * @param labels aligned with `ids` as in Hugging Face (`labels[t]` is the label of token t); default: `ids`
   * @param align `shifted`: token t − 1 predicts `labels[t]`, and the first label nobody; `own`: token t predicts it
   * @param types aligned with `ids`: the segment of each token; default: none
   * @param line from 1; 0 when the document is the whole file
   */
  add(
    file: string,
    line: number,
    ids: ArrayLike<number>,
    labels?: ArrayLike<number>,
    types?: ArrayLike<number>,
    align?: 'shifted' | 'own',
    extra?: Extra,
  ): void;
  readonly count: number;
  /** Ends the building; at least one document was added. */
  finish(): Corpus;
}

export function createCorpusBuilder(): CorpusBuilder {
  const slabs: Int32Array[] = [];
  const files: string[] = [];
  const rows: Row[] = [];
  const hash = createHash('sha256');
  let used = 0;

  /** A run of `elements` zeros at `used` in the last slab. */
  function reserve(elements: number): Int32Array {
    const last = slabs.at(-1);
    if (last !== undefined && used + elements <= last.length) return last;
    const slab = new Int32Array(Math.max(SLAB_ELEMENTS, elements));
    slabs.push(slab);
    used = 0;
    return slab;
  }

  return {
    get count() {
      return rows.length;
    },
    add(file, line, ids, labels, types, align = 'shifted', { targets, teacher } = {}) {
      invariant(ids.length > 0, `an empty document in ${file}`);
      invariant(labels === undefined || labels.length === ids.length, `labels of another length in ${file}`);
      invariant(labels !== undefined || align === 'shifted', `no labels of their own in ${file}`);
      invariant(
        types === undefined || types.length === ids.length,
        `token types of another length in ${file}`,
      );
      const given = [labels, types, targets, teacher?.ids, teacher?.logits];
      const slab = reserve(given.reduce((sum, part) => sum + (part?.length ?? 0), ids.length + 1));
      const start = used;
      slab.set(ids, start);
      slab[start + ids.length] = IGNORED;
      used += ids.length + 1;
      const labelStart = labels === undefined ? start + 1 : used;
      if (labels !== undefined) {
        const skipped = align === 'shifted' ? 1 : 0;
        slab.set(Array.prototype.slice.call(labels, skipped), used);
        slab.fill(IGNORED, used + labels.length - skipped, used + labels.length);
        used += labels.length;
      }
      const place = (part: ArrayLike<number> | undefined): number => {
        if (part === undefined) return -1;
        slab.set(part, used);
        used += part.length;
        return used - part.length;
      };
      const typeStart = place(types);
      const targetStart = place(targets && bitsOf(targets));
      const teacherStart = place(teacher?.ids);
      place(teacher && bitsOf(teacher.logits));
      if (files.at(-1) !== file) files.push(file);
      const length = ids.length;
      rows.push({
        slab: slabs.length - 1,
        start,
        labelStart,
        typeStart,
        targetStart,
        outputs: targets?.length ?? 0,
        teacherStart,
        teacherStride: teacher?.ids.length ?? 0,
        width: (teacher?.ids.length ?? 0) / length,
        length,
        file: files.length - 1,
        line,
        chunk: 0,
      });
      const parts = [start, labelStart, typeStart].filter((at) => at >= 0);
      updateHash(hash, length, [
        ...parts.map((at) => slab.subarray(at, at + length)),
        ...[targets, teacher?.ids, teacher?.logits].filter((part) => part !== undefined),
      ]);
    },
    finish() {
      invariant(rows.length > 0, 'a corpus without documents');
      return corpusOf(columnsOf(slabs, files, rows), hash.digest('hex'));
    },
  };
}

export type LongPolicy = 'error' | 'split' | 'truncate';

/**
 * Applies `--long` to documents of more than `maximumTokens`:
 *
 * - `error` refuses the first one, because cutting changes what the model learns and is the user's choice;
 * - `split` makes ⌈n / maximum⌉ documents of lengths that differ by at most one, because a short last piece would
 *   be predicted from next to no context. Each piece is a document of its own (positions restart, no attention
 *   across the cut), but its last token still predicts the first of the next piece: every label is counted once;
 * - `truncate` keeps the head. The last kept token predicts the token that was cut off, as it would in the whole
 *   document: that label is true, and dropping it would waste it.
 *
 * @throws UserError under `error`, naming file, line, length and limit
 */
export function limitLength(corpus: Corpus, policy: LongPolicy, maximumTokens: number): Corpus {
  invariant(Number.isInteger(maximumTokens) && maximumTokens > 0, `a limit of ${maximumTokens} tokens`);
  const columns = columnsByCorpus.get(corpus);
  invariant(columns !== undefined, 'the corpus was not made by a builder');
  const rows: Row[] = [];
  let cut = false;
  for (let index = 0; index < corpus.count; index++) {
    const row = rowAt(columns, index);
    cut ||= row.length > maximumTokens;
    if (row.length <= maximumTokens) rows.push(row);
    else if (policy === 'truncate') rows.push({ ...row, length: maximumTokens });
    else if (policy === 'split') rows.push(...split(row, maximumTokens));
    else throw tooLong(corpus.document(index), maximumTokens);
  }
  if (!cut) return corpus;
  // Where documents were cut is part of what a resumed run must see again.
  const fingerprint = createHash('sha256').update(`${corpus.fingerprint} ${policy} ${maximumTokens}`);
  return corpusOf(columnsOf(columns.slabs, columns.files, rows), fingerprint.digest('hex'));
}

function tooLong(document: Document, maximumTokens: number): UserError {
  return new UserError(
    `${document.origin}: the document has ${document.ids.length} tokens, the limit is ${maximumTokens}`,
    'cut it with --long split or --long truncate, or raise the limit',
  );
}

type Row = { readonly [K in Exclude<keyof Columns, 'slabs' | 'files'>]: number };

/** The bits of float32 numbers, to be stored among integers. */
const bitsOf = (floats: Float32Array): Int32Array =>
  new Int32Array(floats.buffer, floats.byteOffset, floats.length);

const floatsAt = (slab: Int32Array, start: number, length: number): Float32Array =>
  new Float32Array(slab.buffer, slab.byteOffset + 4 * start, length);

function split(row: Row, maximumTokens: number): Row[] {
  const pieces = Math.ceil(row.length / maximumTokens);
  return Array.from({ length: pieces }, (_, piece) => {
    const from = Math.floor((row.length * piece) / pieces);
    const to = Math.floor((row.length * (piece + 1)) / pieces);
    return {
      ...row,
      start: row.start + from,
      labelStart: row.labelStart + from,
      typeStart: row.typeStart < 0 ? -1 : row.typeStart + from,
      teacherStart: row.teacherStart < 0 ? -1 : row.teacherStart + from * row.width,
      length: to - from,
      chunk: piece + 1,
    };
  });
}

function columnsOf(slabs: readonly Int32Array[], files: readonly string[], rows: readonly Row[]): Columns {
  const column = (key: keyof Row) => Int32Array.from(rows, (row) => row[key]);
  return {
    slabs,
    files,
    slab: column('slab'),
    start: column('start'),
    labelStart: column('labelStart'),
    typeStart: column('typeStart'),
    targetStart: column('targetStart'),
    outputs: column('outputs'),
    teacherStart: column('teacherStart'),
    teacherStride: column('teacherStride'),
    width: column('width'),
    length: column('length'),
    file: column('file'),
    line: column('line'),
    chunk: column('chunk'),
  };
}

function rowAt(columns: Columns, index: number): Row {
  const at = (column: Int32Array): number => {
    const value = column[index];
    invariant(value !== undefined, `no document ${index}`);
    return value;
  };
  return {
    slab: at(columns.slab),
    start: at(columns.start),
    labelStart: at(columns.labelStart),
    typeStart: at(columns.typeStart),
    targetStart: at(columns.targetStart),
    outputs: at(columns.outputs),
    teacherStart: at(columns.teacherStart),
    teacherStride: at(columns.teacherStride),
    width: at(columns.width),
    length: at(columns.length),
    file: at(columns.file),
    line: at(columns.line),
    chunk: at(columns.chunk),
  };
}

/** Keeps the columns out of the interface: only `limitLength` needs them. */
const columnsByCorpus = new WeakMap<Corpus, Columns>();

function corpusOf(columns: Columns, fingerprint: string): Corpus {
  const corpus: Corpus = Object.freeze({
    count: columns.length.length,
    tokens: columns.length.reduce((sum, length) => sum + length, 0),
    fingerprint,
    length: (index: number) => rowAt(columns, index).length,
    document: (index: number) => documentAt(columns, index),
  });
  columnsByCorpus.set(corpus, columns);
  return corpus;
}

function documentAt(columns: Columns, index: number): Document {
  const row = rowAt(columns, index);
  const { slab, start, labelStart, typeStart, targetStart, length, file, line, chunk } = row;
  const data = columns.slabs[slab];
  const name = columns.files[file];
  invariant(data !== undefined && name !== undefined, `document ${index} points outside the corpus`);
  return {
    ids: data.subarray(start, start + length),
    labels: data.subarray(labelStart, labelStart + length),
    ...(typeStart < 0 ? {} : { types: data.subarray(typeStart, typeStart + length) }),
    ...(targetStart < 0 ? {} : { targets: floatsAt(data, targetStart, row.outputs) }),
    ...(row.teacherStart < 0 ? {} : { teacher: teacherAt(data, row) }),
    origin: `${name}${line > 0 ? `:${line}` : ''}${chunk > 0 ? ` (chunk ${chunk})` : ''}`,
  };
}

function teacherAt(slab: Int32Array, { teacherStart, teacherStride, width, length }: Row): Teacher {
  const elements = length * width;
  return {
    ids: slab.subarray(teacherStart, teacherStart + elements),
    logits: floatsAt(slab, teacherStart + teacherStride, elements),
  };
}

function updateHash(hash: Hash, length: number, parts: readonly (Int32Array | Float32Array)[]): void {
  hash.update(Int32Array.of(length));
  for (const part of parts) hash.update(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
}
