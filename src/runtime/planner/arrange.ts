import { invariant } from '../../errors.js';
import type { CostModel } from './cost.js';
import { placeGroups, type Shape } from './place.js';
import type { MicroBatch, PlannedGroup, StepPlan } from './plan.js';

/**
 * Gives every group its ranks, every rank a group, and every sequence of no tokens a place. Groups without
 * sequences are dissolved: their ranks, and those that no group has, wait in groups of the smallest degree that
 * fits, or of fewer ranks than any allowed degree where nothing else fits. Micro-batches without sequences go.
 */
export function arrange(shapes: readonly (readonly Shape[])[], model: CostModel): StepPlan {
  const microBatches = shapes
    .map((groups) => groups.filter((group) => group.sequences.length > 0))
    .filter((groups) => groups.length > 0)
    .map((groups) => arrangeMicroBatch(groups, model));
  return { microBatches };
}

function arrangeMicroBatch(groups: readonly Shape[], model: CostModel): MicroBatch {
  const { ranks, ranksPerNode } = model;
  const starts = placeGroups(
    groups.map((group) => group.degree),
    ranks,
    ranksPerNode,
  );
  invariant(
    starts !== undefined,
    `groups of ${groups.map((g) => g.degree).join(', ')} do not fit ${ranks} ranks`,
  );
  const placed = groups
    .map((group, g): PlannedGroup => ({
      degree: group.degree,
      ranks: range(starts[g]!, group.degree),
      sequences: group.sequences.toSorted((a, b) => a - b),
    }))
    .sort((a, b) => a.ranks[0]! - b.ranks[0]!);
  const all: PlannedGroup[] = [];
  let next = 0;
  for (const group of placed) {
    all.push(...waiting(next, group.ranks[0]!, model), group);
    next = group.ranks[0]! + group.degree;
  }
  all.push(...waiting(next, ranks, model));
  return { groups: all };
}

/** Groups without sequences for ranks from … to − 1, none of them across a node's border. */
function waiting(from: number, to: number, { degrees, ranksPerNode }: CostModel): readonly PlannedGroup[] {
  const smallest = degrees[0]?.degree ?? 1;
  const groups: PlannedGroup[] = [];
  for (let next = from; next < to;) {
    const border = smallest > ranksPerNode ? to : (Math.floor(next / ranksPerNode) + 1) * ranksPerNode;
    const degree = Math.min(smallest, to - next, border - next);
    groups.push({ degree, ranks: range(next, degree), sequences: [] });
    next += degree;
  }
  return groups;
}

const range = (start: number, count: number): readonly number[] =>
  Array.from({ length: count }, (_, i) => start + i);
