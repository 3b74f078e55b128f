import { z } from 'zod';
import { isCollective } from '../ir/op.js';
import { opDef } from '../ir/ops/index.js';
import { topologicalOrder, usersOf, type Graph, type Node } from '../ir/graph.js';
import { descendants, forwardNodes } from './dataflow.js';
import { definePass } from './pass.js';

/** Ops that are instructions of their own; what stands between them is compute and goes into segments. */
const STANDALONE = new Set(['attention', 'attention_vjp', 'tiled', 'shard']);

export const isInstruction = (node: Node): boolean => STANDALONE.has(node.op) || isCollective(opDef(node.op));

/**
 * Levels: compute nodes of level n stand before the standalone instructions of level n, which stand before
 * compute of level n + 1. Forward compute runs as early as it can. What only gradients need runs as late as
 * it can (a transposed activation next to the product that reads it), except results nobody else reads
 * (weight gradients), which run at once, so that activations die early. So do not values made from
 * parameters alone: they run where they are first needed.
 */
function levelsOf(graph: Graph, order: readonly Node[]): Map<Node, number> {
  const users = usersOf(graph);
  // What is made from parameters alone is not data.
  const data = descendants(order, (node) => node.op === 'input' && node.attrs['role'] !== 'parameter');
  const forward = forwardNodes(graph, order);
  const level = new Map<Node, number>();
  for (const node of order) {
    const after = node.operands.map((v) => level.get(v.node)! + (isInstruction(v.node) ? 1 : 0));
    level.set(
      node,
      after.reduce((most, n) => Math.max(most, n), 0),
    );
  }
  for (const node of [...order].reverse()) {
    if (node.op === 'input' || (forward.has(node) && data.has(node))) continue;
    // Not by Math.min(...): a value may have more users than a call takes arguments.
    const needed = users
      .get(node)!
      .reduce((least, u) => Math.min(least, level.get(u)! - (isInstruction(node) ? 1 : 0)), Infinity);
    if (needed < Infinity) level.set(node, Math.max(level.get(node)!, needed));
  }
  return level;
}

export const schedule = definePass({
  name: 'schedule',
  doc: 'Fixes the total order of the nodes: compute gathered between collectives, weight gradients at once, collectives in the same order on every rank.',
  requires: ['placed'],
  ensures: ['scheduled'],
  numerics: 'exact',
  options: z.strictObject({}),
  run: (graph) => {
    const order = topologicalOrder(graph);
    const level = levelsOf(graph, order);
    const rank = (node: Node): number =>
      node.op === 'input' ? -1 : 2 * level.get(node)! + (isInstruction(node) ? 1 : 0);
    const sorted = order
      .map((node, i) => ({ node, i }))
      .sort((a, b) => rank(a.node) - rank(b.node) || a.i - b.i);
    return { ...graph, order: sorted.map(({ node }) => node) };
  },
});
