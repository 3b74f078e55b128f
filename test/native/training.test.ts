import { createHash } from 'node:crypto';
import { afterAll, expect, it } from 'vitest';
import type { Document } from '../../src/runtime/data/document.js';
import type { MicroBatchPlan } from '../../src/runtime/session/plan.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { compiledModel, packageFolder } from '../runtime/session/packages.js';
import { skipWithoutAddon } from './models.js';

skipWithoutAddon();

const { folder, remove } = packageFolder();
afterAll(remove);

const DOCUMENTS: readonly Document[] = [37, 1, 90].map((length) => ({
  ids: Int32Array.from({ length }, (_, i) => (i * 29 + length) % 200),
  labels: Int32Array.from({ length }, (_, i) => (i + 1 < length ? ((i + 1) * 29 + length) % 200 : -100)),
  origin: 'here',
}));

/** Equal where all bits are. */
const digest = (array: Float32Array): string =>
  createHash('sha256')
    .update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
    .digest('hex');

/** What a run of two updates and an evaluation leaves, on one way into ONNX Runtime. */
async function train(ranks: number, native: '0' | '1'): Promise<unknown> {
  const before = process.env['ITHACA_NATIVE'];
  process.env['ITHACA_NATIVE'] = native;
  try {
    const pkg = await compiledModel(folder, 'llama');
    const session = await TrainingSession.open(pkg, { ranks });
    try {
      const lane = {
        ranks: Array.from({ length: ranks }, (_, rank) => rank),
        documents: DOCUMENTS,
      };
      const plan: MicroBatchPlan[] = [{ lanes: [lane] }, { lanes: [lane] }];
      const { gradients, loss, gradNorm } = await session.gradients(plan);
      const steps: number[] = [];
      for (let step = 0; step < 2; step++) steps.push((await session.step(plan, { lr: 1e-3, step })).loss);
      const rows: string[] = [];
      const evaluated = await session.evaluate(
        plan.slice(0, 1),
        ({ row, data }) => (rows[row] = digest(data)),
      );
      const bits = [...gradients].map(([name, gradient]) => [name, digest(gradient)]);
      return { bits, loss, gradNorm, steps, rows, evaluated: evaluated.loss };
    } finally {
      await session.close();
    }
  } finally {
    if (before === undefined) delete process.env['ITHACA_NATIVE'];
    else process.env['ITHACA_NATIVE'] = before;
  }
}

it.each([1, 3])('trains to the bit as without it, on %i ranks', async (ranks) => {
  expect(await train(ranks, '1')).toEqual(await train(ranks, '0'));
});
