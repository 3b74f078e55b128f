import type { CostModel, DegreeCost } from './cost.js';
import { usefulDegrees } from './physical-cost.js';

/**
 * The same model with the degrees between its own: every one inside a node, whole nodes beyond. A degree that the
 * model does not give divides compute as its neighbours do, sends at the rate of the next larger degree that it
 * gives, and holds per rank what that one holds.
 */
export function withEveryDegree(model: CostModel): CostModel {
  const given = model.degrees;
  const [least, most] = [given[0]?.degree ?? 1, given.at(-1)?.degree ?? 0];
  const between = usefulDegrees(model.ranks, model.ranksPerNode, most).flatMap((degree) => {
    if (degree < least || given.some((cost) => cost.degree === degree)) return [];
    const next = given.find((cost) => cost.degree > degree);
    return next === undefined ? [] : [scaled(next, degree)];
  });
  return { ...model, degrees: [...given, ...between].sort((a, b) => a.degree - b.degree) };
}

function scaled(next: DegreeCost, degree: number): DegreeCost {
  const times = next.degree / degree;
  return {
    ...next,
    degree,
    capacity: Math.floor(next.capacity / times),
    msPerToken: next.msPerToken * times,
    msPerPair: next.msPerPair * times,
    exchangeMsPerToken: next.exchangeMsPerToken * times,
  };
}
