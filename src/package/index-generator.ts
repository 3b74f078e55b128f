import { Worker } from 'node:worker_threads';
import { resolveWorker } from '../worker-url.js';
import type { Manifest } from './manifest.js';
import type { Program } from './program.js';

export interface IndexRequest {
  readonly manifest: Omit<Manifest, 'files'>;
  readonly programs: ReadonlyMap<string, Program>;
}

export interface IndexGenerator {
  /** The text of `index.ts`; once. */
  readonly generate: (request: IndexRequest) => Promise<string>;
  readonly close: () => Promise<void>;
}

/**
 * Generates `index.ts` on a thread of its own. Loading ts-morph takes about a second, as long as compiling a
 * model does: started first, it is ready when the compiler is.
 */
export function startIndexGenerator(): IndexGenerator {
  const worker = new Worker(
    resolveWorker(new URL(`./index-worker${import.meta.url.slice(-3)}`, import.meta.url)),
  );
  const failed = new Promise<never>((_, reject) => worker.once('error', reject));
  failed.catch(() => undefined);
  return {
    generate: (request) => {
      const text = new Promise<string>((resolve) => worker.once('message', resolve));
      worker.postMessage(request);
      return Promise.race([text, failed]);
    },
    close: async () => void (await worker.terminate()),
  };
}
