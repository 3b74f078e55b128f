/** Worker entry of the pool's tests: does as told, faults included. */
import { MismatchError } from '../../../src/runtime/collectives/abort.js';
import { UserError } from '../../../src/errors.js';
import type { Collectives } from '../../../src/runtime/collectives/engine.js';
import { serveRank, type RankContext } from '../../../src/runtime/ranks/worker.js';

export type FaultKind = 'throw' | 'user-error' | 'exit' | 'uncaught' | 'hang';

export type Order =
  | { readonly type: 'echo'; readonly value: unknown }
  /** All-reduces in a row; one rank fails at one of them. */
  | {
      readonly type: 'steps';
      readonly steps: number;
      readonly fault?: { rank: number; at: number; how: FaultKind };
    }
  /** Calls collectives that do not fit together; replies with the error's class and message. */
  | { readonly type: 'disagree'; readonly how: Disagreement }
  /** Native code that takes its time. */
  | { readonly type: 'native'; readonly ms: number }
  | { readonly type: 'wait-for-interrupt' };

export type Disagreement = 'kind' | 'group' | 'bytes' | 'parts' | 'circle' | 'absent';

serveRank<Order, unknown>(async (order, context) => {
  switch (order.type) {
    case 'echo':
      return { rank: context.rank, world: context.world, data: context.data, value: order.value };
    case 'steps':
      return runSteps(order, context);
    case 'disagree':
      try {
        if (order.how !== 'absent') context.collectives.barrier({ ranks: [0, 1, 2] });
        disagree(order.how, context.rank, context.collectives);
        context.collectives.barrier({ ranks: [0, 1, 2] });
        return 'no error';
      } catch (error) {
        return error instanceof MismatchError ? error.message : `another error: ${String(error)}`;
      }
    case 'native':
      return context.native(
        () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, order.ms),
      );
    case 'wait-for-interrupt':
      while (!context.interrupted()) await new Promise((resolve) => setTimeout(resolve, 5));
      return 'interrupted';
  }
});

async function runSteps(order: Order & { type: 'steps' }, context: RankContext): Promise<number> {
  const { rank, world, collectives } = context;
  const group = { ranks: Array.from({ length: world }, (_, r) => r) };
  const values = new Float32Array(1000);
  for (let step = 0; step < order.steps; step++) {
    context.setInstruction(step);
    if (order.fault?.rank === rank && order.fault.at === step) await commit(order.fault.how);
    values.fill(rank);
    collectives.allReduce(group, [values]);
  }
  return values[0] ?? NaN;
}

async function commit(how: FaultKind): Promise<void> {
  switch (how) {
    case 'throw':
      throw new Error('boom');
    case 'user-error':
      throw new UserError('token 9 is outside the vocabulary', 'use the right tokenizer');
    case 'exit':
      process.exit(7);
    case 'uncaught':
      setTimeout(() => {
        throw new Error('late boom');
      }, 0);
      return await new Promise(() => undefined);
    case 'hang':
      for (;;);
  }
}

function disagree(how: Disagreement, rank: number, collectives: Collectives): void {
  const all = { ranks: [0, 1, 2] };
  const values = new Float32Array(30);
  switch (how) {
    case 'kind':
      return rank === 1 ? collectives.barrier(all) : collectives.allReduce(all, [values]);
    case 'group':
      return collectives.allReduce(rank === 2 ? all : { ranks: [0, 1] }, [values]);
    case 'bytes':
      return collectives.allReduce(all, [values.subarray(rank)]);
    case 'parts': {
      const sizes = rank === 0 ? [10, 20] : [20, 10];
      return collectives.allReduce(
        all,
        sizes.map((size) => values.subarray(0, size)),
      );
    }
    case 'circle': {
      const pairs = [
        [0, 1],
        [1, 2],
        [0, 2],
      ];
      return collectives.barrier({ ranks: pairs[rank] ?? [] });
    }
    case 'absent':
      collectives.barrier({ ranks: rank === 1 ? [0, 1] : [0, 2] });
  }
}
