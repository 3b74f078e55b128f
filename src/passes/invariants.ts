import { inputName, inputRole, topologicalOrder, type Graph } from '../ir/graph.js';
import type { Invariant } from './pass.js';

const splitSomewhere = (graph: Graph): string | undefined => {
  const bad = topologicalOrder(graph).find((n) =>
    n.results.some((r) => r.type.pending !== undefined || r.type.dims.some((d) => d.split !== undefined)),
  );
  return bad && `${bad.op} is placed`;
};

const unrecognized = (graph: Graph): string | undefined => {
  const bad = topologicalOrder(graph).find(
    (n) =>
      n.attrs['form'] === 'mask' ||
      (n.op === 'softmax' &&
        n.results[0]!.type.dims.some(
          (d, i) => d.size.key === 'S' && i === n.results[0]!.type.dims.length - 1,
        )),
  );
  return bad && `${bad.op} is left`;
};

const withoutLoss = (graph: Graph): string | undefined =>
  ['loss_sum', 'count'].every((name) => graph.outputs.some((o) => o.name === name))
    ? undefined
    : 'loss_sum or count is missing';

const tokensWhole = (graph: Graph): string | undefined => {
  const bad = graph.inputs.find(
    (v) =>
      inputRole(v) === 'data' &&
      inputName(v) !== 'documents' &&
      v.type.dims.some((d) => d.size.key === 'S' && d.split === undefined),
  );
  return bad && `input ${inputName(bad)} is whole`;
};

/** A scheduled graph never returns to compute of an earlier segment: collectives keep one total order. */
const unordered = (graph: Graph): string | undefined => {
  if (graph.order === undefined) return 'there is no order';
  const at = new Map(graph.order.map((node, i) => [node, i]));
  for (const node of graph.order)
    for (const operand of node.operands)
      if (at.get(operand.node)! >= at.get(node)!) return `${node.op} stands before its operand`;
  return undefined;
};

/** Checks of the invariants that can be checked; the others are promises. */
const CHECKS: Partial<Record<Invariant, (graph: Graph) => string | undefined>> = {
  unplaced: splitSomewhere,
  recognized: unrecognized,
  lossy: withoutLoss,
  placed: tokensWhole,
  scheduled: unordered,
};

/** Why an invariant does not hold, or undefined. */
export const violation = (graph: Graph, invariant: Invariant): string | undefined =>
  CHECKS[invariant]?.(graph);
