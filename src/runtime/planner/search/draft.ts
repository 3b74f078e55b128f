import type { CostModel } from '../cost.js';
import type { Shape } from '../place.js';
import type { Items } from './items.js';

/** A plan of items and columns, flat: groups have numbers, ranks are not chosen yet. */
export interface Draft {
  readonly microBatches: number;
  /** `[group]` → column of its degree. */
  readonly column: ArrayLike<number>;
  /** `[group]` → micro-batch; −1 for a number that stands for no group. */
  readonly microBatch: ArrayLike<number>;
  /** `[item]` → group; −1 for an item that fitted nowhere. */
  readonly groupOf: Int32Array;
  /** Items that fitted nowhere. */
  readonly left: number;
  /** Time of the step, without what it pays once; with items left over, what it may become. */
  readonly ms: number;
}

/** Shorter plans first. */
export const byMs = (a: Draft, b: Draft): number => a.ms - b.ms || a.left - b.left;

/**
 * The groups that hold something, by micro-batch, as degrees and sequences of the batch. The micro-batch of the longest
 * sequence comes first.
 */
export function shapesOf(draft: Draft, items: Items, model: CostModel): readonly (readonly Shape[])[] {
  const shapes = new Map<number, { degree: number; sequences: number[] }[]>();
  const shapeOf = new Map<number, { degree: number; sequences: number[] }>();
  for (let item = 0; item < items.count; item++) {
    const group = draft.groupOf[item]!;
    if (group < 0) continue;
    let shape = shapeOf.get(group);
    if (shape === undefined) {
      shape = { degree: model.degrees[draft.column[group]!]!.degree, sequences: [] };
      shapeOf.set(group, shape);
      const m = draft.microBatch[group]!;
      const others = shapes.get(m);
      if (others === undefined) shapes.set(m, [shape]);
      else others.push(shape);
    }
    for (let i = items.first[item]!; i < items.first[item + 1]!; i++)
      shape.sequences.push(items.sequences[i]!);
  }
  return [...shapes.values()];
}
