import type { Graph, Node } from '../ir/graph.js';

/** Nodes that the roots need, roots included. `order` is topological. */
export function ancestors(order: readonly Node[], roots: Iterable<Node>): Set<Node> {
  const found = new Set(roots);
  for (const node of order.toReversed())
    if (found.has(node)) for (const v of node.operands) found.add(v.node);
  return found;
}

/** Nodes that a source is needed for, sources included. */
export function descendants(order: readonly Node[], isSource: (node: Node) => boolean): Set<Node> {
  const found = new Set<Node>();
  for (const node of order)
    if (isSource(node) || node.operands.some((v) => found.has(v.node))) found.add(node);
  return found;
}

/** The forward pass: what loss, count and logits need. Outputs of the backward have a `/` in their names. */
export const forwardNodes = (graph: Graph, order: readonly Node[]): Set<Node> =>
  ancestors(
    order,
    graph.outputs.filter((o) => !o.name.includes('/')).map((o) => o.value.node),
  );
