import type { Node } from '../ir/graph.js';
import { printAttrs } from '../ir/text/print.js';

/** Nodes that compute what a node before them computes: the same op on the same values. */
export function repeatedNodes(order: readonly Node[]): ReadonlySet<Node> {
  const first = new Map<string, Node>();
  const numbers = new Map<Node, number>();
  const repeated = new Set<Node>();
  const number = (node: Node): number => {
    const known = numbers.get(node) ?? numbers.size;
    numbers.set(node, known);
    return known;
  };
  for (const node of order) {
    const operands = node.operands.map((v) => `${number(v.node)}.${v.index}`);
    const key = `${node.op}${printAttrs(node.attrs)} ${operands.join(' ')}`;
    const original = first.get(key);
    if (original === undefined || node.region !== undefined) first.set(key, node);
    else {
      repeated.add(node);
      numbers.set(node, number(original));
    }
  }
  return repeated;
}
