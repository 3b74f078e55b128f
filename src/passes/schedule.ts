import { z } from 'zod';
import { isCollective } from '../ir/op.js';
import { opDef } from '../ir/ops/index.js';
import { topologicalOrder, usersOf, type Graph, type Node } from '../ir/graph.js';
import { definePass } from './pass.js';

/** Ops that are instructions of their own; what stands between them is compute and goes into segments. */
const STANDALONE = new Set(['attention', 'attention_vjp', 'tiled', 'shard']);

export const isInstruction = (node: Node): boolean => STANDALONE.has(node.op) || isCollective(opDef(node.op));

/** Nodes from which data (tokens and what follows from them) can be reached backwards. */
function dataDependent(order: readonly Node[]): Set<Node> {
  const found = new Set<Node>();
  for (const node of order) {
    const isData = node.op === 'input' && node.attrs['role'] !== 'parameter';
    if (isData || node.operands.some((v) => found.has(v.node))) found.add(node);
  }
  return found;
}

/** Nodes that the given outputs need. */
function ancestors(order: readonly Node[], roots: ReadonlySet<Node>): Set<Node> {
  const found = new Set(roots);
  for (const node of [...order].reverse())
    if (found.has(node)) for (const v of node.operands) found.add(v.node);
  return found;
}

/** Loss and count, and every standalone op they need: the forward pass. */
const forwardRoots = (graph: Graph): Set<Node> =>
  new Set(graph.outputs.filter((o) => !o.name.includes('/')).map((o) => o.value.node));

/**
 * Levels: compute nodes of level n stand before the standalone instructions of level n, which stand before
 * compute of level n + 1. Forward compute runs as early as it can. What only gradients need runs as late as
 * it can (a transposed activation next to the product that reads it), except results nobody else reads
 * (weight gradients), which run at once, so that activations die early. So do not values made from
 * parameters alone: they run where they are first needed.
 */
function levelsOf(graph: Graph, order: readonly Node[]): Map<Node, number> {
  const users = usersOf(graph);
  const data = dataDependent(order);
  const forward = ancestors(order, forwardRoots(graph));
  const level = new Map<Node, number>();
  for (const node of order) {
    const after = node.operands.map((v) => level.get(v.node)! + (isInstruction(v.node) ? 1 : 0));
    level.set(node, Math.max(0, ...after));
  }
  for (const node of [...order].reverse()) {
    if (isInstruction(node) || node.op === 'input' || (forward.has(node) && data.has(node))) continue;
    const needed = users.get(node)!.map((u) => level.get(u)!);
    if (needed.length > 0) level.set(node, Math.max(level.get(node)!, Math.min(...needed)));
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
