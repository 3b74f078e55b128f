import type { SchemaTree } from 'hyparquet';
import type { Column } from './column.js';

/** A column of a Parquet file, and the levels that tell what its entries are. */
export interface ParquetColumn extends Column {
  /** Of the one leaf that is read. */
  readonly path: readonly string[];
  /** Physical type of the leaf. */
  readonly physical: 'INT32' | 'INT64';
  readonly unsigned: boolean;
  /** Definition level of a value that is there. */
  readonly defined: number;
  /** Least definition level of an element of a list, null or not; below it the list is empty, or null. */
  readonly element: number;
  /** Definition level of an empty list; below it the list is null. */
  readonly empty: number;
}

/** The columns of a table. Those that hold neither whole numbers nor lists of them only have a name and a type. */
export function parquetColumns(root: SchemaTree): readonly ParquetColumn[] {
  return root.children.map(columnOf);
}

function columnOf(top: SchemaTree): ParquetColumn {
  const path: SchemaTree[] = [];
  for (let node: SchemaTree | undefined = top; node !== undefined; node = node.children[0]) {
    path.push(node);
    if (node.children.length > 1) return other(top, 'a structure');
  }
  const leaf = path.at(-1)!;
  const repeated = path.filter(({ element }) => element.repetition_type === 'REPEATED').length;
  const physical = leaf.element.type;
  if ((physical !== 'INT32' && physical !== 'INT64') || !isWhole(leaf)) return other(top, typeName(leaf));
  if (repeated > 1 || (repeated === 0 && path.length > 1)) return other(top, 'nested values');
  const levels = definitionLevels(path);
  const at = path.findIndex(({ element }) => element.repetition_type === 'REPEATED');
  const element = at < 0 ? levels.at(-1)! : levels[at]!;
  return {
    name: top.element.name,
    kind: repeated === 1 ? 'list' : 'integer',
    type: repeated === 1 ? `lists of ${physical}` : physical,
    path: path.map((node) => node.element.name),
    physical,
    unsigned: leaf.element.converted_type?.startsWith('UINT') === true,
    defined: levels.at(-1)!,
    element,
    empty: element - 1,
  };
}

const other = ({ element }: SchemaTree, type: string): ParquetColumn => ({
  name: element.name,
  kind: 'other',
  type,
  path: [],
  physical: 'INT32',
  unsigned: false,
  defined: 0,
  element: 0,
  empty: 0,
});

/** Definition level down to each node: nodes that may be missing, counted. */
function definitionLevels(path: readonly SchemaTree[]): readonly number[] {
  let level = 0;
  return path.map(({ element }) => (level += element.repetition_type === 'REQUIRED' ? 0 : 1));
}

/** Dates, times and decimals are stored as integers, and are none. */
function isWhole({ element }: SchemaTree): boolean {
  const { converted_type: converted, logical_type: logical } = element;
  return (
    (converted === undefined || /^U?INT_\d+$/.test(converted)) &&
    (logical === undefined || logical.type === 'INTEGER')
  );
}

const typeName = ({ element }: SchemaTree): string =>
  element.logical_type?.type ?? element.converted_type ?? element.type ?? 'nothing';
