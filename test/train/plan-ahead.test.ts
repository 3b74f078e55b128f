import { expect, it } from 'vitest';
import type { Document } from '../../src/runtime/data/document.js';
import type { DataOrder } from '../../src/runtime/data/order.js';
import { queueBatches, unlessStopped } from '../../src/train/plan-ahead.js';
import { predictionTally } from '../../src/train/prediction.js';
import type { BatchPlan, Spreader } from '../../src/train/spreader.js';

const document = (index: number): Document => ({
  ids: Int32Array.of(index),
  labels: Int32Array.of(-100),
  origin: `document ${index}`,
});

/** One document a batch, numbered through. */
function countingOrder(): DataOrder {
  let index = 0;
  return {
    get position() {
      return { epoch: 0, index };
    },
    nextBatch: () => [document(index++)],
  };
}

const planOf = (documents: readonly Document[]): BatchPlan => ({
  microBatches: [{ lanes: [{ ranks: [0], documents }] }],
  predicted: { ms: 1, objectiveMs: 1, microBatches: [] },
});

/** Plans when it is told to. */
function manualSpreader(): { spreader: Spreader; asked: number[]; answer(): void } {
  const asked: number[] = [];
  const waiting: (() => void)[] = [];
  const spreader: Spreader = {
    groups: 'by hand',
    room: undefined,
    plan: (documents) => {
      asked.push(documents[0]!.ids[0]!);
      return new Promise((resolve) => waiting.push(() => resolve(planOf(documents))));
    },
    close: async () => {},
  };
  return { spreader, asked, answer: () => waiting.shift()!() };
}

it('plans are asked for ahead, in the order of the data, and none beyond the last step', async () => {
  const { spreader, asked, answer } = manualSpreader();
  const order = countingOrder();
  const queue = queueBatches({ order, spreader, batchTokens: 1, firstStep: 5, endStep: 10, ahead: 2 });
  expect(asked).toEqual([0, 1, 2]);
  const taken: [number, number][] = [];
  for (let step = 5; step < 10; step++) {
    answer();
    const { documents, after, plan } = await queue.next();
    expect(plan.microBatches[0]!.lanes[0]!.documents).toBe(documents);
    taken.push([documents[0]!.ids[0]!, after.index]);
  }
  // The place after a batch is its own, however far the order has gone.
  expect(taken).toEqual([
    [0, 1],
    [1, 2],
    [2, 3],
    [3, 4],
    [4, 5],
  ]);
  expect(asked).toEqual([0, 1, 2, 3, 4]);
});

it('a plan that is known is not asked for; the wait for the others is measured', async () => {
  const { spreader, asked, answer } = manualSpreader();
  const queue = queueBatches({
    order: countingOrder(),
    spreader,
    batchTokens: 1,
    firstStep: 0,
    endStep: 2,
    known: (step, documents) => (step === 0 ? planOf(documents) : undefined),
  });
  expect(asked).toEqual([1]);
  expect((await queue.next()).waitMs).toBeLessThan(50);
  setTimeout(answer, 80);
  expect((await queue.next()).waitMs).toBeGreaterThan(60);
});

it('a plan that fails is heard of by whoever takes its batch, not before', async () => {
  const order = countingOrder();
  const spreader: Spreader = {
    ...manualSpreader().spreader,
    plan: async (documents) => {
      if (documents[0]!.ids[0] === 1) throw new Error('no plan');
      return planOf(documents);
    },
  };
  const queue = queueBatches({ order, spreader, batchTokens: 1, firstStep: 0, endStep: 3 });
  await new Promise((resolve) => setTimeout(resolve, 10));
  await queue.next();
  await expect(queue.next()).rejects.toThrow('no plan');
});

it('a wait ends when the run is to stop', async () => {
  const never = new Promise<number>(() => {});
  const from = performance.now();
  expect(await unlessStopped(never, () => performance.now() - from > 60)).toBeUndefined();
  expect(performance.now() - from).toBeLessThan(1000);
  expect(await unlessStopped(Promise.resolve(3), () => true)).toBe(3);
});

it('predictions are compared without the first step, unless there is no other', () => {
  const tally = predictionTally();
  expect(tally.result()).toBeUndefined();
  tally.add(0, 5);
  tally.add(10, 90);
  expect(tally.result()).toEqual({ steps: 1, median: 9, least: 9, most: 9 });
  for (const measured of [20, 10, 40]) tally.add(10, measured);
  expect(tally.result()).toEqual({ steps: 3, median: 2, least: 1, most: 4 });
  tally.add(10, 30);
  expect(tally.result()!.median).toBe(2.5);
});
