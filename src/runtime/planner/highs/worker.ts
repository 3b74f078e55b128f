import { parentPort } from 'node:worker_threads';
import { invariant } from '../../../errors.js';
import type { FromSolver, ToSolver } from './protocol.js';
import { solveProgram } from './solve.js';

// Entry of the worker thread that HiGHS blocks.
const port = parentPort;
invariant(port !== null, 'the solver worker has no parent');
let queue = Promise.resolve();
port.on('message', ({ id, program, options }: ToSolver) => {
  queue = queue.then(async () => {
    let reply: FromSolver;
    try {
      reply = { id, result: await solveProgram(program, options) };
    } catch (error) {
      reply = { id, error: String(error) };
    }
    port.postMessage(reply);
  });
});
