/** A node that is in no file as protobuf bytes: what inlining makes. */
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { UserError } from '../../errors.js';
import { codeOfDtype } from './dtype.js';
import type { OnnxAttribute, OnnxInitializer, OnnxNode } from './model.js';

/** @throws UserError for an attribute that holds a graph */
export function encodeNode(node: OnnxNode): Uint8Array {
  const { name, opType, domain, inputs, outputs } = node;
  const attribute = [...node.attributes].map(([key, value]) => attributeProto(node, key, value));
  const proto = { name, opType, domain, input: [...inputs], output: [...outputs], attribute };
  return onnxProto.onnx.NodeProto.encode(proto).finish();
}

/** INT64_MAX and INT64_MIN mean "to the end" wherever they appear; so do the largest safe integers. */
const integer = (value: number | bigint): number =>
  typeof value === 'number' ? value : value < 0n ? Number.MIN_SAFE_INTEGER : Number.MAX_SAFE_INTEGER;

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

const tensorProto = (tensor: OnnxInitializer): onnx.ITensorProto => ({
  name: tensor.name,
  dims: [...tensor.dims],
  dataType: codeOfDtype(tensor.dtype),
  rawData: tensor.read().bytes,
});

function attributeProto(node: OnnxNode, name: string, attribute: OnnxAttribute): onnx.IAttributeProto {
  switch (attribute.kind) {
    case 'float':
      return { name, type: 1, f: attribute.value };
    case 'int':
      return { name, type: 2, i: integer(attribute.value) };
    case 'string':
      return { name, type: 3, s: bytes(attribute.value) };
    case 'tensor':
      return { name, type: 4, t: tensorProto(attribute.value) };
    case 'floats':
      return { name, type: 6, floats: [...attribute.value] };
    case 'ints':
      return { name, type: 7, ints: attribute.value.map(integer) };
    case 'strings':
      return { name, type: 8, strings: attribute.value.map(bytes) };
    default:
      throw new UserError(
        `${node.opType} node ${node.name}: attribute ${name} (${attribute.kind}) cannot be evaluated`,
        'export the model without control flow: torch.onnx.export(..., dynamo=True)',
      );
  }
}
