import type { onnx } from 'onnx-proto';
import { UserError } from '../../errors.js';
import { elementBytes } from './dtype.js';
import { storedTensor } from './initializer.js';
import { toInteger } from './long.js';
import type { OnnxAttribute, OnnxDtype, OnnxGraph, OnnxInitializer, OnnxNode } from './model.js';

/** How nested tensors and graphs are translated. */
export interface Translator {
  tensor(proto: onnx.ITensorProto, name: string): OnnxInitializer;
  graph(proto: onnx.IGraphProto): OnnxGraph;
}

/** Translates an attribute by its declared type (`AttributeProto.AttributeType`). */
export function attributeOf(
  translator: Translator,
  proto: onnx.IAttributeProto,
  node: string,
): OnnxAttribute {
  const name = proto.name ?? '';
  if (proto.refAttrName !== null && proto.refAttrName !== undefined && proto.refAttrName !== '') {
    return { kind: 'ref', value: proto.refAttrName };
  }
  const tensorName = `${node}.${name}`;
  switch (Number(proto.type ?? 0)) {
    case 1:
      return { kind: 'float', value: proto.f ?? 0 };
    case 2:
      return { kind: 'int', value: toInteger(proto.i) };
    case 3:
      return { kind: 'string', value: text(proto.s) };
    case 4:
      return { kind: 'tensor', value: translator.tensor(present(proto.t, tensorName), tensorName) };
    case 5:
      return { kind: 'graph', value: translator.graph(present(proto.g, tensorName)) };
    case 6:
      return { kind: 'floats', value: proto.floats ?? [] };
    case 7:
      return { kind: 'ints', value: (proto.ints ?? []).map(toInteger) };
    case 8:
      return { kind: 'strings', value: (proto.strings ?? []).map(text) };
    case 9:
      return {
        kind: 'tensors',
        value: (proto.tensors ?? []).map((tensor, index) =>
          translator.tensor(tensor, `${tensorName}[${index}]`),
        ),
      };
    case 10:
      return { kind: 'graphs', value: (proto.graphs ?? []).map((graph) => translator.graph(graph)) };
    default:
      return { kind: 'unsupported', value: `attribute type ${Number(proto.type ?? 0)}` };
  }
}

/**
 * The tensor of a `Constant` node under the name of the node's output, undefined for other nodes (and for
 * constants that are no dense numeric tensor).
 */
export function constantTensor(node: OnnxNode): OnnxInitializer | undefined {
  if (node.opType !== 'Constant' || node.domain !== '') return undefined;
  const name = node.outputs[0] ?? '';
  const [entry] = node.attributes;
  if (entry === undefined || node.attributes.size !== 1) return undefined;
  const [key, attribute] = entry;
  if (key === 'value' && attribute.kind === 'tensor') return Object.freeze({ ...attribute.value, name });
  if (key === 'value_float' && attribute.kind === 'float') return scalars(name, 'f32', [], [attribute.value]);
  if (key === 'value_int' && attribute.kind === 'int') return scalars(name, 'i64', [], [attribute.value]);
  if (key === 'value_floats' && attribute.kind === 'floats') {
    return scalars(name, 'f32', [attribute.value.length], attribute.value);
  }
  if (key === 'value_ints' && attribute.kind === 'ints') {
    return scalars(name, 'i64', [attribute.value.length], attribute.value);
  }
  return undefined;
}

function scalars(
  name: string,
  dtype: OnnxDtype & ('f32' | 'i64'),
  dims: readonly number[],
  values: readonly (number | bigint)[],
): OnnxInitializer {
  const data =
    dtype === 'f32'
      ? Float32Array.from(values, Number)
      : BigInt64Array.from(values, (value) => BigInt(value));
  const bytes = new Uint8Array(data.buffer);
  return storedTensor(
    {
      name,
      dtype,
      dims,
      elementCount: values.length,
      bytes: values.length * elementBytes(dtype),
      location: { kind: 'fields' },
    },
    (offset, length) => bytes.subarray(offset, offset + length),
  );
}

function present<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) {
    throw new UserError(`attribute '${what}' has no value`, 'the file is damaged: export the model again');
  }
  return value;
}

function text(bytes: Uint8Array | null | undefined): string {
  return new TextDecoder().decode(bytes ?? new Uint8Array(0));
}
