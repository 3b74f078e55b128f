import type { CostModel } from '../cost.js';
import { openProgramSolver, type ProgramSolver } from '../highs/client.js';
import { buildProgram, type LinearProgram, type Term } from '../highs/program.js';
import { chunkItems } from '../search/chunk.js';
import { balancedPlan } from '../search/homogeneous.js';
import { makeItems, type Items } from '../search/items.js';
import { shapesOf } from '../search/shapes.js';
import type { Start } from '../search/start.js';
import { degreeTables, loadMs, type DegreeTables } from '../search/tables.js';
import { solveLater, type Found, type SolveOptions, type Solver } from '../solver.js';
import { bucketItems, type Bucket } from './buckets.js';

const BUCKETS = 16;
/** Numbers of micro-batches tried: the fewest that memory allows, and as many more less one. */
const TRIES = 5;

type Groups = Start['microBatches'][number];

/**
 * FlexSP's formulation (arXiv 2412.01523) on HiGHS, for comparison: for several numbers of micro-batches, longest
 * sequences first, one mixed-integer programme each micro-batch over 16 buckets of lengths. `limitMs` limits one
 * programme (the paper: 10 s); one after the other on one thread they take minutes, where the paper uses a process
 * each. A programme without a solution falls back to one degree.
 */
export const createFlexSpSolver = (open: () => ProgramSolver = openProgramSolver): Solver => ({
  name: 'flexsp',
  solve: (lengths, model, options = {}) =>
    solveLater('flexsp', lengths, model, async () => {
      const solver = open();
      try {
        return await findPlan(lengths, model, options, solver);
      } finally {
        await solver.close();
      }
    }),
});

export const flexSpSolver: Solver = createFlexSpSolver();

async function findPlan(
  lengths: readonly number[],
  model: CostModel,
  { limitMs = 10_000, seed }: SolveOptions,
  solver: ProgramSolver,
): Promise<Found> {
  const tables = degreeTables(model);
  const items = makeItems(lengths, model, Infinity, 0);
  if (items.count === 0) return { shapes: [] };
  const all = Array.from({ length: items.count }, (_, i) => i);
  const perRank = model.degrees.reduce((most, cost) => Math.max(most, cost.capacity / cost.degree), 0);
  const tokens = items.tokens.reduce((a, b) => a + b, 0);
  const least = Math.max(1, Math.ceil(tokens / (perRank * model.ranks)));
  let best: { groups: readonly Groups[]; ms: number } | undefined;
  let [programs, cutShort] = [0, false];
  for (let count = least, tried = 0; tried < TRIES && count <= least + TRIES + 8; count++) {
    let ms = 0;
    const groups: Groups[] = [];
    for (const run of chunkItems(items, all, count)) {
      const start = oneDegree(tables, items, run);
      const buckets = bucketItems(items, run, BUCKETS);
      const slots = slotsOf(tables);
      const program = microBatchProgram(tables, buckets, slots);
      const result = await solver.solve(program, {
        limitMs,
        seed,
        start: startValues(tables, items, start, buckets, slots),
      });
      programs++;
      cutShort ||= result.status === 'limit';
      const found = result.values.length > 0 ? dealOut(buckets, slots, result.values) : undefined;
      const candidates = [found, start].filter((one): one is Groups => one !== undefined);
      if (candidates.length === 0) break;
      const shortest = candidates.reduce((a, b) =>
        slowest(tables, items, b) < slowest(tables, items, a) ? b : a,
      );
      groups.push(shortest);
      ms += model.microBatchMs + slowest(tables, items, shortest);
    }
    if (groups.length < Math.min(count, items.count)) continue;
    tried++;
    if (best === undefined || ms < best.ms) best = { groups, ms };
  }
  const fallback = best === undefined ? oneDegreePlan(tables, items) : best.groups;
  return { shapes: shapesOf(fallback, items, model), moves: programs, cutShort };
}

/** `[slot]` → column: as many groups of every degree as fit. */
const slotsOf = ({ size, ranks }: DegreeTables): readonly number[] =>
  Array.from(size).flatMap((d, k) => Array.from({ length: Math.floor(ranks / d) }, () => k));

/**
 * Columns: the slowest group's time; then for every slot whether it is used and how many items of every bucket it
 * takes. Rows as in section 4.1 of the paper.
 */
