/**
 * Reproducible random numbers, the same on every machine: xoshiro128** (Blackman and Vigna, 2018,
 * https://prng.di.unimi.it/xoshiro128starstar.c), its state filled from the seed words by splitmix32's finaliser.
 * @returns uniform integers in [0, 2³²)
 */
export function createRandom(...seed: readonly number[]): () => number {
  let mixed = 0;
  const next = (word: number): number => {
    mixed = (mixed + 0x9e3779b9 + word) | 0;
    let z = mixed;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    mixed = z ^ (z >>> 15);
    return mixed;
  };
  // Both halves of a seed count: it may have 53 bits.
  for (const word of seed) {
    next(word | 0);
    next(Math.floor(word / 2 ** 32) | 0);
  }
  // The last word is fixed: all zero is the one state that the generator cannot leave.
  return xoshiro128(next(1), next(2), next(3), 0x9e3779b9);
}

/** The generator itself, from a state that is not all zero. */
export function xoshiro128(a: number, b: number, c: number, d: number): () => number {
  return () => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotate(d, 11);
    return result;
  };
}

/** A uniform integer in [0, bound), bound ≤ 2³²; draws are rejected where a remainder would favour small ones. */
export function randomBelow(random: () => number, bound: number): number {
  const limit = 2 ** 32 - (2 ** 32 % bound);
  let value = random();
  while (value >= limit) value = random();
  return value % bound;
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}
