import { parentPort } from 'node:worker_threads';
import type { IndexRequest } from './index-generator.js';
import { generateIndex, loadTsMorph } from './index-ts.js';

/** Worker entry: loads ts-morph while the model is compiled, then writes one entry point. */
await loadTsMorph();
parentPort!.once('message', ({ manifest, programs }: IndexRequest) => {
  void generateIndex(manifest, programs).then((text) => parentPort!.postMessage(text));
});
