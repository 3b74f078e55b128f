import { invariant } from '../../../errors.js';
import { quickBound } from '../bound/quick.js';
import { checkPlan } from '../check.js';
import type { CostModel } from '../cost.js';
import { groupLoad } from '../plan.js';
import type { Solver } from '../solver.js';
import type { PlannedBatch } from './protocol.js';

/** Solves a batch and holds the plan to the independent checker. */
export async function planBatch(
  lengths: readonly number[],
  model: CostModel,
  solver: Solver,
  seed: number,
): Promise<PlannedBatch> {
  const { plan, solveMs, moves, cutShort } = await solver.solve(lengths, model, { seed });
  const [first] = checkPlan(plan, lengths, model);
  invariant(first === undefined, `the plan of ${solver.name} is wrong: ${first?.message}`);
  return {
    solver: solver.name,
    plan,
    peakBytes: plan.microBatches.map(({ groups }) =>
      groups.map(({ degree, sequences }) =>
        model.memoryBytes(degree, groupLoad(sequences, lengths, model).tokens),
      ),
    ),
    boundMs: quickBound(lengths, model),
    solveMs,
    moves,
    cutShort,
  };
}
