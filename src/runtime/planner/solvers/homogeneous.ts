import { UserError } from '../../../errors.js';
import type { CostModel } from '../cost.js';
import { balancedPlan, packedPlan } from '../search/homogeneous.js';
import { makeItems } from '../search/items.js';
import type { Start } from '../search/start.js';
import { shapesOf } from '../search/shapes.js';
import { degreeTables } from '../search/tables.js';
import { solveWith, type SolveOptions, type Solver } from '../solver.js';

/** One degree for the run, packed best fit decreasing: what DeepSpeed-Ulysses does when it is configured well. */
export const staticSolver: Solver = {
  name: 'static',
  solve: (lengths, model, options = {}) =>
    solveWith('static', lengths, model, () => {
      const tables = degreeTables(model);
      const items = makeItems(lengths, model, Infinity, 0);
      const start = packedPlan(tables, items, chooseColumn(lengths, model, options));
      return { shapes: shapesOf(start?.microBatches ?? [], items, model) };
    }),
};

/** The best single degree for each step, sequences balanced over its groups. */
export const adaptiveSolver: Solver = {
  name: 'adaptive',
  solve: (lengths, model) =>
    solveWith('adaptive', lengths, model, () => {
      const tables = degreeTables(model);
      const items = makeItems(lengths, model, Infinity, 0);
      let best: Start | undefined;
      for (let column = 0; column < tables.size.length; column++)
        for (const plan of [balancedPlan, packedPlan]) {
          const start = plan(tables, items, column);
          if (start !== undefined && (best === undefined || start.ms < best.ms)) best = start;
        }
      return { shapes: shapesOf(best?.microBatches ?? [], items, model) };
    }),
};

function chooseColumn(lengths: readonly number[], model: CostModel, { degree }: SolveOptions): number {
  const longest = lengths.reduce((a, b) => Math.max(a, b), 0);
  if (degree === undefined) return model.degrees.findIndex((cost) => cost.capacity >= longest);
  const column = model.degrees.findIndex((cost) => cost.degree === degree);
  if (column < 0)
    throw new UserError(
      `degree ${degree} is not allowed on ${model.ranks} ranks`,
      `use one of ${model.degrees.map((cost) => cost.degree).join(', ')}`,
    );
  const { capacity } = model.degrees[column]!;
  if (longest > capacity)
    throw new UserError(
      `a sequence of ${longest} tokens does not fit groups of ${degree}, which hold ${capacity}`,
      'choose a larger degree for the static solver',
    );
  return column;
}
