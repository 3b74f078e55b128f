import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Package } from '../../../src/package/read.js';
import { trainingCost } from '../../../src/runtime/planner/ahead/cost.js';
import { openPlanner, type PlannerOptions } from '../../../src/runtime/planner/ahead/planner.js';
import type { PlannedBatch } from '../../../src/runtime/planner/ahead/protocol.js';
import { checkPlan } from '../../../src/runtime/planner/check.js';
import { compiledModel, packageFolder } from '../session/packages.js';

const { folder, remove } = packageFolder();
afterAll(remove);
let pkg: Package;
beforeAll(async () => {
  pkg = await compiledModel(folder, 'llama');
});

const BATCHES = [
  [900, 40, 31, 30, 22, 11, 9, 300, 4, 4, 1, 77],
  [5],
  Array.from({ length: 50 }, (_, i) => 3 + ((37 * i) % 101)),
];

/** Plans of all batches, asked for at once, and what was said of a failure. */
async function plans(
  options: Partial<PlannerOptions> = {},
): Promise<{ planned: PlannedBatch[]; reasons: string[] }> {
  const reasons: string[] = [];
  const planner = await openPlanner(pkg, {
    ranks: 6,
    seed: 3,
    onFallback: (reason) => reasons.push(reason),
    ...options,
  });
  try {
    return { planned: await Promise.all(BATCHES.map((lengths) => planner.plan(lengths))), reasons };
  } finally {
    await planner.close();
  }
}

it('plans on a thread are legal, priced, and the same every time', async () => {
  const [first, second] = [await plans(), await plans()];
  expect(first.reasons).toEqual([]);
  const model = trainingCost(pkg, { ranks: 6 });
  first.planned.forEach(({ plan, boundMs, cutShort, peakBytes }, i) => {
    expect(checkPlan(plan, BATCHES[i]!, model)).toEqual([]);
    expect(second.planned[i]!.plan).toEqual(plan);
    expect([boundMs > 0, cutShort]).toEqual([true, false]);
    plan.microBatches.forEach(({ groups }, m) => expect(peakBytes[m]).toHaveLength(groups.length));
  });
});

it.each(['exit', 'throw'] as const)(
  'a thread that fails (%s) leaves no batch without a plan',
  async (how) => {
    const { planned, reasons } = await plans({ fault: { how, batch: 1 } });
    expect(reasons).toEqual([
      how === 'exit' ? 'its thread ended, with exit code 3' : 'a failure made on purpose',
    ]);
    expect(planned.map(({ solver }) => solver)).toEqual(['ithaca', 'adaptive', 'adaptive']);
    const model = trainingCost(pkg, { ranks: 6 });
    planned.forEach(({ plan }, i) => expect(checkPlan(plan, BATCHES[i]!, model)).toEqual([]));
  },
);

it('a batch that no group holds is an error of its own; the planner goes on', async () => {
  const planner = await openPlanner(pkg, {
    ranks: 2,
    seed: 0,
    maxTokensPerGroup: 100,
    onFallback: (reason) => expect.unreachable(reason),
  });
  const [wrong, right] = [planner.plan([20, 101]), planner.plan([100, 3])];
  await expect(wrong).rejects.toMatchObject({
    name: 'UserError',
    message: expect.stringMatching(/101 tokens/) as unknown,
  });
  expect((await right).solver).toBe('ithaca');
  await planner.close();
  expect(planner.room.degrees.map(({ capacity }) => capacity)).toEqual([100, 100]);
});

it('a model without room for a token is refused at once', async () => {
  const tight = openPlanner(pkg, { ranks: 2, seed: 0, memoryGibPerRank: 1e-4, onFallback: () => {} });
  await expect(tight).rejects.toMatchObject({
    name: 'UserError',
    message: expect.stringMatching(/for a single token/) as unknown,
  });
});
