/** Choices drawn from a seed: the same on every machine. */
import { randomOf } from '../support/random.js';

export interface Dice {
  /** An integer in [0, n). */
  below(n: number): number;
  chance(share: number): boolean;
  pick<T>(items: readonly T[]): T;
}

export function diceOf(seed: number): Dice {
  const next = randomOf(seed);
  for (let i = 0; i < 4; i++) next();
  const below = (n: number): number => Math.floor(next() * n);
  return { below, chance: (share) => next() < share, pick: (items) => items[below(items.length)]! };
}

/** A seed for part `index` of what `seed` makes. */
export const subSeed = (seed: number, index: number): number =>
  (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) + Math.imul(index + 1, 0xc2b2ae35)) >>> 0;
