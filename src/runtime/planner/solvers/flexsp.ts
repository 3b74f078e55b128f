import type { CostModel } from '../cost.js';
import { openProgramSolver, type ProgramSolver } from '../highs/client.js';
import { buildProgram, type LinearProgram, type Term } from '../highs/program.js';
import { chunkItems } from '../search/chunk.js';
import { shapesOf, type Draft } from '../search/draft.js';
import { balancedPlan, bestOfOneDegree } from '../search/homogeneous.js';
import { allItems, makeItems, type Items } from '../search/items.js';
import { degreeTables, loadMs, type DegreeTables } from '../search/tables.js';
import { solveLater, type Found, type SolveOptions, type Solver } from '../solver.js';
import { bucketItems, type Bucket } from './buckets.js';

const BUCKETS = 16;
/** Numbers of micro-batches tried: the fewest that memory allows, and as many more less one. */
const TRIES = 5;

type Groups = readonly { readonly column: number; readonly held: readonly number[] }[];

/**
 * FlexSP's formulation (arXiv 2412.01523) on HiGHS, for comparison: for several numbers of micro-batches, longest
 * sequences first, one mixed-integer programme each micro-batch over 16 buckets of lengths. `limitMs` limits one
 * programme (the paper: 10 s); one after the other on one thread they take minutes, where the paper uses a process
 * each. A programme without a solution falls back to one degree.
 */
export const createFlexSpSolver = (open: () => ProgramSolver = openProgramSolver): Solver => ({
  name: 'flexsp',
  solve: (all, merged, options = {}) =>
    solveLater('flexsp', all, merged, async (model, lengths) => {
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
  const all = allItems(items);
  const perRank = model.degrees.reduce((most, cost) => Math.max(most, cost.capacity / cost.degree), 0);
  const tokens = items.tokens.reduce((a, b) => a + b, 0);
  const least = Math.max(1, Math.ceil(tokens / (perRank * model.ranks)));
  let best: { groups: readonly Groups[]; ms: number } | undefined;
  let [programs, cutShort] = [0, false];
  for (let count = least, tried = 0; tried < TRIES && count <= least + TRIES + 8; count++) {
    let ms = 0;
    const groups: Groups[] = [];
    for (const list of chunkItems(items.tokens, all, count)) {
      const run = Array.from(list);
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
  return {
    shapes: shapesOf(draftOf(fallback, items, best?.ms ?? 0), items, model),
    moves: programs,
    cutShort,
  };
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
    sequences: new Int32Array(0),
    first: new Int32Array(0),
  };
  let best: Draft | undefined;
  for (let column = 0; column < tables.size.length; column++) {
    const draft = balancedPlan(tables, part, column);
    if (draft?.microBatches === 1 && (best === undefined || draft.ms < best.ms)) best = draft;
  }
  if (best === undefined) return undefined;
  const [groups] = groupsOf(best);
  return groups?.map(({ column, held }) => ({ column, held: held.map((i) => run[i]!) }));
}

const oneDegreePlan = (tables: DegreeTables, items: Items): readonly Groups[] => {
  const best = bestOfOneDegree(tables, items);
  return best === undefined ? [] : groupsOf(best);
};

/** Groups that hold something, by micro-batch. */
function groupsOf({ microBatches, column, microBatch, groupOf }: Draft): readonly Groups[] {
  const held: number[][] = Array.from(column, () => []);
  groupOf.forEach((group, item) => held[group]!.push(item));
  return Array.from({ length: microBatches }, (_, m) =>
    held.flatMap((list, g) =>
      microBatch[g] === m && list.length > 0 ? [{ column: column[g]!, held: list }] : [],
    ),
  );
}

function draftOf(plan: readonly Groups[], items: Items, ms: number): Draft {
  const groupOf = new Int32Array(items.count).fill(-1);
  const [column, microBatch]: [number[], number[]] = [[], []];
  plan.forEach((groups, m) => {
    for (const group of groups) {
      for (const item of group.held) groupOf[item] = column.length;
      column.push(group.column);
      microBatch.push(m);
    }
  });
  return { microBatches: plan.length, column, microBatch, groupOf, left: 0, ms };
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
