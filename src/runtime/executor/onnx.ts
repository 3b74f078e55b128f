import '../../ort-environment.js';
import type { DType } from '../../ir/type.js';
import { loadNative } from './onnx-native.js';
import { loadNode } from './onnx-node.js';

/** A tensor as both ways into ONNX Runtime read it; plain objects are read faster than onnxruntime's own. */
export interface OrtTensor {
  readonly type: 'float32' | 'int32' | 'int64' | 'bool';
  readonly dims: readonly number[];
  readonly data: Elements | BigInt64Array;
  readonly location: 'cpu';
}

/** Memory of a value: f32, i32 or bool elements. */
export type Elements = Float32Array | Int32Array | Uint8Array;

export type Tensors = Readonly<Record<string, OrtTensor>>;

/** A call whose tensors are fixed: what their memory holds when it runs is read, and written. */
export interface OrtCall {
  run(): void;
}

/** A model ready to run. Everything blocks, on one thread. */
export interface OrtSession {
  readonly outputs: readonly string[];
  /** Reads `feeds`, writes the memory of `fetches`; an output that is not fetched is dropped. */
  run(feeds: Tensors, fetches: Tensors): void;
  /** The same, prepared: worth it for what runs again. Keeps the memory of its tensors. */
  bind(feeds: Tensors, fetches: Tensors): OrtCall;
  dispose(): void;
}

/** A way into ONNX Runtime: makes sessions of models. */
export type Backend = (model: Uint8Array) => OrtSession;

/** Which way is used: `native` is the addon of this repository, `node` onnxruntime-node's binding. */
export interface OrtBackend {
  readonly kind: 'native' | 'node';
  /** Why not the addon. */
  readonly reason?: string;
}

let chosen: (OrtBackend & { readonly createSession: Backend }) | undefined;

function choose(): OrtBackend & { readonly createSession: Backend } {
  if (chosen !== undefined) return chosen;
  const native = loadNative();
  chosen =
    typeof native === 'function'
      ? { kind: 'native', createSession: native }
      : { kind: 'node', reason: native.reason, createSession: loadNode() };
  return chosen;
}

export function ortBackend(): OrtBackend {
  const { kind, reason } = choose();
  return reason === undefined ? { kind } : { kind, reason };
}

export const createSession = (model: Uint8Array): OrtSession => choose().createSession(model);

const TYPES = { f32: 'float32', i32: 'int32', bool: 'bool' } as const satisfies Record<DType, string>;

export const makeTensor = (dtype: DType, data: Elements, dims: readonly number[]): OrtTensor => ({
  type: TYPES[dtype],
  dims,
  data,
  location: 'cpu',
});

export const int64Tensor = (values: readonly number[]): OrtTensor => ({
  type: 'int64',
  dims: [values.length],
  data: BigInt64Array.from(values, BigInt),
  location: 'cpu',
});

/** Elements of a dtype in a stretch of memory, which is 4 bytes an element wide whatever the type. */
export function elementsAt(dtype: DType, buffer: ArrayBuffer, byteOffset: number, length: number): Elements {
  if (dtype === 'f32') return new Float32Array(buffer, byteOffset, length);
  if (dtype === 'i32') return new Int32Array(buffer, byteOffset, length);
  return new Uint8Array(buffer, byteOffset, length);
}
