import { CompressionType } from 'apache-arrow/fb/compression-type';
import { Endianness } from 'apache-arrow/fb/endianness';
import { Message } from 'apache-arrow/fb/message';
import { MessageHeader } from 'apache-arrow/fb/message-header';
import { MetadataVersion } from 'apache-arrow/fb/metadata-version';
import { RecordBatch } from 'apache-arrow/fb/record-batch';
import { Schema } from 'apache-arrow/fb/schema';
import { ByteBuffer } from 'flatbuffers';
import { decompress as decompressZstd } from 'fzstd';
import { UserError } from '../../../errors.js';
import { arrowColumns, type ArrowColumn } from './arrow-schema.js';
import { chooseColumn } from './column.js';
import { createLengthList, type LengthList } from './list.js';
import { decompressLz4Frame } from './lz4.js';
import { damaged, integerAt, integersOf, type IntegerType, type Source } from './source.js';

export const ARROW_MAGIC = Buffer.from('ARROW1', 'latin1');
/** Before the messages of a file: the magic, padded. A stream begins with its first message. */
export const ARROW_FILE_START = 8;

const MOST_METADATA_BYTES = 64 * 2 ** 20;
const MOST_BUFFER_BYTES = 2 ** 29;

/**
 * Lengths from one column of an Arrow IPC file (Feather V2) or stream: numbers, or lists, of which only the offsets
 * are read. Messages are decoded by apache-arrow's own tables; bodies are not read but for the one buffer.
 * @param start where the first message is
 * @throws UserError for a file or a column that cannot be read
 */
export async function readArrowLengths(
  source: Source,
  start: number,
  most: number,
  wanted?: string,
): Promise<readonly number[]> {
  const { file } = source;
  const list = createLengthList(file, most);
  try {
    let column: ArrowColumn | undefined;
    for await (const stored of messagesOf(source, start)) {
      const { message } = stored;
      if (list.full) break;
      if (message.headerType() === MessageHeader.Schema) {
        if (column !== undefined) throw new Error('a second schema');
        column = chooseColumn(file, columnsOf(message, file), wanted);
      } else if (message.headerType() === MessageHeader.RecordBatch) {
        if (column === undefined) throw new Error('a batch before the schema');
        await readBatch(source, stored, column, list);
      }
    }
    if (column === undefined) throw new Error('no schema');
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw damaged(file, `it cannot be read as Arrow (${cause instanceof Error ? cause.message : ''})`);
  }
  return list.lengths;
}

interface StoredMessage {
  readonly message: Message;
  readonly metadataBytes: number;
  readonly bodyAt: number;
  readonly bodyBytes: number;
}

/** The messages of a stream, bodies left where they are. */
async function* messagesOf(source: Source, start: number): AsyncGenerator<StoredMessage, void, undefined> {
  for (let at = start; at < source.bytes;) {
    let length = (await source.read(at, 4)).readInt32LE(0);
    at += 4;
    // Before Arrow 0.15 the length came first.
    if (length === -1) {
      length = (await source.read(at, 4)).readInt32LE(0);
      at += 4;
    }
    if (length === 0) return;
    if (!(length > 0 && length <= MOST_METADATA_BYTES)) throw new Error(`a message of ${length} bytes`);
    const message = Message.getRootAsMessage(new ByteBuffer(await source.read(at, length)));
    if (message.version() < MetadataVersion.V4) throw new Error('a format before Arrow 0.8');
    const bodyAt = at + length;
    const bodyBytes = Number(message.bodyLength());
    if (!(bodyBytes >= 0 && bodyAt + bodyBytes <= source.bytes))
      throw new Error(`it ends at byte ${source.bytes}, before byte ${bodyAt + bodyBytes}`);
    yield { message, metadataBytes: length, bodyAt, bodyBytes };
    at = bodyAt + bodyBytes;
  }
}

function columnsOf(message: Message, file: string): readonly ArrowColumn[] {
  const schema = message.header(new Schema()) as Schema | null;
  if (schema === null) throw new Error('no schema');
  if (schema.endianness() === Endianness.Big)
    throw new UserError(
      `${file}: numbers are stored highest byte first`,
      'write it on a little-endian machine',
    );
  return arrowColumns(schema, message.version());
}

