import { setImmediate } from 'node:timers/promises';
import { invariant, UserError } from '../../../errors.js';
import { searchBound } from '../bound/bound.js';
import { quickBound } from '../bound/quick.js';
import { checkPlan } from '../check.js';
import { exposedExchangeMs, restrictDegrees, type CostModel } from '../cost.js';
import { openProgramSolver, type ProgramSolver } from '../highs/client.js';
import { groupLoad } from '../plan.js';
import type { Solution, Solver } from '../solver.js';
import { createFlexSpSolver } from '../solvers/flexsp.js';
import { staticSolver } from '../solvers/homogeneous.js';
import { findSolver } from '../solvers/index.js';

export interface SimulateOptions {
  /** Solvers by name. */
  readonly solvers: readonly string[];
  /** Longest sequence of the run: `static` chooses among the degrees that hold it. */
  readonly longest: number;
  readonly seed?: number;
  /** Limit of one of FlexSP's programmes. Default: the paper's 10 s. */
  readonly flexSpMs?: number;
  /** Time to search for each batch's bound; default: one that takes no time. */
  readonly boundMs?: number;
  /** Ends the run after what is under way; what is done counts. */
  readonly signal?: AbortSignal;
  /** Before each solve. */
  readonly onSolve?: (batch: number, solver: string) => void;
}

/** How one solver did on one batch. */
interface Measured {
  readonly stepMs: number;
  /** Shares of the ranks' time that no sequence uses, and in which they only exchange: 0 … 1. */
  readonly idle: number;
  readonly exchange: number;
  readonly solveMs: number;
  readonly cutShort: boolean;
}

/** A solver over the batches that count. Shares are means. */
export interface SimulatedSolver {
  readonly solver: string;
  readonly stepMs: number;
  /** Time of `static` over this; undefined if it is not among the solvers. */
  readonly speedUp: number | undefined;
  readonly idle: number;
  readonly exchange: number;
  readonly solveMs: { readonly median: number; readonly max: number };
  /** Mean step over mean bound, less one: at most this much longer than the best plans. */
  readonly gap: number;
  /** Batches whose plan the clock cut short. */
  readonly cutShort: number;
  /** Of `static`. */
  readonly degree?: number;
}

export interface Simulated {
  /** Batches that every solver finished; if there is none, the first one counts for those that did. */
  readonly batches: number;
  readonly boundMs: number;
  readonly solvers: readonly SimulatedSolver[];
}

/**
 * Plans batches with several solvers and prices every plan. All solvers plan a batch before the next one begins, so
 * that a run that is stopped compares them on the same batches. Plans are held to the independent checker.
 * @throws UserError for sequences that fit no group
 */
export async function simulate(
  batches: readonly (readonly number[])[],
  model: CostModel,
  options: SimulateOptions,
): Promise<Simulated> {
  const { signal, boundMs = 0 } = options;
  refuseLonger(options.longest, model);
  const degree = options.solvers.includes('static') ? await staticDegree(batches, model, options) : undefined;
  const solvers = options.solvers.map((name) => openSolver(name, model, { ...options, degree }));
  const bounder = boundMs > 0 ? openUntil(signal) : undefined;
  const done: Measured[][] = [];
  const bounds: number[] = [];
  let row: Measured[] = [];
  try {
    for (const [index, lengths] of batches.entries()) {
      row = [];
      for (const solver of solvers) {
        await setImmediate();
        if (signal?.aborted === true) break;
        options.onSolve?.(index, solver.name);
        row.push(measure(await solver.solve(lengths), lengths, solver));
      }
      if (row.length < solvers.length) break;
      const knownMs = row.reduce((a, b) => Math.min(a, b.stepMs), Infinity);
      const bound =
        bounder === undefined
          ? quickBound(lengths, model)
          : (await searchBound(lengths, model, bounder, { limitMs: boundMs, knownMs })).ms;
      bounds.push(bound);
      done.push(row);
    }
  } catch (error) {
    // Threads that the signal ended fail; what was done before counts.
    if (signal?.aborted !== true) throw error;
  } finally {
    await bounder?.close();
  }
  if (done.length > 0) return summary(solvers, done, mean(bounds), degree);
  // Stopped in the first batch: the solvers that did plan it.
  return summary(
    solvers.slice(0, row.length),
    row.length > 0 ? [row] : [],
    quickBound(batches[0] ?? [], model),
    degree,
  );
}

interface OpenSolver {
  readonly name: string;
  readonly model: CostModel;
  solve(lengths: readonly number[]): Solution | Promise<Solution>;
}

