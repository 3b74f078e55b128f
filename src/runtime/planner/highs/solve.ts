import highsModule, { type Highs } from 'highs';
import type { LinearProgram, ProgramOptions, ProgramResult } from './program.js';

// The package's types describe its CommonJS build, an import gets the ES module, whose default is the loader itself.
const loadHighs = highsModule as unknown as typeof highsModule.default;

let loaded: Promise<Highs> | undefined;

/** HiGHS, loaded once a thread. Its solves block the thread: see client.ts. */
export const highs = (): Promise<Highs> => (loaded ??= loadHighs());

/** Solves a programme on this thread, which it blocks for up to the limit. */
export async function solveProgram(program: LinearProgram, options: ProgramOptions): Promise<ProgramResult> {
  const engine = await highs();
  const discrete = program.integer.some(Boolean);
  return engine.withModel(
    {
      numCols: program.cost.length,
      numRows: program.rowLower.length,
      colCost: program.cost,
      colLower: program.lower,
      colUpper: program.upper.map((value) => (value === Infinity ? engine.infinity : value)),
      rowLower: program.rowLower.map((value) => (value === -Infinity ? -engine.infinity : value)),
      rowUpper: program.rowUpper.map((value) => (value === Infinity ? engine.infinity : value)),
      matrix: {
        format: 'csr',
        numRows: program.rowLower.length,
        numCols: program.cost.length,
        starts: program.starts,
        indices: program.indices,
        values: program.values,
      },
      integrality: discrete ? program.integer.map((flag) => (flag ? 1 : 0)) : undefined,
    },
    (model): ProgramResult => {
      model.options.set({
        output_flag: false,
        time_limit: options.limitMs / 1000,
        mip_rel_gap: options.gap ?? 1e-4,
        random_seed: options.seed ?? 0,
      });
      if (options.start !== undefined) model.setSolution({ colValue: options.start });
      model.run();
      const { modelStatus } = engine.constants;
      const code = model.getModelStatus();
      const status =
        code === modelStatus.optimal
          ? 'optimal'
          : code === modelStatus.infeasible
            ? 'infeasible'
            : code === modelStatus.timeLimit
              ? 'limit'
              : 'other';
      const feasible = Number(model.info.get('primal_solution_status')) === 2;
      const objective = feasible ? model.getObjectiveValue() : undefined;
      const bound = discrete
        ? Number(model.info.get('mip_dual_bound'))
        : status === 'optimal'
          ? model.getObjectiveValue()
          : -Infinity;
      return {
        status,
        bound: Number.isFinite(bound) && Math.abs(bound) < 1e29 ? bound : -Infinity,
        objective,
        values: feasible ? Array.from(model.getSolution().colValue) : [],
      };
    },
  );
}
