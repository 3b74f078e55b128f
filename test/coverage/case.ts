/** Models of one node, as ONNX's backend tests hold them, with the values that it is given and has to give. */
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { dtypeOfCode } from '../../src/ir/onnx/dtype.js';
import { makeTensor } from '../../src/ir/onnx/tensor.js';
import type { OnnxDtype } from '../../src/ir/onnx/model.js';

/** As stored: protobufs in base64. A value is null where it is absent, or no tensor. */
export interface StoredCase {
  readonly name: string;
  readonly rtol: number;
  readonly atol: number;
  /** How many tokens the operands [1, tokens, …] hold, where the model needs to know. */
  readonly tokens?: number;
  readonly model: string;
  readonly inputs: readonly (string | null)[];
  readonly outputs: readonly (string | null)[];
}

export interface CaseValue {
  readonly name: string;
  readonly code: number;
  readonly dtype: OnnxDtype;
  readonly dims: readonly number[];
  /** Undefined for strings and other types that are no numbers. */
  readonly data: Float64Array | undefined;
  /** As stored, under its own name. */
  readonly proto: onnx.ITensorProto;
}

export interface Case {
  readonly name: string;
  readonly rtol: number;
  readonly atol: number;
  readonly tokens: number | undefined;
  readonly model: onnx.IModelProto;
  /** By the names of the graph's inputs and outputs; undefined for what is no tensor. */
  readonly inputs: ReadonlyMap<string, CaseValue | undefined>;
  readonly outputs: ReadonlyMap<string, CaseValue | undefined>;
}

export function openCase(stored: StoredCase): Case {
  const model = onnxProto.onnx.ModelProto.decode(Buffer.from(stored.model, 'base64'));
  const named = (infos: readonly onnx.IValueInfoProto[], values: StoredCase['inputs']): Case['inputs'] =>
    new Map(infos.map(({ name }, i) => [name!, values[i] ? openValue(name!, values[i]) : undefined]));
  return {
    name: stored.name,
    rtol: stored.rtol,
    atol: stored.atol,
    tokens: stored.tokens,
    model,
    inputs: named(model.graph?.input ?? [], stored.inputs),
    outputs: named(model.graph?.output ?? [], stored.outputs),
  };
}

function openValue(name: string, text: string): CaseValue | undefined {
  const proto = onnxProto.onnx.TensorProto.decode(Buffer.from(text, 'base64'));
  const dtype = dtypeOfCode(proto.dataType ?? 0);
  if (dtype === undefined) return undefined;
  const dims = (proto.dims ?? []).map(Number);
  return {
    name,
    code: proto.dataType!,
    dtype,
    dims,
    data: numbersOf(name, dtype, dims, proto.rawData as Uint8Array | undefined),
    proto: { ...proto, name },
  };
}

function numbersOf(
  name: string,
  dtype: OnnxDtype,
  dims: readonly number[],
  raw: Uint8Array | undefined,
): Float64Array | undefined {
  try {
    return raw === undefined ? undefined : makeTensor(name, dtype, dims, Uint8Array.from(raw)).toFloat64();
  } catch {
    return undefined;
  }
}

/** Operators of a model's own nodes: `Add`, `com.microsoft.FastGelu`. */
export const operatorsOf = ({ model }: Case): readonly string[] => [
  ...new Set(
    (model.graph?.node ?? []).map(({ domain, opType }) => (domain ? `${domain}.${opType}` : opType!)),
  ),
];
