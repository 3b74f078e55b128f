import { createRequire } from 'node:module';
import { invariant } from '../../errors.js';
import type { Backend, Tensors } from './onnx.js';

/*
 * onnxruntime-node by its synchronous binding, the one its own `InferenceSession.run` calls after a turn of the
 * event loop. A step is hundreds of small calls on a thread that does nothing else: measured on a segment of one
 * op, 14 µs instead of 26 µs a call. package.json pins the version, since this is not its documented surface.
 */

interface NodeSession {
  loadModel(buffer: ArrayBufferLike, offset: number, length: number, options: object): void;
  run(feeds: Tensors, fetches: Tensors): unknown;
  dispose(): void;
  readonly outputMetadata: readonly { readonly name: string }[];
}

interface Binding {
  readonly initOrt: () => void;
  readonly binding: { readonly InferenceSession: new () => NodeSession };
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

/** onnxruntime-node's own binding, which is always there. It copies every output of every run. */
export function loadNode(): Backend {
  const module = createRequire(import.meta.url)('onnxruntime-node/dist/binding.js') as Partial<Binding>;
  const { initOrt, binding } = module;
  invariant(
    typeof initOrt === 'function' && typeof binding?.InferenceSession?.prototype.run === 'function',
    'this version of onnxruntime-node has another binding than the one ithaca was made for',
  );
  initOrt();
  return (model) => {
    const session = new binding.InferenceSession();
    session.loadModel(model.buffer, model.byteOffset, model.byteLength, OPTIONS);
    const run = (feeds: Tensors, fetches: Tensors): void => void session.run(feeds, fetches);
    return {
      outputs: session.outputMetadata.map((output) => output.name),
      run,
      bind: (feeds, fetches) => ({ run: () => run(feeds, fetches) }),
      dispose: () => session.dispose(),
    };
  };
}
