/**
 * The message types of onnx.proto (ONNX 1.19) that can hold tensors, nodes or further nesting, as wire-level
 * facts: enough to walk a file without decoding it. Fields not listed are unknown and may have any type.
 */

/**
 * What a field holds: a varint, 4 or 8 bytes, a string or bytes, or a message. Only the repeated scalars
 * (plural names) may also come packed.
 */
export type FieldKind = ScalarKind | MessageName;

export type ScalarKind = 'varint' | 'fixed32' | 'bytes' | 'varints' | 'fixed32s' | 'fixed64s';

export type MessageName = keyof typeof FIELDS;

// prettier-ignore
const FIELDS = {
  Model: {
    1: 'varint', 2: 'bytes', 3: 'bytes', 4: 'bytes', 5: 'varint', 6: 'bytes',
    7: 'Graph', 8: 'OperatorSet', 14: 'StringEntry', 20: 'TrainingInfo', 25: 'Function',
  },
  Graph: {
    1: 'Node', 2: 'bytes', 5: 'Tensor', 10: 'bytes', 11: 'ValueInfo', 12: 'ValueInfo', 13: 'ValueInfo',
    14: 'TensorAnnotation', 15: 'SparseTensor', 16: 'StringEntry',
  },
  Node: {
    1: 'bytes', 2: 'bytes', 3: 'bytes', 4: 'bytes', 5: 'Attribute', 6: 'bytes', 7: 'bytes', 8: 'bytes',
    9: 'StringEntry',
  },
  Attribute: {
    1: 'bytes', 2: 'fixed32', 3: 'varint', 4: 'bytes', 5: 'Tensor', 6: 'Graph', 7: 'fixed32s', 8: 'varints',
    9: 'bytes', 10: 'Tensor', 11: 'Graph', 13: 'bytes', 14: 'Type', 15: 'Type', 20: 'varint', 21: 'bytes',
    22: 'SparseTensor', 23: 'SparseTensor',
  },
  Tensor: {
    1: 'varints', 2: 'varint', 3: 'Segment', 4: 'fixed32s', 5: 'varints', 6: 'bytes', 7: 'varints', 8: 'bytes',
    9: 'bytes', 10: 'fixed64s', 11: 'varints', 12: 'bytes', 13: 'StringEntry', 14: 'varint', 16: 'StringEntry',
  },
  SparseTensor: { 1: 'Tensor', 2: 'Tensor', 3: 'varints' },
  Function: {
    1: 'bytes', 4: 'bytes', 5: 'bytes', 6: 'bytes', 7: 'Node', 8: 'bytes', 9: 'OperatorSet', 10: 'bytes',
    11: 'Attribute', 12: 'ValueInfo', 13: 'bytes', 14: 'StringEntry',
  },
  TrainingInfo: { 1: 'Graph', 2: 'Graph', 3: 'StringEntry', 4: 'StringEntry' },
  ValueInfo: { 1: 'bytes', 2: 'Type', 3: 'bytes', 4: 'StringEntry' },
  Type: { 1: 'TensorType', 4: 'SequenceType', 5: 'MapType', 6: 'bytes', 8: 'TensorType', 9: 'SequenceType' },
  TensorType: { 1: 'varint', 2: 'Shape' },
  SequenceType: { 1: 'Type' },
  MapType: { 1: 'varint', 2: 'Type' },
  Shape: { 1: 'Dimension' },
  Dimension: { 1: 'varint', 2: 'bytes', 3: 'bytes' },
  Segment: { 1: 'varint', 2: 'varint' },
  OperatorSet: { 1: 'bytes', 2: 'varint' },
  StringEntry: { 1: 'bytes', 2: 'bytes' },
  TensorAnnotation: { 1: 'bytes', 2: 'StringEntry' },
} as const;

const tables = new Map<MessageName, ReadonlyMap<number, FieldKind>>(
  Object.entries(FIELDS).map(([name, fields]) => [
    name as MessageName,
    new Map(Object.entries(fields).map(([number, kind]) => [Number(number), kind as FieldKind])),
  ]),
);

/** The fields of a message, by number. */
export function fieldsOf(message: MessageName): ReadonlyMap<number, FieldKind> {
  return tables.get(message) ?? new Map<number, FieldKind>();
}

const scalars: ReadonlySet<string> = new Set<ScalarKind>([
  'varint',
  'fixed32',
  'bytes',
  'varints',
  'fixed32s',
  'fixed64s',
]);

/** True when a field of this kind is itself a message. */
export function isMessage(kind: FieldKind): kind is MessageName {
  return !scalars.has(kind);
}
