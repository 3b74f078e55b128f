import { UserError } from '../../../errors.js';
import type { Solver } from '../solver.js';
import { flexSpSolver } from './flexsp.js';
import { adaptiveSolver, staticSolver } from './homogeneous.js';
import { ithacaSolver } from './ithaca.js';

export const SOLVERS: readonly Solver[] = [ithacaSolver, staticSolver, adaptiveSolver, flexSpSolver];

/** @throws UserError listing what there is */
export function findSolver(name: string): Solver {
  const solver = SOLVERS.find((one) => one.name === name);
  if (solver === undefined)
    throw new UserError(
      `there is no solver ${JSON.stringify(name)}`,
      `use ${SOLVERS.map((s) => s.name).join(', ')}`,
    );
  return solver;
}
