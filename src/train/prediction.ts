import { groupMs, ratesMs, type CostModel, type DegreeCost } from '../runtime/planner/cost.js';
import { predictStepMs, type Load } from '../runtime/planner/predict.js';
import type { Lane, MicroBatchPlan } from '../runtime/session/plan.js';

/** What a cost model expects of a step. */
export interface PredictedStep {
  /** As ranks run it: those that are done with a micro-batch go on, those that share cores are faster while others wait. */
  readonly ms: number;
  /** What planners minimise, which only adds up: each micro-batch as long as its slowest lane. */
  readonly objectiveMs: number;
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
  const loads = plan.map(({ lanes }) =>
    lanes.map((lane) => loadOf(lane, costs.get(lane.ranks.length), model)),
  );
  const microBatches = loads.map((lanes): PredictedMicroBatch => {
    const laneMs = lanes.map(({ ms }) => ms);
    return { laneMs, ms: model.microBatchMs + laneMs.reduce((a, b) => Math.max(a, b), 0) };
  });
  return {
    ms: predictStepMs(loads, model),
    objectiveMs: microBatches.reduce((sum, { ms }) => sum + ms, model.stepMs),
    microBatches,
  };
}

function loadOf(
  { ranks, documents, program }: Lane,
  cost: DegreeCost | undefined,
  model: CostModel,
): Load & { readonly ms: number } {
  let [tokens, pairs] = [0, 0];
  for (const { ids } of documents) {
    tokens += ids.length;
    pairs += model.pairs(ids.length);
  }
  const level = cost?.levels?.find((one) => one.program === program);
  const known = level === undefined ? undefined : ratesMs(level, tokens, pairs);
  return { ranks, tokens, pairs, ms: known ?? (cost === undefined ? 0 : groupMs(cost, tokens, pairs)) };
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
