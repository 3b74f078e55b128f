import { parquetMetadata, parquetSchema } from 'hyparquet';
import type { ColumnMetaData, FileMetaData, RowGroup } from 'hyparquet';
import { UserError } from '../../../errors.js';
import { chooseColumn } from './column.js';
import { createLengthList, type LengthList } from './list.js';
import { parquetColumns, type ParquetColumn } from './parquet-column.js';
import { openIntegerPages, openListPages } from './parquet-values.js';
import { pagesOf } from './parquet-pages.js';
import { damaged, type Source } from './source.js';

export const PARQUET_MAGIC = Buffer.from('PAR1', 'latin1');

const MOST_FOOTER_BYTES = 64 * 2 ** 20;

/**
 * Lengths from one column of a Parquet file, page by page: numbers, or lists, of which only the levels that tell
 * where one ends are decoded. Metadata, page headers and Snappy are hyparquet's; what a page announces is checked
 * before anything is allocated for it.
 * @throws UserError for a file or a column that cannot be read
 */
export async function readParquetLengths(
  source: Source,
  most: number,
  wanted?: string,
): Promise<readonly number[]> {
  const { file } = source;
  const metadata = await readMetadata(source);
  const column = guard(file, () => chooseColumn(file, parquetColumns(parquetSchema(metadata)), wanted));
  const list = createLengthList(file, most);
  for (const [index, group] of metadata.row_groups.entries()) {
    if (list.full) break;
    const before = list.lengths.length;
    await readRowGroup(source, columnChunk(file, group, column), column, list);
    const rows = list.lengths.length - before;
    if (!list.full && rows !== Number(group.num_rows))
      throw damaged(file, `row group ${index} has ${rows} rows, ${group.num_rows} were announced`);
  }
  return list.lengths;
}

async function readMetadata(source: Source): Promise<FileMetaData> {
  const { file, bytes } = source;
  if (bytes < 12) throw damaged(file, `a Parquet file of ${bytes} bytes`);
  const tail = await source.read(bytes - 8, 8);
  const length = tail.readUInt32LE(0);
  if (tail.toString('latin1', 4) === 'PARE')
    throw new UserError(`${file}: the Parquet file is encrypted`, 'write it without encryption');
  if (!tail.subarray(4).equals(PARQUET_MAGIC)) throw damaged(file, 'it does not end as a Parquet file');
  if (length > Math.min(MOST_FOOTER_BYTES, bytes - 12)) throw damaged(file, `a footer of ${length} bytes`);
  const footer = await source.read(bytes - 8 - length, length + 8);
  return guard(file, () => parquetMetadata(new Uint8Array(footer), { geoparquet: false }));
}

/** The library throws all kinds of errors at a damaged file. */
function guard<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw damaged(
      file,
      `its Parquet metadata cannot be read (${cause instanceof Error ? cause.message : ''})`,
    );
  }
}

function columnChunk(file: string, group: RowGroup, column: ParquetColumn): ColumnMetaData {
  const path = JSON.stringify(column.path);
  const chunk = group.columns.find((one) => JSON.stringify(one.meta_data?.path_in_schema) === path);
  if (chunk?.file_path !== undefined)
    throw new UserError(`${file}: column ${path} is in another file`, 'write the table as one file');
  if (chunk?.meta_data === undefined) throw damaged(file, `a row group without column ${path}`);
  return chunk.meta_data;
}

async function readRowGroup(
  source: Source,
  chunk: ColumnMetaData,
  column: ParquetColumn,
  list: LengthList,
): Promise<void> {
  const open = column.kind === 'list' ? openListPages : openIntegerPages;
  const reader = open(source.file, column, list);
  try {
    for await (const page of pagesOf(source, chunk, reader.needs)) {
      reader.page(page);
      if (list.full) return;
    }
    reader.end();
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    const where = `column ${column.path.join('.')}`;
    throw damaged(source.file, `${where} cannot be read (${cause instanceof Error ? cause.message : ''})`);
  }
}
