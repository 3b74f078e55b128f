import { groupMs, type CostModel, type DegreeCost } from '../runtime/planner/cost.js';
import type { MicroBatchPlan } from '../runtime/session/plan.js';

/** What a cost model expects of a step. */
export interface PredictedStep {
  readonly ms: number;
  readonly microBatches: readonly PredictedMicroBatch[];
}

export interface PredictedMicroBatch {
  readonly ms: number;
  /** Of each lane, without what the micro-batch pays once. */
  readonly laneMs: readonly number[];
}

/** Prices a plan. Lanes without documents cost nothing, nor do degrees that the model knows nothing of. */
export function predictStep(plan: readonly MicroBatchPlan[], model: CostModel): PredictedStep {
  const costs = new Map<number, DegreeCost>(model.degrees.map((cost) => [cost.degree, cost]));
  const microBatches = plan.map(({ lanes }): PredictedMicroBatch => {
    const laneMs = lanes.map(({ ranks, documents }) => {
      const cost = costs.get(ranks.length);
      if (cost === undefined) return 0;
      let [tokens, pairs] = [0, 0];
      for (const { ids } of documents) {
        tokens += ids.length;
        pairs += model.pairs(ids.length);
      }
      return groupMs(cost, tokens, pairs);
    });
    return { laneMs, ms: model.microBatchMs + laneMs.reduce((a, b) => Math.max(a, b), 0) };
  });
  return { microBatches, ms: microBatches.reduce((sum, { ms }) => sum + ms, model.stepMs) };
}

/** Measured times over predicted ones. */
export interface PredictionError {
  readonly steps: number;
  /** Of measured / predicted. */
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export interface PredictionTally {
  add(predictedMs: number, measuredMs: number): void;
  /** undefined when no step was both predicted and measured. */
  result(): PredictionError | undefined;
}

/** The first step also loads what later ones find loaded: it counts only where there is no other. */
export function predictionTally(): PredictionTally {
  const ratios: number[] = [];
  return {
    add: (predictedMs, measuredMs) => {
      if (predictedMs > 0) ratios.push(measuredMs / predictedMs);
    },
    result: () => {
      const counted = ratios.slice(ratios.length > 1 ? 1 : 0).sort((a, b) => a - b);
      if (counted.length === 0) return undefined;
      const [low, high] = [counted[(counted.length - 1) >> 1]!, counted[counted.length >> 1]!];
      return {
        steps: counted.length,
        median: (low + high) / 2,
        least: counted[0]!,
        most: counted.at(-1)!,
      };
    },
  };
}
