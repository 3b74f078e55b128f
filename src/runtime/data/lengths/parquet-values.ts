import { deltaBinaryUnpack } from 'hyparquet/src/delta.js';
import { readVarInt } from 'hyparquet/src/thrift.js';
import { UserError } from '../../../errors.js';
import { MOST_SEQUENCES, type LengthList } from './list.js';
import type { ParquetColumn } from './parquet-column.js';
import type { Page } from './parquet-pages.js';
import { always, readRuns, type Runs } from './parquet-runs.js';
import { integerAt, type IntegerType } from './source.js';

/** Takes the pages of one column chunk and adds lengths to a list. */
export interface PageReader {
  readonly needs: 'levels' | 'values';
  page(page: Page): void;
  /** After the last page. */
  end(): void;
}

const isNull = (file: string, { name }: ParquetColumn, row: number): UserError =>
  new UserError(`${file}: row ${row}: column ${JSON.stringify(name)} is null`, 'drop rows without a value');

type DataPage = Extract<Page, { kind: 'data' }>;

const bitsOf = (most: number): number => Math.ceil(Math.log2(most + 1));

/** Levels of a page, and what follows them. */
function levelsOf(
  { parts }: DataPage,
  most: { readonly repetition: number; readonly definition: number },
): { repetition: Runs; definition: Runs; values: Buffer } {
  const runs = (bytes: Buffer, level: number): Runs =>
    level === 0 ? always(0) : readRuns(bytes, bitsOf(level));
  if (parts.version === 2)
    return {
      repetition: runs(parts.repetition, most.repetition),
      definition: runs(parts.definition, most.definition),
      values: parts.values,
    };
  if (parts.levels !== 'RLE' && most.definition > 0) throw new Error(`levels are encoded as ${parts.levels}`);
  let at = 0;
  const section = (level: number): Runs => {
    if (level === 0) return always(0);
    if (at + 4 > parts.bytes.length) throw new Error('levels end early');
    const from = at + 4;
    const length = parts.bytes.readUInt32LE(at);
    if (from + length > parts.bytes.length) throw new Error(`levels of ${length} bytes`);
    at = from + length;
    return runs(parts.bytes.subarray(from, at), level);
  };
  const repetition = section(most.repetition);
  const definition = section(most.definition);
  return { repetition, definition, values: parts.bytes.subarray(at) };
}

/**
 * Lengths of lists from levels alone: an entry of repetition level 0 begins a list, every entry defined down to the
 * repeated node is an element. A list may go on in the next page.
 */
export function openListPages(file: string, column: ParquetColumn, list: LengthList): PageReader {
  let open = -1;
  const close = (): void => {
    if (open >= 0) list.add(open);
  };
  return {
    needs: 'levels',
    page(page) {
      if (page.kind !== 'data') return;
      const { repetition, definition } = levelsOf(page, { repetition: 1, definition: column.defined });
      for (let rest = page.count; rest > 0 && !list.full;) {
        const some = Math.min(rest, repetition.left, definition.left);
        const { value: level } = definition;
        if (level < column.empty) throw isNull(file, column, list.lengths.length + (open < 0 ? 0 : 1));
        const elements = level >= column.element ? 1 : 0;
        if (repetition.value === 0) {
          close();
          list.repeat(elements, some - 1);
          open = elements;
        } else {
          if (open < 0 || elements === 0) throw new Error('an element outside of any list');
          open += some;
        }
        repetition.take(some);
        definition.take(some);
        rest -= some;
      }
    },
    end() {
      if (!list.full) close();
    },
  };
}

/** Lengths that a column of whole numbers holds. */
export function openIntegerPages(file: string, column: ParquetColumn, list: LengthList): PageReader {
  const type: IntegerType = { bytes: column.physical === 'INT32' ? 4 : 8, signed: !column.unsigned };
  let dictionary: readonly number[] = [];
  return {
    needs: 'values',
    page(page) {
      if (page.kind === 'dictionary') {
        dictionary = [...plain(page.values, page.count, type)];
        return;
      }
      const { definition, values } = levelsOf(page, { repetition: 0, definition: column.defined });
      for (let row = 0; row < page.count;) {
        const some = Math.min(page.count - row, definition.left);
        if (definition.value < column.defined) throw isNull(file, column, list.lengths.length + row);
        definition.take(some);
        row += some;
      }
      for (const tokens of decode(page, values, type, dictionary)) {
        if (list.full) return;
        list.add(tokens);
      }
    },
    end: () => undefined,
  };
}

function decode(
  { encoding, count }: DataPage,
  values: Buffer,
  type: IntegerType,
  dictionary: readonly number[],
): Iterable<number> {
  switch (encoding) {
    case 'PLAIN':
      return plain(values, count, type);
    case 'PLAIN_DICTIONARY':
    case 'RLE_DICTIONARY':
      return lookedUp(values, count, dictionary);
    case 'DELTA_BINARY_PACKED':
      return deltas(values, count, type);
    default:
      throw new Error(`encoding ${encoding} is not read`);
  }
}

function* plain(values: Buffer, count: number, type: IntegerType): Generator<number, void, undefined> {
  if (count * type.bytes > values.length) throw new Error(`${count} values in ${values.length} bytes`);
  for (let i = 0; i < count; i++) yield integerAt(values, i * type.bytes, type);
}

function* lookedUp(
  values: Buffer,
  count: number,
  dictionary: readonly number[],
): Generator<number, void, undefined> {
  const indices = readRuns(values.subarray(1), values[0] ?? 0);
  for (let i = 0; i < count; i++) {
    const value = dictionary[indices.value];
    if (value === undefined)
      throw new Error(`entry ${indices.value} of a dictionary of ${dictionary.length}`);
    indices.take(1);
    yield value;
  }
}

/** hyparquet's decoder, which allocates what blocks announce: refused before if it is not what a writer writes. */
function* deltas(values: Buffer, count: number, type: IntegerType): Generator<number, void, undefined> {
  if (count > MOST_SEQUENCES) throw new Error(`a page of ${count} values`);
  const view = new DataView(values.buffer, values.byteOffset, values.length);
  const header = { view, offset: 0 };
  const [block, parts] = [readVarInt(header), readVarInt(header)];
  if (!(block > 0 && block <= 65_536 && block % 128 === 0 && parts > 0 && block % (32 * parts) === 0))
    throw new Error(`blocks of ${block} values in ${parts}`);
  const output = type.bytes === 4 ? new Int32Array(count) : new BigInt64Array(count);
  deltaBinaryUnpack({ view, offset: 0 }, count, output);
  for (const value of output) {
    const number = Number(value);
    yield type.signed || number >= 0 ? number : number + 2 ** (8 * type.bytes);
  }
}
