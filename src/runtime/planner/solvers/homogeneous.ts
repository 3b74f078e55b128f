import { UserError } from '../../../errors.js';
import type { CostModel } from '../cost.js';
import { shapesOf, type Draft } from '../search/draft.js';
import { bestOfOneDegree, packedPlan } from '../search/homogeneous.js';
import { makeItems } from '../search/items.js';
import { degreeTables } from '../search/tables.js';
import { solveWith, type SolveOptions, type Solver } from '../solver.js';

/**
 * One degree for the run, packed best fit decreasing: DeepSpeed-Ulysses, configured as well as it can be. Without
 * `degree` it is the one that is fastest for this batch among those that hold the run's longest sequence.
 */
export const staticSolver: Solver = {
  name: 'static',
  solve: (batch, merged, options = {}) =>
    solveWith('static', batch, merged, (model, lengths) => {
      const tables = degreeTables(model);
      const items = makeItems(lengths, model, Infinity, 0);
      let best: Draft | undefined;
      for (const column of columnsOf(batch, merged, options).filter((k) => holds(model, k, lengths)))
        best = packedPlan(tables, items, column, best?.ms) ?? best;
      return { shapes: best === undefined ? [] : shapesOf(best, items, model) };
    }),
};

/** The best single degree for each step, sequences balanced over its groups. */
export const adaptiveSolver: Solver = {
  name: 'adaptive',
  solve: (batch, merged) =>
    solveWith('adaptive', batch, merged, (model, lengths) => {
      const items = makeItems(lengths, model, Infinity, 0);
      const best = bestOfOneDegree(degreeTables(model), items);
      return { shapes: best === undefined ? [] : shapesOf(best, items, model) };
    }),
};

/** Whether groups of a degree hold every sequence. */
const holds = ({ degrees }: CostModel, column: number, lengths: readonly number[]): boolean =>
  lengths.every((length) => length <= degrees[column]!.capacity);

/** Columns of the degrees that `static` may choose from. */
function columnsOf(
  lengths: readonly number[],
  model: CostModel,
  { degree, longest = 0 }: SolveOptions,
): readonly number[] {
  const { degrees } = model;
  const batch = lengths.reduce((a, b) => Math.max(a, b), 0);
  if (degree === undefined) {
    const widest = degrees.reduce((most, cost) => Math.max(most, cost.capacity), 0);
    const needed = Math.max(batch, Math.min(longest, widest));
    return Array.from(degrees.keys()).filter((k) => degrees[k]!.capacity >= needed);
  }
  const column = degrees.findIndex((cost) => cost.degree === degree);
  if (column < 0)
    throw new UserError(
      `degree ${degree} is not allowed on ${model.ranks} ranks`,
      `use one of ${degrees.map((cost) => cost.degree).join(', ')}`,
    );
  const { capacity } = degrees[column]!;
  if (batch > capacity)
    throw new UserError(
      `a sequence of ${batch} tokens does not fit groups of ${degree}, which hold ${capacity}`,
      'choose a larger degree for the static solver',
    );
  return [column];
}
