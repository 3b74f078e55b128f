import { groupMs, type CostModel, type DegreeCost, type Level } from './cost.js';
import { groupLoad } from './plan.js';
import type { Found } from './solver.js';

/**
 * Checkpointing chosen for every group. What is run again makes a group slower and lets it hold more, so a solver
 * meets a time that jumps with the tokens. Solvers stay simple: each plans once for every policy, as if all groups
 * had it, and the plan counts that is best when every group takes the fastest policy that holds it.
 */

/** One model from several that differ in their checkpointing policy alone, from the fastest. */
export function mergeLevels(
  models: readonly { readonly program: string; readonly model: CostModel }[],
): CostModel {
  const all = models.map(({ model }) => model);
  const byDegree = new Map<number, Level[]>();
  for (const { program, model } of models)
    for (const { degree, levels: _, ...rates } of model.degrees) {
      const known = byDegree.get(degree) ?? [];
      byDegree.set(degree, [...known, { program, ...rates }]);
    }
  const degrees = [...byDegree]
    .map(([degree, levels]): DegreeCost => {
      const { program: _, ...fastest } = levels[0]!;
      return { ...fastest, degree, capacity: most(levels.map(({ capacity }) => capacity)), levels };
    })
    .sort((a, b) => a.degree - b.degree);
  const costs = new Map(degrees.map((cost) => [cost.degree, cost]));
  const programs = models.map(({ program }) => program);
  return {
    ...all[0]!,
    degrees,
    microBatchMs: most(all.map(({ microBatchMs }) => microBatchMs)),
    memoryBytes: (degree, tokens) => {
      const { levels = [] } = costs.get(degree) ?? {};
      const level = levels.findIndex(({ capacity }) => tokens <= capacity);
      const program = levels.at(level)?.program;
      return (all[program === undefined ? -1 : programs.indexOf(program)] ?? all.at(-1)!).memoryBytes(
        degree,
        tokens,
      );
    },
  };
}

const most = (numbers: readonly number[]): number => numbers.reduce((a, b) => Math.max(a, b), 0);

/** A model for each policy, in which every group has it; the model itself where there are none. */
export function levelModels(model: CostModel): readonly CostModel[] {
  const count = most(model.degrees.map(({ levels }) => levels?.length ?? 1));
  if (count === 1) return [model];
  const models: CostModel[] = [];
  for (let k = 0; k < count; k++) {
    const degrees = model.degrees.map(({ levels = [], ...cost }): DegreeCost => {
      const level = levels[Math.min(k, levels.length - 1)];
      return level === undefined
        ? cost
        : { ...cost, ...level, capacity: Math.min(cost.capacity, level.capacity) };
    });
    const before = models.at(-1);
    const holdsMore = degrees.some(({ capacity }, i) => capacity > (before?.degrees[i]?.capacity ?? -1));
    if (holdsMore) models.push({ ...model, degrees });
  }
  return models;
}

/** Plans the sequences of a batch; what has length 0 is not to be planned. */
export type Find<Result> = (model: CostModel, lengths: readonly number[]) => Result;

/** Plans for every policy, and keeps the plan that takes least when groups choose. */
export function bestOfLevels(lengths: readonly number[], model: CostModel, find: Find<Found>): Found {
  const found = attempts(lengths, model).map((parts) => joined(parts.map((part) => find(...part))));
  return bestFound(lengths, model, found);
}

/** `bestOfLevels` for a solver that waits for other threads. */
export async function bestOfLevelsLater(
  lengths: readonly number[],
  model: CostModel,
  find: Find<Promise<Found>>,
): Promise<Found> {
  const found: Found[] = [];
  for (const parts of attempts(lengths, model)) {
    const planned: Found[] = [];
    for (const part of parts) planned.push(await find(...part));
    found.push(joined(planned));
  }
  return bestFound(lengths, model, found);
}

type Part = readonly [model: CostModel, lengths: readonly number[]];

/**
 * All sequences under one policy that holds them; and those that a policy holds under it, only longer ones under the
 * one that holds most.
 */
function attempts(lengths: readonly number[], model: CostModel): readonly (readonly Part[])[] {
  const levels = levelModels(model);
  const last = levels.at(-1)!;
  const longest = most(lengths);
  return levels.map((level): readonly Part[] => {
    const widest = most(level.degrees.map(({ capacity }) => capacity));
    if (longest <= widest || level === last) return [[level, lengths]];
    return [
      [last, lengths.map((length) => (length > widest ? length : 0))],
      [level, lengths.map((length) => (length > widest ? 0 : length))],
    ];
  });
}

const joined = (parts: readonly Found[]): Found =>
  parts.length === 1
    ? parts[0]!
    : {
        shapes: parts.flatMap(({ shapes }) => shapes),
        moves: parts.reduce((sum, { moves = 0 }) => sum + moves, 0),
        cutShort: parts.some(({ cutShort = false }) => cutShort),
      };

function bestFound(lengths: readonly number[], model: CostModel, all: readonly Found[]): Found {
  // A solver that is held to one degree may leave out what needs another policy.
  const planned = lengths.filter((length) => length > 0).length;
  const found = all.filter(
    ({ shapes }) => shapes.flat().reduce((sum, { sequences }) => sum + sequences.length, 0) >= planned,
  );
  const [first] = found;
  if (first === undefined || found.length === 1) return first ?? { shapes: [] };
  const times = found.map(({ shapes }) => shapesMs(shapes, lengths, model));
  const best = found[times.indexOf(Math.min(...times))]!;
  return {
    ...joined(found),
    shapes: best.shapes,
  };
}

function shapesMs(shapes: Found['shapes'], lengths: readonly number[], model: CostModel): number {
  const costs = new Map(model.degrees.map((cost) => [cost.degree, cost]));
  return shapes.reduce((sum, groups) => {
    const times = groups.map(({ degree, sequences }) => {
      const { tokens, pairs } = groupLoad(sequences, lengths, model);
      return groupMs(costs.get(degree)!, tokens, pairs);
    });
    return sum + model.microBatchMs + most(times);
  }, 0);
}
