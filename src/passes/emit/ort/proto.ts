/** Encodes ONNX models. The same description gives the same bytes: segments are shared by their hash. */
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';

/** Opset 23 brings RMSNormalization, one fused pass on ONNX Runtime's CPU provider. */
export const OPSET = 23;
const IR_VERSION = 11;

export type ElementType = 'f32' | 'i32' | 'i64' | 'bool';

/** Codes of TensorProto.DataType. */
const ELEMENT_CODES = { f32: 1, i32: 6, i64: 7, bool: 9 } as const satisfies Record<ElementType, number>;

export const elementCode = (type: ElementType): number => ELEMENT_CODES[type];

/** Numbers that are whole are written as ints, unless wrapped in `{ float }`. */
export type ProtoAttr = number | string | readonly number[] | { readonly float: number };

export interface ProtoNode {
  readonly op: string;
  /** '' stands for an absent optional input. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attrs: Readonly<Record<string, ProtoAttr>>;
}

export interface ProtoValue {
  readonly name: string;
  readonly type: ElementType;
  /** Constant sizes, or names of sizes: equal names are equal sizes. */
  readonly dims: readonly (number | string)[];
}

export interface ProtoInitializer {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly data: readonly number[];
}

export interface ProtoModel {
  readonly nodes: readonly ProtoNode[];
  readonly inputs: readonly ProtoValue[];
  readonly outputs: readonly ProtoValue[];
  /** Values inside. ONNX Runtime overwrites a dying operand only where it knows that the shapes are equal. */
  readonly inner: readonly ProtoValue[];
  readonly initializers: readonly ProtoInitializer[];
}

export function encodeModel(model: ProtoModel): Uint8Array {
  const { ModelProto } = onnxProto.onnx;
  const message: onnx.IModelProto = {
    irVersion: IR_VERSION,
    producerName: 'ithaca',
    opsetImport: [{ domain: '', version: OPSET }],
    graph: {
      name: 'segment',
      node: model.nodes.map((node, i) => ({
        name: `n${i}`,
        opType: node.op,
        input: [...node.inputs],
        output: [...node.outputs],
        attribute: Object.entries(node.attrs).map(([name, value]) => attributeOf(name, value)),
      })),
      initializer: model.initializers.map(tensorOf),
      input: model.inputs.map(valueOf),
      output: model.outputs.map(valueOf),
      valueInfo: model.inner.map(valueOf),
    },
  };
  return ModelProto.encode(ModelProto.create(message)).finish();
}

function attributeOf(name: string, value: ProtoAttr): onnx.IAttributeProto {
  const { AttributeType } = onnxProto.onnx.AttributeProto;
  if (typeof value === 'number') return { name, type: AttributeType.INT, i: value };
  if (typeof value === 'string')
    return { name, type: AttributeType.STRING, s: new TextEncoder().encode(value) };
  if ('float' in value) return { name, type: AttributeType.FLOAT, f: value.float };
  return { name, type: AttributeType.INTS, ints: [...value] };
}

const valueOf = ({ name, type, dims }: ProtoValue): onnx.IValueInfoProto => ({
  name,
  type: {
    tensorType: {
      elemType: ELEMENT_CODES[type],
      shape: { dim: dims.map((d) => (typeof d === 'number' ? { dimValue: d } : { dimParam: d })) },
    },
  },
});

const tensorOf = ({ name, type, dims, data }: ProtoInitializer): onnx.ITensorProto => ({
  name,
  dataType: ELEMENT_CODES[type],
  dims: [...dims],
  rawData: rawBytes(type, data),
});

/** Little-endian, as the format wants it, whatever the machine. */
function rawBytes(type: ElementType, data: readonly number[]): Uint8Array {
  const width = type === 'bool' ? 1 : type === 'i64' ? 8 : 4;
  const view = new DataView(new ArrayBuffer(data.length * width));
  data.forEach((value, i) => {
    if (type === 'f32') view.setFloat32(i * 4, value, true);
    else if (type === 'i32') view.setInt32(i * 4, value, true);
    else if (type === 'i64') view.setBigInt64(i * 8, BigInt(value), true);
    else view.setUint8(i, value === 0 ? 0 : 1);
  });
  return new Uint8Array(view.buffer);
}
