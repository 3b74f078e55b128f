import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { addonPath } from '../../src/runtime/executor/onnx-native.js';
import { binary, skipWithoutAddon } from './models.js';

skipWithoutAddon();

/** Posts sums until it is told to stop, which it may never be. */
const WORKER = `
  const { parentPort, workerData } = require('node:worker_threads');
  const addon = require(workerData.addon);
  addon.open(workerData.library, '1.30.0');
  const sessions = Array.from({ length: 5 }, () => new addon.Session(workerData.model));
  const tensor = (value) => ({ type: 'float32', dims: [workerData.rows, 3], data: new Float32Array(workerData.rows * 3).fill(value) });
  const y = tensor(0);
  const calls = sessions.map((session) => new addon.Call(session, { x: tensor(2), z: tensor(3) }, { y }));
  for (const call of calls) call.run();
  parentPort.postMessage(y.data.at(-1));
  if (workerData.forever) for (;;) calls[0].run();
`;

const start = (forever: boolean): Worker => {
  const binding = createRequire(import.meta.url).resolve('onnxruntime-node/dist/binding.js');
  const folder = join(dirname(binding), '../bin/napi-v6', process.platform, process.arch);
  const library = join(folder, 'libonnxruntime.so.1');
  const rows = forever ? 100_000 : 10;
  const workerData = { addon: addonPath(), library, model: binary('Mul'), rows, forever };
  return new Worker(WORKER, { eval: true, workerData });
};

/** The first message, then the exit code. */
async function runWorker(forever: boolean): Promise<readonly [unknown, number]> {
  const worker = start(forever);
  const failed = new Promise<never>((_, reject) => void worker.on('error', reject));
  const exited = new Promise<number>((resolve) => void worker.on('exit', resolve));
  const message = await Promise.race([
    new Promise<unknown>((resolve) => void worker.on('message', resolve)),
    failed,
  ]);
  if (!forever) return [message, await exited];
  await sleep(5);
  return [message, await worker.terminate()];
}

it('starts and stops with its threads, twenty times', async () => {
  for (let i = 0; i < 10; i++)
    expect(await Promise.all([runWorker(false), runWorker(false)])).toEqual([
      [6, 0],
      [6, 0],
    ]);
});

it('survives the termination of threads that are in it', async () => {
  for (let i = 0; i < 10; i++)
    expect(await Promise.all([runWorker(true), runWorker(true)])).toEqual([
      [6, 1],
      [6, 1],
    ]);
});
