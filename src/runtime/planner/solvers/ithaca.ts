import { invariant } from '../../../errors.js';
import { restrictDegrees, type CostModel } from '../cost.js';
import { byMs, shapesOf, type Draft } from '../search/draft.js';
import { bestOfOneDegree } from '../search/homogeneous.js';
import { makeItems, type Items } from '../search/items.js';
import { race } from '../search/race.js';
import { searchRandom } from '../search/random.js';
import { startPlans } from '../search/start.js';
import { degreeTables, type DegreeTables } from '../search/tables.js';
import { solveWith, type Found, type SolveOptions, type Solver } from '../solver.js';

/** Sequences that are moved one by one, for every rank; more are bundled. */
const ITEMS_PER_RANK = 24;

/**
 * First plans by packing, then a race of annealed ruin-and-recreate searches. Never worse than the best plan of one
 * degree: unless its work alone takes longer, that is among the first. Deterministic for a batch, a seed and a budget
 * of moves, unless the wall clock cuts it short.
 */
export const ithacaSolver: Solver = {
  name: 'ithaca',
  solve: (lengths, model, options = {}) =>
    solveWith('ithaca', lengths, model, (level, own) => findPlan(own, level, options)),
};

function findPlan(lengths: readonly number[], model: CostModel, options: SolveOptions): Found {
  const { seed = 0, limitMs = 60_000 } = options;
  const deadline = performance.now() + limitMs;
  const tables = degreeTables(model);
  const items = makeItems(
    lengths,
    model,
    ITEMS_PER_RANK * model.ranks + 256,
    (model.degrees[0]?.capacity ?? 1) / 16,
  );
  if (items.count === 0) return { shapes: [] };
  const { moves = defaultMoves(items.count) } = options;
  let cutShort = false;
  const stop = (): boolean => (cutShort ||= performance.now() > deadline);
  const starts = [...(moves === 0 ? [] : firstPlans(model, tables, items, stop))];
  const complete = starts.filter(({ left }) => left === 0).sort(byMs)[0];
  const simple = bestOfOneDegree(tables, items, complete?.ms);
  if (simple !== undefined) starts.push(simple);
  const first = simple ?? complete;
  invariant(first !== undefined, 'one sequence a group always is a plan');
  const raced =
    moves === 0
      ? { best: undefined, moves: 0 }
      : race(tables, items, starts, {
          moves,
          random: searchRandom(seed, items.count),
          window: Math.max(24, Math.floor(6144 / model.ranks)),
          stop,
        });
  const best = raced.best !== undefined && raced.best.ms < first.ms ? raced.best : first;
  return { shapes: shapesOf(best, items, model), moves: raced.moves, cutShort };
}

/**
 * First plans are close to what annealing makes of them: more moves than this gain a few tenths of a per cent. Enough
 * for less than 0.1 s at 512 sequences on 64 ranks, in a process that has planned nothing yet.
 */
const defaultMoves = (items: number): number => Math.max(5000, Math.min(40_000, 8 * items));

/**
 * First plans from all degrees, and from powers of two alone where there are others: those fill nodes without a rest,
 * which packing by time does not see.
 */
function firstPlans(
  model: CostModel,
  tables: DegreeTables,
  items: Items,
  stop: () => boolean,
): readonly Draft[] {
  const all = startPlans(tables, items, { stop });
  const even = restrictDegrees(model, { powersOfTwo: true });
  const widest = even.degrees.reduce((most, cost) => Math.max(most, cost.capacity), 0);
  if (even.degrees.length === model.degrees.length || widest < items.tokens[0]!) return all;
  const columns = even.degrees.map((cost) => model.degrees.indexOf(cost));
  const restricted = startPlans(degreeTables(even), items, { stop }).map((start): Draft => ({
    ...start,
    column: Array.from(start.column, (column) => columns[column]!),
  }));
  return [...all, ...restricted].sort(byMs);
}
