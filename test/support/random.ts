import type { Tensor } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';

/** Uniform numbers in [0, 1) from a seed (mulberry32): the same on every machine. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A tensor of uniform values in `range`; `integers` draws whole numbers, both ends included. */
export function randomTensor(
  random: () => number,
  shape: readonly number[],
  range: readonly [number, number] = [-1, 1],
  integers = false,
): Tensor {
  const [low, high] = range;
  const out = tensor(shape);
  for (let i = 0; i < out.data.length; i++)
    out.data[i] = integers ? low + Math.floor(random() * (high - low + 1)) : low + random() * (high - low);
  return out;
}

/** Largest |a − b| relative to the largest magnitude (at least 1). */
export function distance(a: Tensor, b: Tensor): number {
  if (a.shape.join() !== b.shape.join()) return Infinity;
  let [worst, scale] = [0, 1];
  a.data.forEach((x, i) => {
    const y = b.data[i]!;
    const same = Object.is(x, y) || x === y;
    worst = Math.max(worst, same ? 0 : Number.isFinite(x - y) ? Math.abs(x - y) : Infinity);
    if (Number.isFinite(y)) scale = Math.max(scale, Math.abs(y));
  });
  return worst / scale;
}
