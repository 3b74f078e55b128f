import { Worker } from 'node:worker_threads';
import { resolveWorker } from '../../../worker-url.js';
import type { LinearProgram, ProgramOptions, ProgramResult } from './program.js';
import type { FromSolver, ToSolver } from './protocol.js';

/** Solves programmes one after the other on a thread of its own, because HiGHS blocks the thread it runs on. */
export interface ProgramSolver {
  solve(program: LinearProgram, options: ProgramOptions): Promise<ProgramResult>;
  /** Ends the thread; what is under way fails. */
  close(): Promise<void>;
}

export function openProgramSolver(): ProgramSolver {
  const worker = new Worker(resolveWorker(new URL(`./worker${import.meta.url.slice(-3)}`, import.meta.url)), {
    name: 'highs',
  });
  const pending = new Map<number, { resolve(result: ProgramResult): void; reject(error: Error): void }>();
  let next = 0;
  let ended: Error | undefined;
  const fail = (error: Error): void => {
    ended ??= error;
    for (const { reject } of pending.values()) reject(ended);
    pending.clear();
  };
  worker.on('message', (reply: FromSolver) => {
    const waiting = pending.get(reply.id);
    pending.delete(reply.id);
    if ('result' in reply) waiting?.resolve(reply.result);
    else waiting?.reject(new Error(`HiGHS failed: ${reply.error}`));
  });
  worker.on('error', (error) => fail(error instanceof Error ? error : new Error(String(error))));
  worker.on('exit', () => fail(new Error('the HiGHS thread has ended')));
  worker.unref();
  return {
    solve: (program, options) =>
      new Promise((resolve, reject) => {
        if (ended !== undefined) return reject(ended);
        const message: ToSolver = { id: next++, program, options };
        pending.set(message.id, { resolve, reject });
        // A pending solve keeps the process alive.
        worker.ref();
        worker.postMessage(message, []);
        return undefined;
      }),
    close: async () => {
      await worker.terminate();
    },
  };
}
