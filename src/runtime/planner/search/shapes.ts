import type { CostModel } from '../cost.js';
import type { Shape } from '../place.js';
import type { Items } from './items.js';

/** Groups of columns and items as groups of degrees and sequences of the batch. */
export function shapesOf(
  microBatches: readonly (readonly { readonly column: number; readonly held: readonly number[] }[])[],
  items: Items,
  model: CostModel,
): readonly (readonly Shape[])[] {
  return microBatches.map((groups) =>
    groups.map(({ column, held }) => ({
      degree: model.degrees[column]!.degree,
      sequences: held.flatMap((item) => items.sequences[item]!),
    })),
  );
}