function microBatchProgram(
  tables: DegreeTables,
  buckets: readonly Bucket[],
  slots: readonly number[],
): LinearProgram {
  const builder = buildProgram();
  const time = builder.column({ cost: 1 });
  const ranks: Term[] = [];
  const placed: Term[][] = buckets.map(() => []);
  for (const k of slots) {
    const used = builder.column({ upper: 1, integer: true });
    const load: Term[] = [[time, -1]];
    const memory: Term[] = [[used, -tables.capacity[k]!]];
    buckets.forEach((bucket, q) => {
      const fits = bucket.tokens <= tables.capacity[k]!;
      const taken = builder.column({ upper: fits ? bucket.items.length : 0, integer: true });
      load.push([taken, loadMs(tables, k, bucket.tokens, bucket.pairs)]);
      memory.push([taken, bucket.tokens]);
      placed[q]!.push([taken, 1]);
    });
    ranks.push([used, tables.size[k]!]);
    builder.row(-Infinity, 0, load);
    builder.row(-Infinity, 0, memory);
  }
  builder.row(-Infinity, tables.ranks, ranks);
  buckets.forEach((bucket, q) => builder.row(bucket.items.length, bucket.items.length, placed[q]!));
  return builder.build();
}

/** Column of slot g's use; its buckets follow. */
const columnOf = (slot: number, buckets: readonly Bucket[]): number => 1 + slot * (buckets.length + 1);

/** Hands the items of every bucket, longest first, to the groups that take some of it. */
function dealOut(buckets: readonly Bucket[], slots: readonly number[], values: readonly number[]): Groups {
  const next = buckets.map(() => 0);
  return slots
    .map((column, g) => ({
      column,
      held: buckets.flatMap((bucket, q) => {
        const take = Math.round(values[columnOf(g, buckets) + 1 + q]!);
        const from = next[q]!;
        next[q] = from + take;
        return bucket.items.slice(from, from + take);
      }),
    }))
    .filter((group) => group.held.length > 0);
}

/** The best plan of one degree for one micro-batch: the start that FlexSP gives its solver. */
function oneDegree(tables: DegreeTables, items: Items, run: readonly number[]): Groups | undefined {
  const part: Items = {
    count: run.length,
    tokens: Float64Array.from(run, (item) => items.tokens[item]!),
    pairs: Float64Array.from(run, (item) => items.pairs[item]!),
    sequences: [],
  };
  let best: Start | undefined;
  for (let column = 0; column < tables.size.length; column++) {
    const start = balancedPlan(tables, part, column);
    if (start?.microBatches.length === 1 && (best === undefined || start.ms < best.ms)) best = start;
  }
  return best?.microBatches[0]?.map(({ column, held }) => ({ column, held: held.map((i) => run[i]!) }));
}

function oneDegreePlan(tables: DegreeTables, items: Items): readonly Groups[] {
  const plans = Array.from(tables.size.keys(), (column) => balancedPlan(tables, items, column));
  return plans.filter((plan) => plan !== undefined).sort((a, b) => a.ms - b.ms)[0]?.microBatches ?? [];
}

function startValues(
  tables: DegreeTables,
  items: Items,
  start: Groups | undefined,
  buckets: readonly Bucket[],
  slots: readonly number[],
): readonly number[] | undefined {
  if (start === undefined) return undefined;
  const values: number[] = Array.from({ length: columnOf(slots.length, buckets) }, () => 0);
  const bucketOf = new Map(buckets.flatMap((bucket, q) => bucket.items.map((item) => [item, q] as const)));
  const first = slots.indexOf(start[0]!.column);
  start.forEach(({ held, column }, i) => {
    const at = columnOf(first + i, buckets);
    let load = 0;
    values[at] = 1;
    for (const item of held) {
      const q = bucketOf.get(item)!;
      values[at + 1 + q]!++;
      load += loadMs(tables, column, buckets[q]!.tokens, buckets[q]!.pairs);
    }
    values[0] = Math.max(values[0]!, load);
  });
  return values;
}

function slowest(tables: DegreeTables, items: Items, groups: Groups): number {
  let most = 0;
  for (const { column, held } of groups) {
    let [tokens, pairs] = [0, 0];
    for (const item of held) {
      tokens += items.tokens[item]!;
      pairs += items.pairs[item]!;
    }
    most = Math.max(most, loadMs(tables, column, tokens, pairs));
  }
  return most;
}
