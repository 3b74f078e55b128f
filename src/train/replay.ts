import { z } from 'zod';
import type { Document } from '../runtime/data/document.js';
import type { Room } from '../runtime/planner/ahead/protocol.js';
import { checkPlan } from '../runtime/planner/check.js';
import type { CostModel } from '../runtime/planner/cost.js';
import type { StepPlan } from '../runtime/planner/plan.js';
import { bindPlan } from './auto.js';
import { predictStep } from './prediction.js';
import type { BatchPlan } from './spreader.js';
import { microBatchSchema, solvedSchema } from './step-record.js';

const lineSchema = z.object({
  step: z.number().int().positive(),
  micro_batches: z.array(microBatchSchema),
  plan: solvedSchema,
});

/** A step as an earlier run of it was planned. */
export type RecordedStep = Readonly<z.infer<typeof lineSchema>>;

/** What a line of `metrics.jsonl` says of its plan; undefined if no planner made it, or it is not such a line. */
export function readRecordedStep(json: unknown): RecordedStep | undefined {
  const parsed = lineSchema.safeParse(json);
  return parsed.success ? parsed.data : undefined;
}

/**
 * The recorded plan for the documents of the same step, so that a run that goes on from a checkpoint repeats what was
 * done after it, whatever the planner would say today.
 * @returns undefined unless the plan is one of this very batch that may run: the file is a stranger's
 */
export function replayPlan(
  { micro_batches, plan: solved }: RecordedStep,
  documents: readonly Document[],
  times: CostModel,
  room: Room,
): BatchPlan | undefined {
  const lengths = documents.map(({ ids }) => ids.length);
  const plan: StepPlan = {
    microBatches: micro_batches.map(({ groups }) => ({
      groups: groups.map(({ ranks, documents: sequences }) => ({
        degree: ranks.length,
        ranks,
        sequences,
      })),
    })),
  };
  const isOfBatch = micro_batches.every(({ groups }) =>
    groups.every(
      ({ tokens, documents: own }) => own.reduce((sum, index) => sum + (lengths[index] ?? NaN), 0) === tokens,
    ),
  );
  const capacities = new Map(room.degrees.map(({ degree, capacity }) => [degree, capacity]));
  const model: CostModel = {
    ...times,
    degrees: times.degrees
      .filter(({ degree }) => capacities.has(degree))
      .map((cost) => ({ ...cost, capacity: capacities.get(cost.degree)! })),
    // Capacities are the limit, in tokens.
    memoryBytes: () => 0,
  };
  if (!isOfBatch || checkPlan(plan, lengths, model).length > 0) return undefined;
  const microBatches = bindPlan(plan, documents, room);
  return {
    microBatches,
    predicted: predictStep(microBatches, times),
    solved: {
      solver: solved.solver,
      solveMs: solved.solve_ms,
      moves: solved.moves,
      cutShort: solved.cut_short,
      boundMs: solved.bound_ms,
      peakBytes: peaksOf(micro_batches),
      replayed: true,
    },
  };
}

function peaksOf(recorded: RecordedStep['micro_batches']): readonly (readonly number[])[] | undefined {
  const peaks = recorded.map(({ groups }) => groups.flatMap(({ peak_bytes: bytes }) => bytes ?? []));
  return peaks.every((row, m) => row.length === recorded[m]!.groups.length) ? peaks : undefined;
}
