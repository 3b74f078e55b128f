import type { OnnxNode } from './model.js';

const tables = new WeakMap<readonly OnnxNode[], ReadonlyMap<string, OnnxNode>>();

/** The node that makes each value; made once for a list of nodes, which many ask for. */
export function producersOf(nodes: readonly OnnxNode[]): ReadonlyMap<string, OnnxNode> {
  const known = tables.get(nodes);
  if (known !== undefined) return known;
  const producers = new Map<string, OnnxNode>();
  for (const node of nodes) for (const output of node.outputs) producers.set(output, node);
  tables.set(nodes, producers);
  return producers;
}
