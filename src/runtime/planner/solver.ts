import { UserError } from '../../errors.js';
import { arrange } from './arrange.js';
import type { CostModel } from './cost.js';
import { bestOfLevels, bestOfLevelsLater, type Find } from './levels.js';
import type { Shape } from './place.js';
import { planTimes, type PlanTimes, type StepPlan } from './plan.js';

export interface SolveOptions {
  /** The same batch, seed and budget give the same plan. */
  readonly seed?: number;
  /** Budget of a search: sequences taken out and put back. Default: grows with the batch. */
  readonly moves?: number;
  /** Safety stop of the wall clock; a plan that it cut short depends on the machine and says so. */
  readonly limitMs?: number;
  /** Degree of `static`; default: the fastest for this batch that holds the run's longest sequence. */
  readonly degree?: number;
  /** Longest sequence of the run, if it is longer than any of the batch: what `static` must be ready for. */
  readonly longest?: number;
}

export interface Solution {
  readonly solver: string;
  readonly plan: StepPlan;
  readonly times: PlanTimes;
  readonly solveMs: number;
  readonly moves: number;
  /** Whether the wall clock ended the search before its budget did. */
  readonly cutShort: boolean;
}

/** Turns the lengths of a global batch into a plan. */
export interface Solver {
  readonly name: string;
  /** @throws UserError for lengths that no plan can hold */
  solve(lengths: readonly number[], model: CostModel, options?: SolveOptions): Solution | Promise<Solution>;
}

/** What a solver found for the sequences that have tokens, before ranks are chosen. */
export interface Found {
  readonly shapes: readonly (readonly Shape[])[];
  readonly moves?: number;
  readonly cutShort?: boolean;
}

/** Checks the batch, times the solver, places its groups and prices the plan. */
export function solveWith(
  solver: string,
  lengths: readonly number[],
  model: CostModel,
  find: Find<Found>,
): Solution {
  const start = performance.now();
  checkBatch(lengths, model);
  return finish(solver, lengths, model, bestOfLevels(lengths, model, find), start);
}

/** `solveWith` for a solver that waits for other threads. */
export async function solveLater(
  solver: string,
  lengths: readonly number[],
  model: CostModel,
  find: Find<Promise<Found>>,
): Promise<Solution> {
  const start = performance.now();
  checkBatch(lengths, model);
  return finish(solver, lengths, model, await bestOfLevelsLater(lengths, model, find), start);
}

function finish(
  solver: string,
  lengths: readonly number[],
  model: CostModel,
  found: Found,
  start: number,
): Solution {
  const { shapes, moves = 0, cutShort = false } = found;
  const plan = arrange(withEmpty(shapes, lengths, model), model);
  return {
    solver,
    plan,
    times: planTimes(plan, lengths, model),
    solveMs: performance.now() - start,
    moves,
    cutShort,
  };
}

/** Sequences without tokens cost nothing where something else is: the first group takes them. */
function withEmpty(shapes: Found['shapes'], lengths: readonly number[], model: CostModel): Found['shapes'] {
  const empty = Array.from(lengths.keys()).filter((index) => lengths[index] === 0);
  if (empty.length === 0) return shapes;
  const busy = shapes.flat().find((group) => group.sequences.length > 0);
  if (busy === undefined) return [[{ degree: model.degrees[0]!.degree, sequences: empty }]];
  const host: Shape = { ...busy, sequences: [...busy.sequences, ...empty] };
  return shapes.map((groups) => groups.map((group) => (group === busy ? host : group)));
}

/** @throws UserError for a length that is none, or that no group can hold: with the numbers, and what would help */
export function checkBatch(lengths: readonly number[], model: CostModel): void {
  const widest = model.degrees.reduce((a, b) => (b.capacity > a.capacity ? b : a), {
    degree: 0,
    capacity: -1,
  });
  if (widest.degree === 0)
    throw new UserError(`${model.name}: no degree is allowed on ${model.ranks} ranks`, 'lower --min-degree');
  lengths.forEach((length, index) => {
    if (!Number.isSafeInteger(length) || length < 0)
      throw new UserError(
        `sequence ${index}: ${length} is not a length`,
        'lengths are whole numbers of tokens',
      );
    if (length <= widest.capacity) return;
    const perRank = widest.capacity / widest.degree;
    const gib = (model.memoryBytes(widest.degree, length) - model.memoryLimitBytes) / 2 ** 30;
    throw new UserError(
      `sequence ${index} has ${length} tokens, the largest group (degree ${widest.degree}) holds ${widest.capacity}`,
      `it needs a degree of ${Math.ceil(length / Math.max(perRank, 1e-9))}` +
        (gib > 0 ? `, or ${gib.toFixed(1)} GiB more on every rank` : '') +
        `; or cut sequences to ${widest.capacity} tokens (--long split)`,
    );
  });
}
