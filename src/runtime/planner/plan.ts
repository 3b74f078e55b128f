import { groupMs, type CostModel, type DegreeCost } from './cost.js';

/** One sequence-parallel group of a micro-batch. */
export interface PlannedGroup {
  readonly degree: number;
  /** World ranks, ascending and without gaps; as many as the degree. */
  readonly ranks: readonly number[];
  /** Indices into the batch, ascending; none if the ranks only take part in world collectives. */
  readonly sequences: readonly number[];
}

/** A full partition of the ranks, in the order of the ranks. */
export interface MicroBatch {
  readonly groups: readonly PlannedGroup[];
}

/** How one global batch is trained: micro-batches one after the other, groups side by side. */
export interface StepPlan {
  readonly microBatches: readonly MicroBatch[];
}

/** Sums over the sequences of a group. */
export function groupLoad(
  sequences: readonly number[],
  lengths: readonly number[],
  model: CostModel,
): { tokens: number; pairs: number } {
  let [tokens, pairs] = [0, 0];
  for (const index of sequences) {
    const length = lengths[index] ?? 0;
    tokens += length;
    pairs += model.pairs(length);
  }
  return { tokens, pairs };
}

/** Predicted times of a plan: what the solvers minimise. */
export interface PlanTimes {
  readonly stepMs: number;
  /** `[microBatch]`, the fixed cost included. */
  readonly microBatchMs: readonly number[];
  /** `[microBatch][group]`, without the fixed cost. */
  readonly groupMs: readonly (readonly number[])[];
  /** Share of the ranks' time that no sequence uses, fixed costs left out: 0 … 1. */
  readonly idle: number;
}

/** Prices a plan. Groups without sequences cost nothing. */
export function planTimes(plan: StepPlan, lengths: readonly number[], model: CostModel): PlanTimes {
  const costs = new Map<number, DegreeCost>(model.degrees.map((cost) => [cost.degree, cost]));
  let [busy, offered] = [0, 0];
  const groups = plan.microBatches.map((microBatch) =>
    microBatch.groups.map(({ degree, sequences }) => {
      const cost = costs.get(degree);
      if (cost === undefined || sequences.length === 0) return 0;
      const { tokens, pairs } = groupLoad(sequences, lengths, model);
      const ms = groupMs(cost, tokens, pairs);
      busy += degree * ms;
      return ms;
    }),
  );
  const slowest = groups.map((ms) => ms.reduce((a, b) => Math.max(a, b), 0));
  for (const ms of slowest) offered += model.ranks * ms;
  const microBatchMs = slowest.map((ms) => model.microBatchMs + ms);
  return {
    stepMs: microBatchMs.reduce((a, b) => a + b, model.stepMs),
    microBatchMs,
    groupMs: groups,
    idle: offered === 0 ? 0 : 1 - busy / offered,
  };
}

/**
 * A plan by the lengths its groups hold, as `[microBatch][group]`: what programs that know nothing of ranks read.
 * Groups without sequences are left out.
 */
export function planByLengths(
  plan: StepPlan,
  lengths: readonly number[],
): readonly (readonly { readonly degree: number; readonly lengths: readonly number[] }[])[] {
  return plan.microBatches.map(({ groups }) =>
    groups
      .filter((group) => group.sequences.length > 0)
      .map(({ degree, sequences }) => ({ degree, lengths: sequences.map((index) => lengths[index]!) })),
  );
}
