import { invariant } from '../../../errors.js';
import { createRandom } from '../../data/random.js';
import { restrictDegrees, type CostModel } from '../cost.js';
import { balancedPlan, packedPlan } from '../search/homogeneous.js';
import { makeItems, type Items } from '../search/items.js';
import { race } from '../search/race.js';
import { shapesOf } from '../search/shapes.js';
import { startPlans, type Start } from '../search/start.js';
import { degreeTables, type DegreeTables } from '../search/tables.js';
import { solveWith, type Found, type SolveOptions, type Solver } from '../solver.js';

/** Sequences that are moved one by one, for every rank; more are bundled. */
const ITEMS_PER_RANK = 24;

/**
 * First plans by packing, then a race of annealed ruin-and-recreate searches. Never worse than the best plan of one
 * degree, because those plans are among the first. Deterministic for a batch, a seed and a budget of moves, unless
 * the wall clock cuts it short.
 */
export const ithacaSolver: Solver = {
  name: 'ithaca',
  solve: (lengths, model, options = {}) =>
    solveWith('ithaca', lengths, model, () => findPlan(lengths, model, options)),
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
  const simple = homogeneousStarts(tables, items);
  const starts = moves === 0 ? [] : firstPlans(model, tables, items);
  const complete = [...starts, ...simple].filter((start) => start.left.length === 0);
  const first = complete.reduce<Start | undefined>(
    (a, b) => (a === undefined || b.ms < a.ms ? b : a),
    undefined,
  );
  let cutShort = false;
  const stop = (): boolean => (cutShort ||= performance.now() > deadline);
  const raced = race(tables, items, [...starts, ...simple.slice(0, 1)], {
    moves,
    random: createRandom(seed, items.count),
    window: Math.max(24, Math.floor(6144 / model.ranks)),
    stop,
  });
  const better = raced.best !== undefined && raced.best.objective < (first?.ms ?? Infinity);
  const chosen = better ? raced.best?.microBatches : first?.microBatches;
  invariant(chosen !== undefined, 'one sequence a group always is a plan');
  return { shapes: shapesOf(chosen, items, model), moves: raced.moves, cutShort };
}

/** Enough for about 0.1 s at 512 sequences on 64 ranks. */
const defaultMoves = (items: number): number => Math.max(40_000, Math.min(120_000, 64 * items));

/**
 * First plans from all degrees, and from powers of two alone where there are others: those fill nodes without a rest,
 * which packing by time does not see.
 */
function firstPlans(model: CostModel, tables: DegreeTables, items: Items): readonly Start[] {
  const all = startPlans(tables, items);
  const even = restrictDegrees(model, { powersOfTwo: true });
  const widest = even.degrees.reduce((most, cost) => Math.max(most, cost.capacity), 0);
  if (even.degrees.length === model.degrees.length || widest < items.tokens[0]!) return all;
  const columns = even.degrees.map((cost) => model.degrees.indexOf(cost));
  const restricted = startPlans(degreeTables(even), items).map((start): Start => ({
    ...start,
    microBatches: start.microBatches.map((groups) =>
      groups.map(({ column, held }) => ({ column: columns[column]!, held })),
    ),
  }));
  return [...all, ...restricted].sort((a, b) => a.left.length - b.left.length || a.ms - b.ms);
}

/** Plans of one degree, best first. */
function homogeneousStarts(tables: DegreeTables, items: Items): readonly Start[] {
  const starts: Start[] = [];
  for (let column = 0; column < tables.size.length; column++)
    for (const plan of [balancedPlan, packedPlan]) {
      const start = plan(tables, items, column);
      if (start !== undefined) starts.push(start);
    }
  return starts.sort((a, b) => a.ms - b.ms);
}
