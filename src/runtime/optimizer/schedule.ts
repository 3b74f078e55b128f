import { invariant, unreachable } from '../../errors.js';

export type ScheduleKind = 'cosine' | 'linear' | 'constant';

export interface Schedule {
  readonly kind: ScheduleKind;
  /** largest learning rate, reached by the last warm-up step */
  readonly peak: number;
  /** updates of linear warm-up; 0 for none */
  readonly warmupSteps: number;
  /** updates of the whole run, warm-up included */
  readonly totalSteps: number;
  /** the rate falls to `minRatio · peak`, in [0, 1]; `constant` does not fall */
  readonly minRatio: number;
}

/**
 * Learning rate of update `step`, counted from 0. With w = `warmupSteps`, n = `totalSteps` and r = `minRatio`:
 *
 *     step < w:  peak · (step + 1) / w                       never 0: the first update counts
 *     else       peak · (r + (1 − r) · d(t)),  t = min(1, (step − w) / max(1, n − w))
 *
 *     cosine     d(t) = (1 + cos πt) / 2                     Loshchilov and Hutter, 2017 (without restarts)
 *     linear     d(t) = 1 − t
 *     constant   d(t) = 1
 *
 * A run that goes on beyond `totalSteps` keeps the final rate.
 */
export function learningRate(step: number, schedule: Schedule): number {
  const { kind, peak, warmupSteps, totalSteps, minRatio } = schedule;
  invariant(Number.isInteger(step) && step >= 0, `learning rate of step ${step}`);
  if (step < warmupSteps) return (peak * (step + 1)) / warmupSteps;
  const t = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps));
  return peak * (minRatio + (1 - minRatio) * decay(kind, t));
}

function decay(kind: ScheduleKind, t: number): number {
  switch (kind) {
    case 'cosine':
      return (1 + Math.cos(Math.PI * t)) / 2;
    case 'linear':
      return 1 - t;
    case 'constant':
      return 1;
    default:
      return unreachable(kind);
  }
}
