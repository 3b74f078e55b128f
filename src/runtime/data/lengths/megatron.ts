import { invariant, UserError } from '../../../errors.js';
import { statIfPresent } from '../../../files/fs-errors.js';
import { createLengthList } from './list.js';
import { cursorOf, damaged, integerAt, integersOf, type IntegerType, type Source } from './source.js';

/** Megatron-LM's indexed datasets: with a memory map, and before it (fairseq's). */
export const MAPPED_MAGIC = Buffer.from('MMIDIDX\0\0', 'latin1');
export const LEGACY_MAGIC = Buffer.from('TNTIDX\0\0', 'latin1');

const INT32: IntegerType = { bytes: 4, signed: true };
const INT64: IntegerType = { bytes: 8, signed: true };

/** Bytes of a token by its type's code; 6 and 7 are floating point, in either order. */
const TOKEN_BYTES: ReadonlyMap<number, number> = new Map([
  [1, 1],
  [2, 1],
  [3, 2],
  [4, 4],
  [5, 8],
  [8, 2],
]);

/** Where an index keeps what is read of it. */
interface Layout {
  readonly sequences: number;
  readonly sizes: { readonly at: number; readonly type: IntegerType };
  /** Where sequences start in the .bin file. */
  readonly starts: { readonly at: number; readonly bytesPerUnit: number };
  /** First sequence of each document, then the number of sequences. */
  readonly documents: { readonly at: number; readonly count: number };
  readonly tokenBytes: number;
}

/**
 * Tokens of the documents of an indexed dataset (`.idx` beside `.bin`): a document is a run of sequences. Sizes,
 * document borders and, where the `.bin` is there, its length must agree.
 *
 * - `MMIDIDX`, version 1: int32 sizes, int64 byte offsets, int64 document index; Megatron Core appends an int8 mode a
 *   sequence to multimodal ones (megatron/core/datasets/indexed_dataset.py)
 * - `TNTIDX`, version 1: int64 dimensions, offsets in tokens, sizes and document index, for one-dimensional sequences
 *
 * @throws UserError for an index that is not what it says
 */
export async function readMegatronLengths(source: Source, most: number): Promise<readonly number[]> {
  const { file } = source;
  const head = await source.read(0, Math.min(source.bytes, 56));
  const layout = head.subarray(0, 9).equals(MAPPED_MAGIC) ? mapped(head, source) : legacy(head, source);
  if (layout.tokenBytes === 0)
    throw new UserError(`${file}: its elements are no token ids`, 'give an index of a tokenized dataset');
  const list = createLengthList(file, most, (index) => `document ${index}`);
  const next = cursorOf(integersOf(source, layout.documents.at, layout.documents.count, INT64));
  const first = await next();
  if (first !== 0) throw damaged(file, `its first document begins at sequence ${first ?? 'none'}`);
  let [sequence, tokens, begin, end] = [0, 0, 0, await next()];
  /** Ends the documents that end at the present sequence; some may be empty. */
  const closeDocuments = async (): Promise<void> => {
    while (end === sequence && !list.full) {
      list.add(tokens);
      [tokens, begin, end] = [0, sequence, await next()];
    }
  };
  const check = sequenceChecker(source, layout);
  for await (const [sizes, starts] of sequencesOf(source, layout))
    for (let i = 0; i < sizes.length; i++, sequence++) {
      if (end === sequence) await closeDocuments();
      if (list.full) return list.lengths;
      check(sequence, sizes[i]!, starts[i]!);
      tokens += sizes[i]!;
    }
  await closeDocuments();
  if (!list.full && (end !== undefined || begin !== sequence))
    throw damaged(file, `a document ends at sequence ${end ?? begin}, there are ${sequence}`);
  return list.lengths;
}

function mapped(head: Buffer, { file, bytes }: Source): Layout {
  if (head.length < 34) throw damaged(file, `an index of ${bytes} bytes`);
  requireVersion(count64(head, 9), file);
  const [sequences, documents] = [count64(head, 18), count64(head, 26)];
  const least = 34 + 12 * sequences + 8 * documents;
  if (bytes !== least && bytes !== least + sequences)
    throw damaged(
      file,
      `${sequences} sequences and ${documents} document borders make it ${least} bytes, it has ${bytes}`,
    );
  return {
    sequences,
    sizes: { at: 34, type: INT32 },
    starts: { at: 34 + 4 * sequences, bytesPerUnit: 1 },
    documents: { at: 34 + 12 * sequences, count: documents },
    tokenBytes: TOKEN_BYTES.get(head[17]!) ?? 0,
  };
}

function legacy(head: Buffer, { file, bytes }: Source): Layout {
  if (head.length < 56) throw damaged(file, `an index of ${bytes} bytes`);
  requireVersion(count64(head, 8), file);
  const tokenBytes = TOKEN_BYTES.has(count64(head, 16)) ? count64(head, 24) : 0;
  const [sequences, sizes, documents] = [count64(head, 32), count64(head, 40), count64(head, 48)];
  if (sizes !== sequences)
    throw new UserError(`${file}: its sequences have more than one dimension`, 'give a dataset of token ids');
  const expected = 56 + 16 * (sequences + 1) + 8 * sizes + 8 * documents;
  if (bytes !== expected)
    throw damaged(
      file,
      `${sequences} sequences and ${documents} document borders make it ${expected} bytes, it has ${bytes}`,
    );
  return {
    sequences,
    sizes: { at: 56 + 16 * (sequences + 1), type: INT64 },
    starts: { at: 56 + 8 * (sequences + 1), bytesPerUnit: tokenBytes },
    documents: { at: expected - 8 * documents, count: documents },
    tokenBytes,
  };
}

function requireVersion(version: number, file: string): void {
  if (version !== 1) throw new UserError(`${file}: index version ${version} is not known`, 'version 1 is');
}

/** A count; anything near 2⁵³ makes every file too short for it. */
const count64 = (buffer: Buffer, at: number): number => integerAt(buffer, at, { bytes: 8, signed: false });

/** Sizes and starts of the sequences, some thousands at a time. */
async function* sequencesOf(
  source: Source,
  { sequences, sizes, starts }: Layout,
): AsyncGenerator<readonly [Float64Array, Float64Array], void, undefined> {
  const offsets = integersOf(source, starts.at, sequences, INT64);
  for await (const part of integersOf(source, sizes.at, sequences, sizes.type)) {
    const { value } = await offsets.next();
    invariant(value?.length === part.length, 'sizes and starts come in like pieces');
    yield [part, value];
  }
}

/** No sequence may reach beyond the .bin file; without one beside the index there is nothing to hold it to. */
function sequenceChecker(
  { file }: Source,
  { starts, tokenBytes }: Layout,
): (sequence: number, size: number, start: number) => void {
  const data = file.replace(/\.idx$/, '.bin');
  const bytes = data === file ? undefined : statIfPresent(data)?.size;
  return (sequence, size, start) => {
    if (size < 0 || start < 0)
      throw damaged(file, `sequence ${sequence} has ${size} tokens from ${start} on`);
    const end = start * starts.bytesPerUnit + size * tokenBytes;
    if (bytes !== undefined && end > bytes)
      throw damaged(file, `sequence ${sequence} ends at byte ${end} of ${data}, which has ${bytes}`);
  };
}
