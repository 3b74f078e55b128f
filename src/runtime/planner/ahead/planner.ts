import { Worker } from 'node:worker_threads';
import { unreachable, UserError } from '../../../errors.js';
import type { Package } from '../../../package/read.js';
import { resolveWorker } from '../../../worker-url.js';
import type { CostModel } from '../cost.js';
import { adaptiveSolver } from '../solvers/homogeneous.js';
import { trainingCost, type CostChoices } from './cost.js';
import type { FromPlanner, PlannedBatch, PlannerData, PlannerFault, Room, ToPlanner } from './protocol.js';
import { planBatch } from './solve.js';

/** Plans batches on a thread of its own, one after the other, while ranks are busy with earlier ones. */
export interface AheadPlanner {
  readonly room: Room;
  /**
   * Batches may be asked for ahead; they are planned in the order of the calls.
   * @throws UserError for a document that no group holds
   */
  plan(lengths: readonly number[]): Promise<PlannedBatch>;
  close(): Promise<void>;
}

export interface PlannerOptions extends CostChoices {
  readonly seed: number;
  /** Called once, should the thread fail: from then on batches get plans of one degree, made here. */
  readonly onFallback: (reason: string) => void;
  readonly fault?: PlannerFault | undefined;
}

interface Request {
  readonly lengths: readonly number[];
  resolve(batch: PlannedBatch | PromiseLike<PlannedBatch>): void;
  reject(error: unknown): void;
}

/** @throws UserError where the package or the calibration do not allow any plan */
export async function openPlanner(pkg: Package, options: PlannerOptions): Promise<AheadPlanner> {
  const { seed, onFallback, fault, ...choices } = options;
  const data: PlannerData = { ...choices, seed, fault, directory: pkg.directory, hash: pkg.hash };
  // `.js`, or `.ts` where tests run on sources.
  const entry = new URL(`./worker${import.meta.url.slice(-3)}`, import.meta.url);
  const worker = new Worker(resolveWorker(entry), { name: 'planner', workerData: data });
  const pending = new Map<number, Request>();
  let next = 0;
  let failed = false;
  let closed = false;

  let model: CostModel | undefined;
  const planHere = async (lengths: readonly number[]): Promise<PlannedBatch> =>
    planBatch(lengths, (model ??= trainingCost(pkg, choices)), adaptiveSolver, seed);

  function taken(id: number): Request | undefined {
    const request = pending.get(id);
    pending.delete(id);
    return request;
  }

  /** Answers what is waiting, and everything from now on, without the thread. */
  function fallBack(reason: string): void {
    if (failed || closed) return;
    failed = true;
    onFallback(reason);
    for (const { lengths, resolve } of pending.values()) resolve(planHere(lengths));
    pending.clear();
    void worker.terminate();
  }

  const room = await new Promise<Room>((resolve, reject) => {
    worker.on('message', (message: FromPlanner) => {
      switch (message.type) {
        case 'ready':
          return resolve(message.room);
        case 'refused':
          return reject(new UserError(message.message, message.hint));
        case 'planned':
          return taken(message.id)?.resolve(message.batch);
        case 'impossible':
          return taken(message.id)?.reject(new UserError(message.message, message.hint));
        case 'failed':
          return fallBack(message.message);
        default:
          return unreachable(message);
      }
    });
    worker.on('error', (error) => {
      reject(error);
      fallBack(error instanceof Error ? error.message : String(error));
    });
    worker.on('exit', (code) => {
      const reason = `its thread ended, with exit code ${code}`;
      reject(new Error(`the planner failed: ${reason}`));
      fallBack(reason);
    });
  }).catch(async (error: unknown) => {
    closed = true;
    await worker.terminate();
    throw error;
  });

  return {
    room,
    plan: (lengths) => {
      if (failed) return planHere(lengths);
      return new Promise((resolve, reject) => {
        const request: ToPlanner = { id: next++, lengths };
        pending.set(request.id, { lengths, resolve, reject });
        worker.postMessage(request, []);
      });
    },
    close: async () => {
      closed = true;
      for (const { reject } of pending.values()) reject(new Error('the planner is closed'));
      pending.clear();
      await worker.terminate();
    },
  };
}
