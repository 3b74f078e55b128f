import type { CostModel } from '../cost.js';
import type { StepPlan } from '../plan.js';
import { predictStepMs, type Load } from '../predict.js';
import { ithacaSolver } from '../solvers/ithaca.js';
import type { Solution } from '../solver.js';
import { median } from './fit.js';
import type { MicroBatchShape } from './documents.js';
import type { Stage } from './stage.js';

/** A plan that nothing was fitted to. */
export interface HeldOutPlan {
  readonly what: string;
  readonly shapes: readonly MicroBatchShape[];
}

export interface HeldOutResult {
  readonly what: string;
  readonly microBatches: number;
  readonly tokens: number;
  /** A step, on the clock. */
  readonly predictedMs: number;
  readonly measuredMs: number;
  /** Sum over micro-batches of the rank that works longest, on a core where the system says so. */
  readonly predictedWorkMs: number;
  readonly measuredWorkMs: number;
}

const DOCUMENTS_PER_RANK = 5;

/** Documents of the lengths that corpora have: many short ones, few long; the same for the same seed. */
export function longTailed(count: number, typical: number, longest: number, seed: number): readonly number[] {
  let state = seed >>> 0;
  const uniform = (): number => {
    // Mulberry32.
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Array.from({ length: count }, () => {
    const normal = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    return Math.max(1, Math.min(longest, Math.round(typical * Math.exp(normal))));
  });
}

/**
 * Plans of long-tailed documents: one degree for all, as the planner would have it, uneven groups side by side, and
 * one rank at work while others wait.
 * @param perRank tokens a rank of a micro-batch is to have, about
 */
export function heldOutPlans(
  model: CostModel,
  degrees: readonly number[],
  perRank: number,
  maxDocument: number,
): readonly HeldOutPlan[] {
  const { ranks } = model;
  const typical = Math.max(4, perRank / DOCUMENTS_PER_RANK / Math.exp(0.5));
  const draw = (tokens: number, degree: number, seed: number): readonly number[] => {
    const longest = Math.min(maxDocument, Math.max(8, degree * perRank));
    const lengths: number[] = [];
    let left = tokens;
    for (const length of longTailed(4096, typical * Math.sqrt(degree), longest, seed)) {
      if (left <= 0) break;
      lengths.push(Math.min(length, left));
      left -= length;
    }
    return lengths;
  };
  const uniform = [...new Set([degrees[0]!, degrees.at(-1)!])].map((degree, k): HeldOutPlan => ({
    what: `groups of ${degree}`,
    shapes: [0, 1].map((m) => ({
      groups: Array.from({ length: Math.floor(ranks / degree) }, (_, g) => ({
        degree,
        lengths: draw(degree * perRank, degree, 100 * k + 10 * m + g + 1),
      })),
    })),
  }));
  const widest = degrees.at(-1)!;
  const batch = draw(2 * ranks * perRank, widest, 77);
  const { plan } = ithacaSolver.solve(batch, model, { seed: 0, moves: 2000 }) as Solution;
  const planned: HeldOutPlan = { what: 'as planned', shapes: shapesOf(plan, batch) };
  const alone: HeldOutPlan = {
    what: 'one rank works, others wait',
    shapes: [{ groups: [{ degree: 1, lengths: draw(perRank, 1, 5) }] }],
  };
  if (ranks === 1) return [...uniform, planned];
  const halves = degrees.filter((degree) => degree <= ranks / 2).at(-1) ?? 1;
  const singles = ranks - halves;
  const uneven: HeldOutPlan = {
    what: `a group of ${halves} beside ${singles === 1 ? 'a single rank' : `${singles} single ranks`}`,
    shapes: [0, 1].map((m) => ({
      groups: [
        { degree: halves, lengths: draw(halves * perRank, halves, 300 + m) },
        ...Array.from({ length: singles }, (_, g) => ({
          degree: 1,
          lengths: draw(perRank, 1, 400 + 20 * m + g),
        })),
      ],
    })),
  };
  return [...uniform, planned, uneven, alone];
}

const shapesOf = (plan: StepPlan, lengths: readonly number[]): readonly MicroBatchShape[] =>
  plan.microBatches.map(({ groups }) => ({
    groups: groups
      .filter(({ sequences }) => sequences.length > 0)
      .map(({ degree, sequences }) => ({ degree, lengths: sequences.map((i) => lengths[i]!) })),
  }));

const REPEATS = 3;

/**
 * Runs each plan a few times, in turn.
 * @param model times on the clock
 * @param work times on a core
 */
export async function measureHeldOut(
  stage: Stage,
  { model, work }: { readonly model: CostModel; readonly work: CostModel },
  plans: readonly HeldOutPlan[],
  options: { readonly limitMs: number; onPlan?(share: number): void; isStopped?(): boolean },
): Promise<readonly HeldOutResult[]> {
  const end = performance.now() + options.limitMs;
  const times = plans.map(() => ({ ms: [] as number[], work: [] as number[] }));
  const predicted = plans.map(() => ({ ms: 0, work: 0, tokens: 0 }));
  for (let round = 0; round < REPEATS; round++)
    for (const [p, { shapes }] of plans.entries()) {
      if (options.isStopped?.() === true || (round > 0 && performance.now() > end)) break;
      const { loads, ms, microBatchMs } = await stage.run(
        shapes.map((shape) => changed(shape, round, stage.maxDocument)),
      );
      times[p]!.ms.push(ms);
      times[p]!.work.push(microBatchMs.reduce((sum, one) => sum + one, 0));
      predicted[p] = {
        ms: predictStepMs(loads, model),
        work: loads.reduce((sum, groups) => sum + workMs(groups, work), 0),
        tokens: loads.flat().reduce((sum, { tokens }) => sum + tokens, 0),
      };
      options.onPlan?.((round * plans.length + p + 1) / (REPEATS * plans.length));
    }
  return plans.flatMap(({ what, shapes }, p): HeldOutResult[] =>
    times[p]!.ms.length === 0
      ? []
      : [
          {
            what,
            microBatches: shapes.length,
            tokens: predicted[p]!.tokens,
            predictedMs: predicted[p]!.ms,
            measuredMs: median(times[p]!.ms),
            predictedWorkMs: predicted[p]!.work,
            measuredWorkMs: median(times[p]!.work),
          },
        ],
  );
}

/** Groups of a few more or fewer tokens: ranks lay out memory for each size anew, as they do in training. */
const changed = ({ groups }: MicroBatchShape, by: number, maxDocument: number): MicroBatchShape => ({
  groups: groups.map(({ degree, lengths: [first = 0, ...others] }) => ({
    degree,
    lengths: [first + by <= maxDocument ? first + by : Math.max(1, first - by), ...others],
  })),
});

/** Of the rank that works longest. */
const workMs = (groups: readonly Load[], model: CostModel): number =>
  predictStepMs([groups], { ...model, stepMs: 0 });
