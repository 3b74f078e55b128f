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
  { readonly how: 'slow'; readonly ms: number } | { readonly how: 'exit' | 'throw'; readonly batch: number };

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
  readonly degrees: readonly { readonly degree: number; readonly capacity: number }[];
  readonly memoryLimitBytes: number;
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
