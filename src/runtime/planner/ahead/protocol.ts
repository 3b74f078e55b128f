import type { CostModel } from '../cost.js';
import type { StepPlan } from '../plan.js';
import type { CostChoices } from './cost.js';

/** What the planning thread is born with (its `workerData`). */
export interface PlannerData extends CostChoices {
  /** The package, which the main thread has opened and checked. */
  readonly directory: string;
  readonly hash: string;
  /** The same batch and seed give the same plan. */
  readonly seed: number;
  /** For tests. */
  readonly fault?: PlannerFault | undefined;
}

/** A failure made on purpose. `batch`: number of the request, from 0. */
export type PlannerFault =
  | { readonly how: 'slow'; readonly batch: number; readonly ms: number }
  | { readonly how: 'exit' | 'throw'; readonly batch: number };

export interface ToPlanner {
  readonly id: number;
  /** Tokens of each document of the batch. */
  readonly lengths: readonly number[];
}

export type FromPlanner =
  | { readonly type: 'ready'; readonly room: Room }
  | { readonly type: 'refused'; readonly message: string; readonly hint: string | undefined }
  | { readonly type: 'planned'; readonly id: number; readonly batch: PlannedBatch }
  /** The batch is one that no plan can hold. */
  | {
      readonly type: 'impossible';
      readonly id: number;
      readonly message: string;
      readonly hint: string | undefined;
    }
  | { readonly type: 'failed'; readonly id: number; readonly message: string };

/** Most tokens that groups hold, by degree. */
export interface Room {
  readonly degrees: readonly RoomOfDegree[];
  readonly memoryLimitBytes: number;
}

export interface RoomOfDegree {
  readonly degree: number;
  readonly capacity: number;
  /** Under each checkpointing policy, from the fastest, where the package offers several. */
  readonly levels?: readonly { readonly program: string; readonly capacity: number }[];
}

/** What a model says of memory, without its functions. */
export const roomOfModel = ({ degrees, memoryLimitBytes }: CostModel): Room => ({
  degrees: degrees.map(({ degree, capacity, levels }) => ({
    degree,
    capacity,
    ...(levels && { levels: levels.map((level) => ({ program: level.program, capacity: level.capacity })) }),
  })),
  memoryLimitBytes,
});

/** The train program of a group: the fastest that holds its tokens. */
export function programOf(room: Room | undefined, degree: number, tokens: number): string | undefined {
  const { levels } = room?.degrees.find((one) => one.degree === degree) ?? {};
  return (levels?.find(({ capacity }) => tokens <= capacity) ?? levels?.at(-1))?.program;
}

/** A plan of one global batch, checked. */
export interface PlannedBatch {
  readonly solver: string;
  readonly plan: StepPlan;
  /** Of the fullest rank of each group: `[microBatch][group]`. */
  readonly peakBytes: readonly (readonly number[])[];
  /** No plan takes less, by the cost model. */
  readonly boundMs: number;
  readonly solveMs: number;
  readonly moves: number;
  /** The wall clock ended the search: the plan depends on the machine. */
  readonly cutShort: boolean;
}