async function readBatch(
  source: Source,
  stored: StoredMessage,
  column: ArrowColumn,
  list: LengthList,
): Promise<void> {
  const batch = stored.message.header(new RecordBatch()) as RecordBatch | null;
  const node = batch?.nodes(column.node);
  if (batch === null || node === null || node === undefined || column.node >= batch.nodesLength())
    throw new Error(`a batch without column ${column.name}`);
  const rows = Number(node.length());
  if (!(rows >= 0) || rows !== Number(batch.length())) throw new Error(`a batch of ${rows} rows`);
  if (node.nullCount() !== 0n)
    throw new UserError(
      `${source.file}: column ${JSON.stringify(column.name)}: ${node.nullCount()} of rows ${list.lengths.length} to ${list.lengths.length + rows - 1} are null`,
      'drop rows without a value',
    );
  if (rows === 0) return;
  const { content } = column;
  if (content.kind === 'none') return;
  if (content.kind === 'fixed') return list.repeat(content.length, rows);
  const count = content.kind === 'offsets' ? rows + 1 : rows;
  let last: number | undefined;
  for await (const numbers of bufferNumbers(source, stored, batch, { column, count, type: content.type }))
    for (const number of numbers) {
      if (list.full) return;
      if (content.kind === 'numbers') list.add(number);
      else if (last !== undefined) list.add(number - last);
      last = number;
    }
}

interface Wanted {
  readonly column: ArrowColumn;
  readonly count: number;
  readonly type: IntegerType;
}

/** The numbers of the buffer after a column's validity, decompressed if it must be. */
async function* bufferNumbers(
  source: Source,
  { bodyAt, bodyBytes, metadataBytes }: StoredMessage,
  batch: RecordBatch,
  { column, count, type }: Wanted,
): AsyncGenerator<Iterable<number>, void, undefined> {
  const index = column.buffer + variadicBuffers(batch, column.views, metadataBytes) + 1;
  const region = index < batch.buffersLength() ? batch.buffers(index) : null;
  if (region === null) throw new Error(`a batch without buffer ${index}`);
  const [offset, length] = [Number(region.offset()), Number(region.length())];
  if (!(offset >= 0 && length >= 0 && offset + length <= bodyBytes))
    throw new Error(`a buffer of ${length} bytes from ${offset} on in ${bodyBytes}`);
  const bytes = count * type.bytes;
  const compression = batch.compression();
  if (compression === null) {
    if (bytes > length) throw new Error(`${count} numbers in ${length} bytes`);
    yield* integersOf(source, bodyAt + offset, count, type);
    return;
  }
  const whole = await decompressed(source, {
    at: bodyAt + offset,
    length,
    codec: compression.codec(),
    bytes,
  });
  yield numbersIn(whole, count, type);
}

function* numbersIn(buffer: Buffer, count: number, type: IntegerType): Generator<number, void, undefined> {
  for (let i = 0; i < count; i++) yield integerAt(buffer, i * type.bytes, type);
}

/** Buffers of strings that are kept in pieces, before a column. */
function variadicBuffers(batch: RecordBatch, views: number, metadataBytes: number): number {
  let sum = 0;
  if (views > batch.variadicBufferCountsLength() || 8 * views > metadataBytes)
    throw new Error('a batch without the number of its buffers');
  for (let i = 0; i < views; i++) sum += Number(batch.variadicBufferCounts(i) ?? 0n);
  return sum;
}

/** A compressed buffer begins with its length when decompressed, −1 if it is not compressed after all. */
async function decompressed(
  source: Source,
  stored: {
    readonly at: number;
    readonly length: number;
    readonly codec: CompressionType;
    readonly bytes: number;
  },
): Promise<Buffer> {
  const { at, length, codec, bytes } = stored;
  if (length < 8 || length > MOST_BUFFER_BYTES) throw new Error(`a buffer of ${length} bytes`);
  const input = await source.read(at, length);
  const announced = Number(input.readBigInt64LE(0));
  const body = input.subarray(8);
  const whole = announced === -1 ? body.length : announced;
  if (!(whole >= bytes && whole <= MOST_BUFFER_BYTES))
    throw new Error(`${bytes} bytes in a buffer of ${whole}`);
  if (announced === -1) return body;
  const output =
    codec === CompressionType.ZSTD
      ? decompressZstd(body, new Uint8Array(whole))
      : decompressLz4Frame(body, whole);
  if (output.length < bytes) throw new Error(`${output.length} bytes, ${whole} were announced`);
  return Buffer.from(output.buffer, output.byteOffset, output.length);
}
