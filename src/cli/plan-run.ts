import { invariant } from '../errors.js';
import { searchBound } from '../runtime/planner/bound/bound.js';
import { quickBound } from '../runtime/planner/bound/quick.js';
import { checkPlan } from '../runtime/planner/check.js';
import { exposedExchangeMs, restrictDegrees, type CostModel } from '../runtime/planner/cost.js';
import { withEveryDegree } from '../runtime/planner/every-degree.js';
import { openProgramSolver } from '../runtime/planner/highs/client.js';
import { groupLoad, planByLengths } from '../runtime/planner/plan.js';
import type { Solution } from '../runtime/planner/solver.js';
import { findSolver } from '../runtime/planner/solvers/index.js';

export interface PlanOptions {
  readonly solver: string;
  readonly minDegree?: number;
  readonly anyDegree?: boolean;
  readonly moves?: number;
  readonly seed: number;
  /** Seconds of search for a tighter bound. */
  readonly offline?: number;
}

/** A micro-batch as people read it. */
export interface MicroBatchRow {
  /** Groups that hold sequences, larger degrees first. */
  readonly groups: readonly { readonly degree: number; readonly count: number }[];
  readonly idleRanks: number;
  readonly sequences: number;
  readonly tokens: number;
  /** What the micro-batch pays once included. */
  readonly ms: number;
  /** Of the rank that is fullest, what it holds over what it could: 0 … 1. */
  readonly memory: number;
  /** Of the time that ranks are busy, the part in which they only exchange: 0 … 1. */
  readonly exchange: number;
}

export interface PlanReport {
  readonly solution: Solution;
  /** `[microBatch][group]`. */
  readonly plan: ReturnType<typeof planByLengths>;
  readonly rows: readonly MicroBatchRow[];
  readonly boundMs: number;
  /** Time that finding the bound took, none of it the solver's. */
  readonly boundSpentMs: number;
  /** By how much the step is longer than the bound, relatively: the plan is at most this far from the best. */
  readonly gap: number;
}

/** What a run of one degree would make of the batch. */
export interface OneDegree {
  readonly solver: string;
  readonly degree: number;
  readonly microBatches: number;
  readonly stepMs: number;
}

/** The degrees that a command line allows. */
export function allowDegrees(model: CostModel, { minDegree = 1, anyDegree }: PlanOptions): CostModel {
  return restrictDegrees(anyDegree === true ? withEveryDegree(model) : model, { minDegree });
}

/**
 * Solves, holds the plan to the independent checker, bounds what any plan could reach.
 * @param longest longest sequence of the run, for the static solver
 */
export async function planBatch(
  lengths: readonly number[],
  model: CostModel,
  options: PlanOptions,
  longest?: number,
): Promise<PlanReport> {
  const solution = await solveBatch(lengths, model, options.solver, { ...options, longest });
  const { stepMs } = solution.times;
  const start = performance.now();
  const boundMs = await boundOf(lengths, model, stepMs, options.offline ?? 0);
  return {
    solution,
    plan: planByLengths(solution.plan, lengths),
    rows: rowsOf(solution, lengths, model),
    boundMs,
    boundSpentMs: performance.now() - start,
    // Both are sums of rounded numbers: a plan that meets the bound may seem to be below it.
    gap: boundMs > 0 ? snapped(stepMs / boundMs - 1) : 0,
  };
}

/** A checked plan of one solver. @throws UserError for sequences that no group holds */
export async function solveBatch(
  lengths: readonly number[],
  model: CostModel,
  name: string,
  { seed, moves, longest }: Pick<PlanOptions, 'seed' | 'moves'> & { readonly longest?: number },
): Promise<Solution> {
  const solution = await findSolver(name).solve(lengths, model, { seed, moves, longest });
  const [first] = checkPlan(solution.plan, lengths, model);
  invariant(first === undefined, `the plan of ${name} is wrong: ${first?.message}`);
  return solution;
}

/** The plans that runs of one degree would have: one for all steps, and the best for this step. */
export async function oneDegreePlans(
  lengths: readonly number[],
  model: CostModel,
  seed: number,
  longest?: number,
): Promise<readonly OneDegree[]> {
  const plans: OneDegree[] = [];
  for (const solver of ['static', 'adaptive']) {
    const { plan, times } = await solveBatch(lengths, model, solver, { seed, longest });
    const busy = plan.microBatches.flatMap(({ groups }) => groups).find((g) => g.sequences.length > 0);
    plans.push({
      solver,
      degree: busy?.degree ?? 0,
      microBatches: plan.microBatches.length,
      stepMs: times.stepMs,
    });
  }
  return plans;
}

async function boundOf(
  lengths: readonly number[],
  model: CostModel,
  knownMs: number,
  seconds: number,
): Promise<number> {
  if (seconds === 0) return quickBound(lengths, model);
  const solver = openProgramSolver();
  try {
    return (await searchBound(lengths, model, solver, { limitMs: 1000 * seconds, knownMs })).ms;
  } finally {
    await solver.close();
  }
}

function rowsOf({ plan, times }: Solution, lengths: readonly number[], model: CostModel): MicroBatchRow[] {
  const costs = new Map(model.degrees.map((cost) => [cost.degree, cost]));
  return plan.microBatches.map(({ groups }, m) => {
    const counts = new Map<number, number>();
    let [idleRanks, sequences, tokens, memory, busyMs, exchangeMs] = [0, 0, 0, 0, 0, 0];
    groups.forEach((group, g) => {
      const { degree } = group;
      const cost = costs.get(degree);
      if (cost === undefined || group.sequences.length === 0) {
        idleRanks += degree;
        return;
      }
      counts.set(degree, (counts.get(degree) ?? 0) + 1);
      const load = groupLoad(group.sequences, lengths, model);
      sequences += group.sequences.length;
      tokens += load.tokens;
      const bytes = model.memoryBytes(degree, load.tokens) / model.memoryLimitBytes;
      memory = Math.max(memory, bytes, load.tokens / cost.capacity);
      busyMs += degree * (times.groupMs[m]?.[g] ?? 0);
      if (load.tokens > 0)
        exchangeMs += degree * Math.max(0, exposedExchangeMs(cost, load.tokens, load.pairs));
    });
    return {
      groups: [...counts].map(([degree, count]) => ({ degree, count })).sort((a, b) => b.degree - a.degree),
      idleRanks,
      sequences,
      tokens,
      ms: times.microBatchMs[m] ?? 0,
      memory,
      exchange: busyMs > 0 ? exchangeMs / busyMs : 0,
    };
  });
}

const snapped = (gap: number): number => (Math.abs(gap) < 1e-9 ? 0 : gap);
