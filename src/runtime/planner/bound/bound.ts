import type { CostModel } from '../cost.js';
import type { ProgramSolver } from '../highs/client.js';
import { kindsOf, type Kind } from './kinds.js';
import { boundProgram, type BoundProgram } from './program.js';
import { quickBound } from './quick.js';

export interface SearchBoundOptions {
  readonly limitMs: number;
  /** Time of a known plan: bounds beyond it cannot be, intervals beyond it need not be. */
  readonly knownMs: number;
  /** Stops when no plan can be this much shorter than the known one, relatively. Default 1e-4. */
  readonly gap?: number;
}

export interface Bound {
  /** No legal plan takes less. */
  readonly ms: number;
  readonly solveMs: number;
  /** Programmes solved. */
  readonly rounds: number;
}

/** Solvers work in floating point: what they prove counts a little less. */
const SAFETY = 1e-6;
const MOST_INTERVALS = 40;

/**
 * Tightens the quick bound for as long as it may. Solves the relaxation of `boundProgram` over coarse intervals of
 * micro-batch times, splits those that its optimum uses, and solves again: every round's bound holds, the best counts.
 */
export async function searchBound(
  lengths: readonly number[],
  model: CostModel,
  solver: Pick<ProgramSolver, 'solve'>,
  { limitMs, knownMs, gap = 1e-4 }: SearchBoundOptions,
): Promise<Bound> {
  const start = performance.now();
  const spent = (): number => performance.now() - start;
  let ms = quickBound(lengths, model);
  const kinds = kindsOf(lengths, model);
  const most = knownMs - model.stepMs - model.microBatchMs;
  let borders = firstBorders(kinds, most);
  let rounds = 0;
  if (kinds.length === 0 || most <= 0) return { ms, solveMs: spent(), rounds };
  while (spent() < limitMs && knownMs > ms * (1 + gap)) {
    const relaxed: BoundProgram = boundProgram(lengths, model, {
      apart: 48,
      whole: 8,
      borders,
      knownMs: (knownMs - model.stepMs) * (1 + SAFETY),
      wholeGroups: true,
    });
    const result = await solver.solve(relaxed.program, {
      limitMs: Math.max(1, limitMs - spent()),
      gap: 5e-4,
    });
    rounds++;
    // Nothing below the known plan: it is as short as any.
    const proven = result.status === 'infeasible' ? knownMs : result.bound * (1 - SAFETY) + model.stepMs;
    ms = Math.min(knownMs, Math.max(ms, proven));
    if (result.status !== 'optimal') break;
    const next = splitUsed(borders, relaxed, result.values);
    if (next.length === borders.length || next.length > MOST_INTERVALS) break;
    borders = next;
  }
  return { ms, solveMs: spent(), rounds };
}

/** Times that the longest sequences dictate at their lowest degrees, and steps of like size between them. */
function firstBorders(kinds: readonly Kind[], most: number): number[] {
  const dictated: number[] = [];
  for (const kind of kinds) {
    for (const ms of kind.aloneMs.filter((alone) => alone < most))
      if (dictated.length < 6 && dictated.every((other) => Math.abs(other - ms) > 0.03 * ms))
        dictated.push(ms);
    if (dictated.length >= 6) break;
  }
  const borders = [0, ...dictated, most].sort((a, b) => a - b);
  while (borders.length <= 10) {
    let [widest, ratio] = [1, 0];
    for (let i = 1; i < borders.length; i++) {
      const width = borders[i]! / Math.max(borders[i - 1]!, 0.02 * most);
      if (width > ratio) [widest, ratio] = [i, width];
    }
    const [low, high] = [borders[widest - 1]!, borders[widest]!];
    borders.splice(widest, 0, low === 0 ? high / 2 : Math.sqrt(low * high));
  }
  return borders;
}

/** Splits every interval that the solution uses and that is wider than half a per cent. */
function splitUsed(
  borders: readonly number[],
  { intervals }: BoundProgram,
  values: readonly number[],
): number[] {
  const next = [...borders];
  for (const { from, upTo, count, sum } of intervals) {
    const n = values[count]!;
    if (n < 0.5 || upTo - from < 0.005 * upTo) continue;
    const mean = values[sum]! / n;
    next.push(Math.min(upTo - 0.1 * (upTo - from), Math.max(from + 0.1 * (upTo - from), (mean + upTo) / 2)));
  }
  return next.sort((a, b) => a - b);
}
