import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { decompress as decompressZstd } from 'fzstd';
import { snappyUncompress } from 'hyparquet';
import type { ColumnMetaData, CompressionCodec, PageHeader } from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import { UserError } from '../../../errors.js';
import { decompressLz4Block } from './lz4.js';
import type { Source } from './source.js';

/** Writers aim at 1 MiB; a page of long lists may be some hundreds. */
const MOST_PAGE_BYTES = 2 ** 29;
/** A header is some tens of bytes; with statistics of long strings, some thousands. */
const HEADER_BYTES = [2 ** 12, 2 ** 16, 2 ** 24] as const;

/** A page, decompressed as far as it is needed. */
export type Page =
  | { readonly kind: 'dictionary'; readonly count: number; readonly values: Buffer }
  | {
      readonly kind: 'data';
      /** Entries, nulls and empty lists included. */
      readonly count: number;
      readonly encoding: string;
      /** Repetition levels, definition levels, then the values; empty where they are not needed. */
      readonly parts: Parts;
    };

/** Version 1 of the format has them in one piece, version 2 apart, the levels never compressed. */
export type Parts =
  | { readonly version: 1; readonly bytes: Buffer; readonly levels: string }
  | {
      readonly version: 2;
      readonly repetition: Buffer;
      readonly definition: Buffer;
      readonly values: Buffer;
    };

/** The pages of one column in a row group, one at a time in memory. */
export async function* pagesOf(
  source: Source,
  chunk: ColumnMetaData,
  needs: 'levels' | 'values',
): AsyncGenerator<Page, void, undefined> {
  const dictionary = Number(chunk.dictionary_page_offset ?? 0);
  const data = Number(chunk.data_page_offset);
  // Some writers give 0 for a dictionary that is not there.
  let at = dictionary > 0 ? Math.min(dictionary, data) : data;
  const end = at + Number(chunk.total_compressed_size);
  if (!(at >= 4 && end <= source.bytes)) throw new Error(`bytes ${at} to ${end} are not in the file`);
  for (let entries = Number(chunk.num_values); entries > 0;) {
    const { header, length } = await readHeader(source, at, end);
    const { compressed_page_size: stored, uncompressed_page_size: whole } = header;
    at += length;
    if (!(stored >= 0 && at + stored <= end)) throw new Error(`a page of ${stored} bytes`);
    if (!(whole >= 0 && whole <= MOST_PAGE_BYTES))
      throw new Error(`a page of ${whole} bytes when decompressed`);
    const page = await readPage(source, { at, header, codec: chunk.codec, needs });
    at += stored;
    if (page === undefined) continue;
    if (page.kind === 'data') entries -= page.count;
    if (entries < 0) throw new Error('pages hold more than was announced');
    yield page;
  }
}

/** A header's length is not known beforehand: what does not parse from little is tried from more. */
async function readHeader(
  source: Source,
  at: number,
  end: number,
): Promise<{ header: PageHeader; length: number }> {
  let failure: unknown = new Error('pages hold less than was announced');
  for (const most of HEADER_BYTES) {
    const bytes = await source.read(at, Math.min(most, end - at));
    if (bytes.length === 0) break;
    try {
      const reader = { view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length), offset: 0 };
      const header = parquetHeader(reader);
      return { header, length: reader.offset };
    } catch (error) {
      failure = error;
      if (bytes.length < most) break;
    }
  }
  throw failure;
}

interface StoredPage {
  readonly at: number;
  readonly header: PageHeader;
  readonly codec: CompressionCodec;
  readonly needs: 'levels' | 'values';
}

const NOTHING = Buffer.alloc(0);

/** @returns undefined for pages that hold no values */
async function readPage(source: Source, { at, header, codec, needs }: StoredPage): Promise<Page | undefined> {
  const stored = header.compressed_page_size;
  const whole = header.uncompressed_page_size;
  if (header.dictionary_page_header !== undefined) {
    if (needs === 'levels') return undefined;
    const values = decompress(codec, await source.read(at, stored), whole);
    return { kind: 'dictionary', count: header.dictionary_page_header.num_values, values };
  }
  const [one, two] = [header.data_page_header, header.data_page_header_v2];
  if (one !== undefined) {
    const bytes = decompress(codec, await source.read(at, stored), whole);
    const levels = one.definition_level_encoding;
    return data(one.num_values, one.encoding, { version: 1, bytes, levels });
  }
  if (two === undefined) return undefined;
  const repetitionBytes = two.repetition_levels_byte_length;
  const bytes = repetitionBytes + two.definition_levels_byte_length;
  if (!(repetitionBytes >= 0 && bytes >= repetitionBytes && bytes <= Math.min(stored, whole)))
    throw new Error(`levels of ${bytes} bytes`);
  const levels = await source.read(at, bytes);
  const parts = {
    repetition: levels.subarray(0, repetitionBytes),
    definition: levels.subarray(repetitionBytes),
  };
  let values: Buffer = NOTHING;
  if (needs === 'values') {
    const body = await source.read(at + bytes, stored - bytes);
    values = two.is_compressed === false ? body : decompress(codec, body, whole - bytes);
  }
  return data(two.num_values, two.encoding, { version: 2, ...parts, values });
}

function data(count: number, encoding: string, parts: Parts): Page {
  if (!(count >= 0)) throw new Error(`a page of ${count} values`);
  return { kind: 'data', count, encoding, parts };
}

/** @returns exactly `bytes` bytes */
function decompress(codec: CompressionCodec, input: Buffer, bytes: number): Buffer {
  if (bytes === 0) return NOTHING;
  const output = decompressTo(codec, input, bytes);
  if (output.length !== bytes) throw new Error(`${output.length} bytes, ${bytes} were announced`);
  return Buffer.from(output.buffer, output.byteOffset, output.length);
}

function decompressTo(codec: CompressionCodec, input: Buffer, bytes: number): Uint8Array {
  switch (codec) {
    case 'UNCOMPRESSED':
      return input;
    case 'GZIP':
      return gunzipSync(input, { maxOutputLength: bytes });
    case 'BROTLI':
      return brotliDecompressSync(input, { maxOutputLength: bytes });
    case 'ZSTD':
      return decompressZstd(input, new Uint8Array(bytes));
    case 'SNAPPY': {
      const output = new Uint8Array(bytes);
      snappyUncompress(input, output);
      return output;
    }
    case 'LZ4_RAW': {
      const output = new Uint8Array(bytes);
      return output.subarray(0, decompressLz4Block(input, output));
    }
    default:
      throw new UserError(
        `compression ${codec} of Parquet is not read`,
        'write the file with ZSTD or SNAPPY',
      );
  }
}
