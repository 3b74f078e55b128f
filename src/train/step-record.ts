import { z } from 'zod';
import type { Document } from '../runtime/data/document.js';
import type { MicroBatchTime } from '../runtime/session/protocol.js';
import type { BatchPlan } from './spreader.js';

const count = z.number().int().nonnegative();

const groupSchema = z.object({
  /** World ranks. */
  ranks: z.array(count).min(1).max(65_536),
  degree: count,
  tokens: count,
  /** Places in the batch. */
  documents: z.array(count),
  predicted_ms: z.number(),
  /** Its train program, where the package has several. */
  program: z.string().max(100).optional(),
  /** Planned peak of the fullest rank; where a planner chose the groups. */
  peak_bytes: z.number().optional(),
});

/** A micro-batch of a step as `metrics.jsonl` keeps it: enough to repeat it. */
export const microBatchSchema = z.object({
  groups: z.array(groupSchema),
  predicted_ms: z.number(),
  /** Of the rank that took longest; on a core, where the system says. */
  ms: z.number(),
  cpu_ms: z.number().optional(),
});

/** The search for a plan. */
export const solvedSchema = z.object({
  solver: z.string().max(100),
  solve_ms: z.number(),
  moves: z.number(),
  /** The wall clock ended the search. */
  cut_short: z.boolean(),
  /** What the planner minimised: micro-batches one after the other, each as long as its slowest group. */
  objective_ms: z.number().optional(),
  /** No plan takes less; this one at most so much more, as a share. */
  bound_ms: z.number().optional(),
  gap: z.number().optional(),
  /** Taken from the record of an earlier run of this step. */
  replayed: z.boolean(),
});

export type MicroBatchRecord = Readonly<z.infer<typeof microBatchSchema>>;
export type SolvedRecord = Readonly<z.infer<typeof solvedSchema>>;

/** A hundredth of a millisecond is all that a reader needs. */
export const rounded = (ms: number): number => Math.round(1000 * ms) / 1000;

/** @param times of the micro-batches, as measured */
export function recordMicroBatches(
  { microBatches, predicted, solved }: BatchPlan,
  documents: readonly Document[],
  times: readonly MicroBatchTime[],
): readonly MicroBatchRecord[] {
  const places = new Map(documents.map((document, index) => [document, index]));
  return microBatches.map(({ lanes }, m) => {
    const { ms, laneMs } = predicted.microBatches[m]!;
    const time = times[m]!;
    return {
      groups: lanes.map(({ ranks, documents: own, program }, lane) => ({
        ranks: [...ranks],
        degree: ranks.length,
        tokens: own.reduce((sum, { ids }) => sum + ids.length, 0),
        documents: own.map((document) => places.get(document)!),
        predicted_ms: rounded(laneMs[lane]!),
        ...(program === undefined ? {} : { program }),
        ...(solved?.peakBytes === undefined ? {} : { peak_bytes: solved.peakBytes[m]![lane]! }),
      })),
      predicted_ms: rounded(ms),
      ms: rounded(time.ms),
      ...(time.cpuMs === undefined ? {} : { cpu_ms: rounded(time.cpuMs) }),
    };
  });
}

export function recordSolved({ solved, predicted }: BatchPlan): SolvedRecord | undefined {
  if (solved === undefined) return undefined;
  const { solver, solveMs, moves, cutShort, boundMs, replayed } = solved;
  return {
    solver,
    solve_ms: rounded(solveMs),
    moves,
    cut_short: cutShort,
    objective_ms: rounded(predicted.objectiveMs),
    ...(boundMs === undefined
      ? {}
      : { bound_ms: rounded(boundMs), gap: Number((predicted.objectiveMs / boundMs - 1).toFixed(6)) }),
    replayed,
  };
}
