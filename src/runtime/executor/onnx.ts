import { createRequire } from 'node:module';
import { invariant } from '../../errors.js';
import type { DType } from '../../ir/type.js';

/*
 * onnxruntime-node by its synchronous binding, the one its own `InferenceSession.run` calls after a turn of the
 * event loop. A step is hundreds of small calls on a thread that does nothing else: measured on a segment of one
 * op, 14 µs instead of 26 µs a call. package.json pins the version, since this is not its documented surface.
 */

/** What the binding reads of a tensor; plain objects are read faster than the library's own. */
export interface OrtTensor {
  readonly type: 'float32' | 'int32' | 'int64' | 'bool';
  readonly dims: readonly number[];
  readonly data: Elements | BigInt64Array;
  readonly location: 'cpu';
}

/** Memory of a value: f32, i32 or bool elements. */
export type Elements = Float32Array | Int32Array | Uint8Array;

export type Tensors = Readonly<Record<string, OrtTensor>>;

interface NativeSession {
  loadModel(buffer: ArrayBufferLike, offset: number, length: number, options: object): void;
  run(feeds: Tensors, fetches: Tensors): unknown;
  dispose(): void;
  readonly outputMetadata: readonly { readonly name: string }[];
}

interface Binding {
  readonly initOrt: () => void;
  readonly binding: { readonly InferenceSession: new () => NativeSession };
}

let loaded: Binding | undefined;

function load(): Binding {
  if (loaded !== undefined) return loaded;
  const module = createRequire(import.meta.url)('onnxruntime-node/dist/binding.js') as Partial<Binding>;
  const { initOrt, binding } = module;
  invariant(
    typeof initOrt === 'function' && typeof binding?.InferenceSession?.prototype.run === 'function',
    'this version of onnxruntime-node has another binding than the one ithaca was made for',
  );
  initOrt();
  loaded = { initOrt, binding };
  return loaded;
}

/** One thread a rank, and that one is the caller's: ranks are the parallelism. */
const OPTIONS = {
  executionProviders: ['cpu'],
  executionMode: 'sequential',
  intraOpNumThreads: 1,
  interOpNumThreads: 1,
  graphOptimizationLevel: 'all',
  // Errors only: what it warns of is chosen by the lowering.
  logSeverityLevel: 3,
  enableCpuMemArena: false,
  enableMemPattern: false,
} as const;

/** A model ready to run. */
export class OrtSession {
  readonly #native: NativeSession;
  readonly outputs: readonly string[];

  constructor(model: Uint8Array) {
    const { binding } = load();
    this.#native = new binding.InferenceSession();
    this.#native.loadModel(model.buffer, model.byteOffset, model.byteLength, OPTIONS);
    this.outputs = this.#native.outputMetadata.map((output) => output.name);
  }

  /** Reads `feeds`, writes the memory of `fetches`; an output that is not fetched is dropped. */
  run(feeds: Tensors, fetches: Tensors): void {
    this.#native.run(feeds, fetches);
  }

  dispose(): void {
    this.#native.dispose();
  }
}

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
