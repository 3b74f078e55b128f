import type { Package } from '../package/read.js';
import type { Document } from '../runtime/data/document.js';
import { trainingTimes } from '../runtime/planner/ahead/cost.js';
import { openPlanner, type PlannerOptions } from '../runtime/planner/ahead/planner.js';
import type { Room } from '../runtime/planner/ahead/protocol.js';
import type { StepPlan } from '../runtime/planner/plan.js';
import type { MicroBatchPlan } from '../runtime/session/plan.js';
import { predictStep } from './prediction.js';
import { laneOf, requireWholeParameters, type Spreader } from './spreader.js';

/**
 * Groups chosen for every batch, by a planner on a thread of its own; close it afterwards.
 * @throws UserError when the model leaves no room for a token, or the calibration is of something else
 */
export async function autoSpreader(pkg: Package, options: PlannerOptions): Promise<Spreader> {
  requireWholeParameters(pkg);
  const times = trainingTimes(pkg, options);
  const planner = await openPlanner(pkg, options);
  return {
    groups: `groups chosen for every step from ${options.ranks} rank${options.ranks === 1 ? '' : 's'}`,
    room: planner.room,
    plan: async (documents) => {
      const { plan, ...solved } = await planner.plan(documents.map(({ ids }) => ids.length));
      const microBatches = bindPlan(plan, documents, planner.room);
      return {
        microBatches,
        predicted: predictStep(microBatches, times),
        solved: { ...solved, replayed: false },
      };
    },
    close: () => planner.close(),
  };
}

/** A plan speaks of sequences by their place in the batch. */
export const bindPlan = (
  plan: StepPlan,
  documents: readonly Document[],
  room: Room,
): readonly MicroBatchPlan[] =>
  plan.microBatches.map(({ groups }) => ({
    lanes: groups.map(({ ranks, sequences }) =>
      laneOf(
        ranks,
        sequences.map((index) => documents[index]!),
        room,
      ),
    ),
  }));