/** FlexSP plans with the degrees it was published with: powers of two from 2 up. */
function openSolver(
  name: string,
  model: CostModel,
  { degree, flexSpMs, seed, longest, signal }: SimulateOptions & { readonly degree?: number },
): OpenSolver {
  if (name !== 'flexsp') {
    const solver: Solver = findSolver(name);
    const options = name === 'static' ? { degree } : { seed, longest };
    return { name, model, solve: (lengths) => solver.solve(lengths, model, options) };
  }
  const published = restrictDegrees(model, { minDegree: 2, powersOfTwo: true });
  const own = published.degrees.some(({ capacity }) => capacity >= longest) ? published : model;
  const solver = createFlexSpSolver(() => openUntil(signal));
  return { name, model: own, solve: (lengths) => solver.solve(lengths, own, { limitMs: flexSpMs, seed }) };
}

function openUntil(signal: AbortSignal | undefined): ProgramSolver {
  const solver = openProgramSolver();
  const end = (): void => void solver.close();
  if (signal?.aborted === true) end();
  signal?.addEventListener('abort', end, { once: true });
  return {
    solve: solver.solve,
    close: () => {
      signal?.removeEventListener('abort', end);
      return solver.close();
    },
  };
}

function refuseLonger(longest: number, model: CostModel): void {
  const widest = model.degrees.reduce((most, cost) => Math.max(most, cost.capacity), 0);
  if (longest > widest)
    throw new UserError(
      `groups of ${model.ranks} ranks hold at most ${widest} tokens, the longest sequence has ${longest}`,
      `leave out longer sequences with --context ${widest}, or use more ranks`,
    );
}

/** The degree that takes least for all batches, of those that hold the longest sequence: static for the whole run. */
async function staticDegree(
  batches: readonly (readonly number[])[],
  model: CostModel,
  { longest, signal, onSolve }: SimulateOptions,
): Promise<number | undefined> {
  let best: { degree: number; ms: number } | undefined;
  for (const { degree, capacity } of model.degrees) {
    if (capacity < longest) continue;
    let ms = 0;
    for (const [index, lengths] of batches.entries()) {
      await setImmediate();
      if (signal?.aborted === true) return undefined;
      onSolve?.(index, `static, degree ${degree}`);
      ms += (await staticSolver.solve(lengths, model, { degree })).times.stepMs;
      if (ms >= (best?.ms ?? Infinity)) break;
    }
    if (ms < (best?.ms ?? Infinity)) best = { degree, ms };
  }
  return best?.degree;
}

function measure(
  { plan, times, solveMs, cutShort }: Solution,
  lengths: readonly number[],
  { name, model }: OpenSolver,
): Measured {
  const [first] = checkPlan(plan, lengths, model);
  invariant(first === undefined, `the plan of ${name} is wrong: ${first?.message}`);
  const costs = new Map(model.degrees.map((cost) => [cost.degree, cost]));
  let [busy, exchange] = [0, 0];
  plan.microBatches.forEach(({ groups }, m) =>
    groups.forEach(({ degree, sequences }, g) => {
      const cost = costs.get(degree);
      if (cost === undefined || sequences.length === 0) return;
      const { tokens, pairs } = groupLoad(sequences, lengths, model);
      busy += degree * (times.groupMs[m]?.[g] ?? 0);
      if (tokens > 0) exchange += degree * exposedExchangeMs(cost, tokens, pairs);
    }),
  );
  return {
    stepMs: times.stepMs,
    idle: times.idle,
    exchange: busy > 0 ? exchange / busy : 0,
    solveMs,
    cutShort,
  };
}

function summary(
  solvers: readonly OpenSolver[],
  done: readonly (readonly Measured[])[],
  boundMs: number,
  degree: number | undefined,
): Simulated {
  const columns = solvers.map(({ name }, s) => ({ name, rows: done.map((row) => row[s]!) }));
  const stepOf = (rows: readonly Measured[]): number => mean(rows.map(({ stepMs }) => stepMs));
  const reference = columns.find(({ name }) => name === 'static');
  return {
    batches: done.length,
    boundMs,
    solvers: columns.map(({ name, rows }): SimulatedSolver => {
      const times = rows.map(({ solveMs }) => solveMs);
      const stepMs = stepOf(rows);
      return {
        solver: name,
        stepMs,
        speedUp: reference === undefined ? undefined : stepOf(reference.rows) / stepMs,
        idle: mean(rows.map(({ idle }) => idle)),
        exchange: mean(rows.map(({ exchange }) => exchange)),
        solveMs: { median: median(times), max: times.reduce((a, b) => Math.max(a, b), 0) },
        gap: boundMs > 0 ? stepMs / boundMs - 1 : 0,
        cutShort: rows.filter((row) => row.cutShort).length,
        ...(name === 'static' ? { degree } : {}),
      };
    }),
  };
}

function median(list: readonly number[]): number {
  const sorted = list.toSorted((a, b) => a - b);
  const [low, high] = [sorted[(sorted.length - 1) >> 1] ?? 0, sorted[sorted.length >> 1] ?? 0];
  return (low + high) / 2;
}

const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / Math.max(1, list.length);
