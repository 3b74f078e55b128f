import { createRandom } from '../../data/random.js';

/** Uniform integers in [0, 2³¹): of a size that engines keep out of the heap. */
export type Random = () => number;

export function searchRandom(seed: number, items: number): Random {
  const random = createRandom(seed, items);
  return () => random() >>> 1;
}

/** A number in [0, 1). */
export const unit = (random: Random): number => random() / 2 ** 31;

/** An integer in [0, bound); the bias of the remainder is below 2⁻¹⁰ for any list a search holds. */
export const pick = (random: Random, bound: number): number => random() % bound;
