import { groupMs, type CostModel } from './cost.js';
import { groupLoad, type StepPlan } from './plan.js';

/** What the ranks of a group have to do in a micro-batch. */
export interface Load {
  /** World ranks. */
  readonly ranks: readonly number[];
  /** Sums over the sequences of the group. */
  readonly tokens: number;
  readonly pairs: number;
  /** How long it takes, where that is known better than by the degree. */
  readonly ms?: number;
}

/** The loads of a plan: `[microBatch][group]`. */
export const loadsOf = (plan: StepPlan, lengths: readonly number[], model: CostModel): readonly Load[][] =>
  plan.microBatches.map(({ groups }) =>
    groups.map(({ ranks, sequences }) => ({ ranks, ...groupLoad(sequences, lengths, model) })),
  );

/** A group of a micro-batch at work, or waiting for its ranks. */
interface Job {
  readonly ranks: readonly number[];
  readonly workMs: number;
  /** Ranks still busy with an earlier micro-batch. */
  missing: number;
  /** On the clock of work (see below). */
  end: number;
}

/**
 * How long micro-batches take, as the ranks run them: a rank begins its next micro-batch as soon as the ranks of its
 * group are there, without waiting for those of other groups (unless micro-batches end together), and ranks that
 * share cores are faster while others wait. At most `planTimes`, which solvers minimise because it only adds up.
 *
 * Ranks that work advance alike, so there is a clock of work on which every group takes `workMs`; the clock on the
 * wall is slower or faster by how many work.
 */
export function predictStepMs(microBatches: readonly (readonly Load[])[], model: CostModel): number {
  const costs = new Map(model.degrees.map((cost) => [cost.degree, cost]));
  const jobs = microBatches.map((groups) =>
    groups.map(({ ranks, tokens, pairs, ms: known }): Job => {
      const cost = costs.get(ranks.length);
      const ms = known ?? (cost === undefined ? 0 : groupMs(cost, tokens, pairs));
      return { ranks, workMs: model.microBatchMs + ms, missing: ranks.length, end: 0 };
    }),
  );
  const parts = model.lockstep === true ? jobs.map((one) => [one]) : [jobs];
  return parts.reduce((sum, part) => sum + runMs(part, model), model.stepMs);
}

/** Runs micro-batches one after the other on each rank. */
function runMs(jobs: readonly (readonly Job[])[], { ranks, sharing = 1 }: CostModel): number {
  const byRank = jobs.map((groups) => {
    const found = new Map<number, Job>();
    for (const job of groups) for (const rank of job.ranks) found.set(rank, job);
    return found;
  });
  const next = new Int32Array(ranks);
  const working: Job[] = [];
  let [wall, work, active] = [0, 0, 0];
  const arrive = (rank: number): void => {
    const job = byRank[next[rank]!]?.get(rank);
    if (job === undefined || --job.missing > 0) return;
    job.end = work + job.workMs;
    active += job.ranks.length;
    push(working, job);
  };
  for (let rank = 0; rank < ranks; rank++) arrive(rank);
  for (let job = pop(working); job !== undefined; job = pop(working)) {
    wall += (job.end - work) / Math.min(sharing, ranks / active);
    work = job.end;
    active -= job.ranks.length;
    for (const rank of job.ranks) {
      next[rank]!++;
      arrive(rank);
    }
  }
  return wall;
}

/** A binary heap, the job that ends first on top. */
function push(heap: Job[], job: Job): void {
  let at = heap.length;
  heap.push(job);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (heap[parent]!.end <= job.end) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = job;
}

function pop(heap: Job[]): Job | undefined {
  const top = heap[0];
  const last = heap.pop();
  if (last === undefined || heap.length === 0) return top;
  let at = 0;
  for (let child = 1; child < heap.length; child = 2 * at + 1) {
    if (child + 1 < heap.length && heap[child + 1]!.end < heap[child]!.end) child++;
    if (heap[child]!.end >= last.end) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = last;
  return top;
}
