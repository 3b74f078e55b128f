import { FixedSizeList } from 'apache-arrow/fb/fixed-size-list';
import type { Field } from 'apache-arrow/fb/field';
import { Int } from 'apache-arrow/fb/int';
import { MetadataVersion } from 'apache-arrow/fb/metadata-version';
import type { Schema } from 'apache-arrow/fb/schema';
import { Type } from 'apache-arrow/fb/type';
import { Union } from 'apache-arrow/fb/union';
import { UnionMode } from 'apache-arrow/fb/union-mode';
import type { Column } from './column.js';
import type { IntegerType } from './source.js';

/** A column of an Arrow table, and where record batches keep it. */
export interface ArrowColumn extends Column {
  /** Its number among the nodes and the buffers of a batch. */
  readonly node: number;
  readonly buffer: number;
  /** Fields before it whose number of buffers the batch tells. */
  readonly views: number;
  readonly content: Content;
}

/** What tells lengths: numbers, the offsets between lists, or one length for all. */
export type Content =
  | { readonly kind: 'numbers' | 'offsets'; readonly type: IntegerType }
  | { readonly kind: 'fixed'; readonly length: number }
  | { readonly kind: 'none' };

/** No table has as many; a damaged one may claim to, and to contain itself. */
const MOST_FIELDS = 100_000;
const MOST_DEPTH = 64;

/**
 * The columns of a schema, in the layout of the IPC format (https://arrow.apache.org/docs/format/Columnar.html).
 * @throws Error for fields that cannot be
 */
export function arrowColumns(schema: Schema, version: MetadataVersion): readonly ArrowColumn[] {
  const count: Count = { fields: 0, nodes: 0, buffers: 0, views: 0 };
  return Array.from({ length: limited(schema.fieldsLength()) }, (_, i): ArrowColumn => {
    const { nodes: node, buffers: buffer, views } = count;
    const field = schema.fields(i);
    if (field === null) throw new Error(`no field ${i}`);
    countField(field, version, count, 0);
    const content = contentOf(field);
    const kind = content.kind === 'none' ? 'other' : content.kind === 'numbers' ? 'integer' : 'list';
    return { name: field.name() ?? '', kind, type: typeName(field), node, buffer, views, content };
  });
}

interface Count {
  fields: number;
  nodes: number;
  buffers: number;
  views: number;
}

function limited(count: number): number {
  if (!(count >= 0 && count <= MOST_FIELDS)) throw new Error(`${count} fields`);
  return count;
}

/** Adds the nodes and buffers of a field and of those inside it. */
function countField(field: Field, version: MetadataVersion, count: Count, depth: number): void {
  limited(++count.fields);
  if (depth > MOST_DEPTH) throw new Error('fields inside fields without end');
  count.nodes++;
  // Indices into a dictionary, which has batches of its own.
  if (field.dictionary() !== null) {
    count.buffers += 2;
    return;
  }
  count.buffers += buffersOf(field, version);
  const type = field.typeType();
  if (type === Type.BinaryView || type === Type.Utf8View) count.views++;
  for (let i = 0; i < limited(field.childrenLength()); i++) {
    const child = field.children(i);
    if (child === null) throw new Error('a field without its part');
    countField(child, version, count, depth + 1);
  }
}

/** Buffers of a field itself: which ones there are depends on its type alone. */
function buffersOf(field: Field, version: MetadataVersion): number {
  switch (field.typeType()) {
    case Type.Null:
    case Type.RunEndEncoded:
      return 0;
    // oxlint-disable-next-line no-underscore-dangle -- the library's name
    case Type.Struct_:
    case Type.FixedSizeList:
      return 1;
    case Type.Binary:
    case Type.Utf8:
    case Type.LargeBinary:
    case Type.LargeUtf8:
    case Type.ListView:
    case Type.LargeListView:
      return 3;
    case Type.Union: {
      const dense = (field.type(new Union()) as Union | null)?.mode() === UnionMode.Dense;
      return (dense ? 2 : 1) + (version < MetadataVersion.V5 ? 1 : 0);
    }
    case Type.NONE:
      throw new Error('a field without a type');
    default:
      if (field.typeType() > Type.LargeListView) throw new Error(`a field of type ${field.typeType()}`);
      return 2;
  }
}

function contentOf(field: Field): Content {
  if (field.dictionary() !== null) return { kind: 'none' };
  const type = field.typeType();
  if (type === Type.Int) {
    const stored = integerType(field);
    return stored === undefined ? { kind: 'none' } : { kind: 'numbers', type: stored };
  }
  const item = field.children(0);
  if (item === null || item.typeType() !== Type.Int || item.dictionary() !== null) return { kind: 'none' };
  if (type === Type.List) return { kind: 'offsets', type: { bytes: 4, signed: true } };
  if (type === Type.LargeList) return { kind: 'offsets', type: { bytes: 8, signed: true } };
  if (type !== Type.FixedSizeList) return { kind: 'none' };
  const list = field.type(new FixedSizeList()) as FixedSizeList | null;
  return { kind: 'fixed', length: list?.listSize() ?? 0 };
}

function integerType(field: Field): IntegerType | undefined {
  const int = field.type(new Int()) as Int | null;
  const bytes = (int?.bitWidth() ?? 0) / 8;
  if (bytes !== 1 && bytes !== 2 && bytes !== 4 && bytes !== 8) return undefined;
  return { bytes, signed: int!.isSigned() };
}

const typeName = (field: Field): string =>
  field.dictionary() === null ? (Type[field.typeType()] ?? 'unknown') : 'Dictionary';
