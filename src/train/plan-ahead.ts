import type { Document } from '../runtime/data/document.js';
import type { DataOrder, DataPosition } from '../runtime/data/order.js';
import type { BatchPlan, Spreader } from './spreader.js';

/** The batch of a step with its plan. */
export interface ReadyBatch {
  readonly documents: readonly Document[];
  readonly plan: BatchPlan;
  /** Where the run stands in its data once the step is done: what a checkpoint keeps, however far ahead plans are. */
  readonly after: DataPosition;
  /** How long the plan was waited for. */
  readonly waitMs: number;
}

export interface BatchQueue {
  /** The batch that `next` will give, without taking it. */
  first(): Promise<{ readonly plan: BatchPlan }>;
  /** The batch of the next step. @throws what its plan failed with */
  next(): Promise<ReadyBatch>;
}

export interface QueueOptions {
  readonly order: DataOrder;
  readonly spreader: Spreader;
  readonly batchTokens: number;
  /** Number of the first step's update, from 0; of the step after the last. */
  readonly firstStep: number;
  readonly endStep: number;
  /** Batches whose plans are under way while a step runs. */
  readonly ahead?: number;
  /** The plan of a step, where one is known already. */
  readonly known?: (step: number, documents: readonly Document[]) => BatchPlan | undefined;
}

/** Enough that one hard batch does not stop the ranks; plans of that many batches are small. */
const AHEAD = 4;

/** Takes batches in the order of the data and has them planned ahead. The first plans are asked for at once. */
export function queueBatches(options: QueueOptions): BatchQueue {
  const { order, spreader, batchTokens, endStep, ahead = AHEAD, known = () => undefined } = options;
  const queue: { documents: readonly Document[]; after: DataPosition; plan: Promise<BatchPlan> }[] = [];
  let step = options.firstStep;

  function fill(count: number): void {
    for (; queue.length < count && step < endStep; step++) {
      const documents = order.nextBatch({ tokens: batchTokens });
      const found = known(step, documents);
      const plan = found === undefined ? spreader.plan(documents) : Promise.resolve(found);
      // Whoever takes the batch hears of it; until then it is no unhandled rejection.
      plan.catch(() => {});
      queue.push({ documents, after: order.position, plan });
    }
  }

  fill(1 + ahead);
  return {
    first: async () => ({ plan: await queue[0]!.plan }),
    next: async () => {
      fill(1 + ahead);
      const { documents, after, plan } = queue.shift()!;
      fill(ahead);
      const from = performance.now();
      return { documents, after, plan: await plan, waitMs: performance.now() - from };
    },
  };
}

/** How often a wait looks whether the run was stopped. */
const STOP_POLL_MS = 50;

/** Waits, but no longer than until the run is to stop: then the result is undefined. */
export async function unlessStopped<T>(
  promise: Promise<T>,
  isStopped: () => boolean,
): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const stopped = new Promise<undefined>((resolve) => {
    timer = setInterval(() => {
      if (isStopped()) resolve(undefined);
    }, STOP_POLL_MS);
  });
  try {
    return await Promise.race([promise, stopped]);
  } finally {
    clearInterval(timer);
  }
}
