import { statSync, type Stats } from 'node:fs';
import { UserError } from '../../../errors.js';
import { explainReadError, statIfPresent } from '../../../files/fs-errors.js';
import { LEGACY_MAGIC, MAPPED_MAGIC, readMegatronLengths } from './megatron.js';
import { NPY_MAGIC, readNpyLengths } from './npy.js';
import { openSource, type Source } from './source.js';
import { readTextLengths } from './text.js';

export interface LengthOptions {
  /** Sequences that are read: the first ones of the file. Default: all. */
  readonly most?: number;
  /** Column of a table, or key of JSON objects, that tells lengths. Default: one with a known name. */
  readonly column?: string;
}

/**
 * Lengths of sequences in tokens, in the order of the file: text (one a line), JSONL, Megatron's `.bin`/`.idx` (either,
 * or their common prefix), `.npy`, Parquet, Arrow files (Feather V2) and streams. The format is told by the content.
 * @throws UserError for a file that is none of them, is damaged, or holds no lengths
 */
export async function readLengths(file: string, options: LengthOptions = {}): Promise<readonly number[]> {
  const lengths = await readAny(megatronIndex(file), options);
  if (lengths.length === 0) throw new UserError(`${file} holds no lengths`, 'give a file of sequences');
  return lengths;
}

/** Megatron names a dataset by the path that its two files have in common. */
function megatronIndex(file: string): string {
  if (file.endsWith('.bin')) {
    const index = file.replace(/\.bin$/, '.idx');
    if (statIfPresent(index) === undefined)
      throw new UserError(
        `${index} does not exist`,
        'tokens of a .bin file are counted by the .idx beside it',
      );
    return index;
  }
  const alone = statIfPresent(file) === undefined && statIfPresent(`${file}.idx`) !== undefined;
  return alone ? `${file}.idx` : file;
}

async function readAny(file: string, { most = Infinity, column }: LengthOptions): Promise<readonly number[]> {
  // A pipe can only be read once, from its beginning.
  if (!statOf(file).isFile()) return readTextLengths(file, most, column);
  const source = await openSource(file);
  try {
    const head = await source.read(0, Math.min(16, source.bytes));
    const reader = readerFor(head, source);
    if (reader === undefined) return await readTextLengths(file, most, column);
    if (column !== undefined && !reader.columns)
      throw new UserError(`${file}: ${reader.format} has no columns`, 'leave out --column');
    return await reader.read(most, column);
  } finally {
    await source.close();
  }
}

interface Reader {
  readonly format: string;
  readonly columns: boolean;
  read(most: number, column?: string): Promise<readonly number[]>;
}

/** @returns undefined for what may be text */
function readerFor(head: Buffer, source: Source): Reader | undefined {
  const { file } = source;
  const begins = (magic: Buffer | string): boolean => {
    const bytes = typeof magic === 'string' ? Buffer.from(magic, 'latin1') : magic;
    return head.subarray(0, bytes.length).equals(bytes);
  };
  if (begins(NPY_MAGIC))
    return { format: '.npy', columns: false, read: (most) => readNpyLengths(source, most) };
  if (begins(MAPPED_MAGIC) || begins(LEGACY_MAGIC))
    return { format: 'an index', columns: false, read: (most) => readMegatronLengths(source, most) };
  if (file.endsWith('.idx'))
    throw new UserError(`${file}: not an index of Megatron-LM`, 'one begins with MMIDIDX or TNTIDX');
  if (begins('PAR1') || begins('PARE'))
    return {
      format: 'Parquet',
      columns: true,
      read: async (most, column) => (await import('./parquet.js')).readParquetLengths(source, most, column),
    };
  const arrow = begins('ARROW1') ? 8 : begins('\xff\xff\xff\xff') || /\.arrows?$/.test(file) ? 0 : undefined;
  if (arrow !== undefined)
    return {
      format: 'Arrow',
      columns: true,
      read: async (most, column) =>
        (await import('./arrow.js')).readArrowLengths(source, arrow, most, column),
    };
  for (const [magic, problem, hint] of OTHERS)
    if (begins(magic)) throw new UserError(`${file}: ${problem}`, hint);
  return undefined;
}

/** What is often brought, and what to do about it. */
const OTHERS: readonly (readonly [magic: string, problem: string, hint: string])[] = [
  ['PK\x03\x04', 'a ZIP archive (.npz?)', 'save the array of lengths with numpy.save'],
  ['\x1f\x8b', 'compressed with gzip', 'decompress it first'],
  ['\x28\xb5\x2f\xfd', 'compressed with Zstandard', 'decompress it first'],
  ['FEA1', 'Feather version 1', 'write it as version 2, the Arrow file format'],
];

function statOf(file: string): Stats {
  try {
    return statSync(file);
  } catch (error) {
    throw explainReadError(error, file);
  }
}
