import { exposedExchangeMs, type CostModel } from '../runtime/planner/cost.js';
import { groupLoad } from '../runtime/planner/plan.js';
import type { Solution } from '../runtime/planner/solver.js';

/** A plan, and what it is compared with. */
export interface PlanSource {
  readonly title: string;
  readonly lengths: readonly number[];
  readonly model: CostModel;
  readonly solution: Solution;
  readonly boundMs: number;
  /** What one degree for the run, or for the step, would take. */
  readonly others: readonly { readonly solver: string; readonly degree: number; readonly stepMs: number }[];
}

/** What the page of a plan shows, as plain data. `client/plan.js` reads it. */
export interface PlanData {
  readonly solver: string;
  readonly solveMs: number;
  readonly ranks: number;
  readonly ranksPerNode: number;
  /** What every micro-batch, and the step, pay once. */
  readonly fixedMs: number;
  readonly onceMs: number;
  readonly stepMs: number;
  readonly boundMs: number;
  readonly idle: number;
  readonly sequences: number;
  readonly tokens: number;
  readonly others: PlanSource['others'];
  readonly microBatches: readonly PlanMicroBatch[];
}

export interface PlanMicroBatch {
  readonly ms: number;
  /** Those that hold sequences, by rank. */
  readonly groups: readonly PlanGroup[];
}

export interface PlanGroup {
  readonly degree: number;
  readonly rank: number;
  readonly ms: number;
  readonly tokens: number;
  /** Of the fullest rank: bytes, and the share of what it could hold. */
  readonly bytes: number;
  readonly memory: number;
  /** Time in which ranks only exchange. */
  readonly exchangeMs: number;
  /** Longest first. */
  readonly lengths: readonly number[];
}

export function planData({ lengths, model, solution, boundMs, others }: PlanSource): PlanData {
  const { plan, times } = solution;
  const costs = new Map(model.degrees.map((cost) => [cost.degree, cost]));
  return {
    solver: solution.solver,
    solveMs: solution.solveMs,
    ranks: model.ranks,
    ranksPerNode: model.ranksPerNode,
    fixedMs: model.microBatchMs,
    onceMs: model.stepMs,
    stepMs: times.stepMs,
    boundMs,
    idle: times.idle,
    sequences: lengths.length,
    tokens: lengths.reduce((a, b) => a + b, 0),
    others,
    microBatches: plan.microBatches.map(({ groups }, m) => ({
      ms: times.microBatchMs[m] ?? 0,
      groups: groups.flatMap(({ degree, ranks, sequences }, g): PlanGroup[] => {
        const cost = costs.get(degree);
        if (cost === undefined || sequences.length === 0) return [];
        const { tokens, pairs } = groupLoad(sequences, lengths, model);
        const bytes = model.memoryBytes(degree, tokens);
        return [
          {
            degree,
            rank: ranks[0] ?? 0,
            ms: times.groupMs[m]?.[g] ?? 0,
            tokens,
            bytes,
            memory: Math.max(bytes / model.memoryLimitBytes, tokens / cost.capacity),
            exchangeMs: tokens === 0 ? 0 : Math.max(0, exposedExchangeMs(cost, tokens, pairs)),
            lengths: sequences.map((index) => lengths[index] ?? 0).sort((a, b) => b - a),
          },
        ];
      }),
    })),
  };
}
