/** Worker entry of the planner: opens the package for its costs, then plans one batch after the other. */
import { parentPort, workerData } from 'node:worker_threads';
import { invariant, UserError } from '../../../errors.js';
import { openPackage } from '../../../package/read.js';
import type { CostModel } from '../cost.js';
import { ithacaSolver } from '../solvers/ithaca.js';
import { trainingCost } from './cost.js';
import {
  roomOfModel,
  type FromPlanner,
  type PlannerData,
  type PlannerFault,
  type ToPlanner,
} from './protocol.js';
import { planBatch } from './solve.js';

const port = parentPort;
invariant(port !== null, 'the planning worker has no parent');
const data = workerData as PlannerData;
const post = (message: FromPlanner): void => port.postMessage(message);

async function open(): Promise<CostModel> {
  const pkg = await openPackage(data.directory, { checked: data.hash });
  return trainingCost(pkg, data);
}

const opened = open();
try {
  post({ type: 'ready', room: roomOfModel(await opened) });
  let queue = Promise.resolve();
  port.on('message', (request: ToPlanner) => {
    queue = queue.then(() => answer(request));
  });
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  post({ type: 'refused', message: error.message, hint: error.hint });
}

async function answer({ id, lengths }: ToPlanner): Promise<void> {
  const { fault, seed } = data;
  try {
    if (fault?.batch === id) fail(fault);
    post({ type: 'planned', id, batch: await planBatch(lengths, await opened, ithacaSolver, seed) });
  } catch (error) {
    if (error instanceof UserError)
      post({ type: 'impossible', id, message: error.message, hint: error.hint });
    else post({ type: 'failed', id, message: error instanceof Error ? error.message : String(error) });
  }
}

function fail(fault: PlannerFault): void {
  if (fault.how === 'slow') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, fault.ms);
  else if (fault.how === 'exit') process.exit(3);
  else throw new Error('a failure made on purpose');
}
