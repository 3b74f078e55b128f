import { z } from 'zod';
import { rebuildNode } from '../ir/build.js';
import { topologicalOrder, type Node, type Value } from '../ir/graph.js';
import type { OpName } from '../ir/ops/index.js';
import { descendants, forwardNodes } from './dataflow.js';
import { isElementwise } from './match.js';
import { definePass } from './pass.js';

/** Ops that cost less to run again than their results to keep: one pass over their operands. */
const MOVES_OR_NORMS: ReadonlySet<string> = new Set<OpName>([
  'reshape',
  'transpose',
  'slice',
  'concat',
  'broadcast',
  'rms_norm',
  'layer_norm',
]);

/** A policy says which forward nodes may be computed again; one mechanism does it. */
type Policy = (node: Node) => boolean;

const POLICIES = {
  none: () => false,
  cheap: (node) => isElementwise(node) || MOVES_OR_NORMS.has(node.op),
} as const satisfies Record<string, Policy>;

/**
 * Forward values that the backward can compute again from what it keeps anyway: nothing is kept for the sake
 * of recomputation. A residual sum, whose other addend nobody keeps, therefore stays.
 */
function recomputable(order: readonly Node[], forward: ReadonlySet<Node>, policy: Policy): Set<Value> {
  const kept = new Set<Value>();
  for (const node of order)
    if (!forward.has(node)) for (const v of node.operands) if (forward.has(v.node)) kept.add(v);
  // Tables made from positions alone are shared by all layers: they stay.
  const parametric = descendants(order, (node) => node.attrs['role'] === 'parameter');
  const found = new Set<Value>();
  const available = (v: Value): boolean =>
    found.has(v) || kept.has(v) || v.node.op === 'input' || v.node.op === 'constant';
  for (const node of order)
    if (forward.has(node) && parametric.has(node) && policy(node) && node.operands.every(available))
      for (const result of node.results) found.add(result);
  return found;
}

const options = z.strictObject({
  /** `cheap` computes norms, activations and data movement again; `none` keeps every activation. */
  policy: z.enum(['none', 'cheap']).default('cheap'),
});

export const checkpoint = definePass({
  name: 'checkpoint',
  doc: 'Chooses what the backward keeps of the forward (arXiv 1604.06174): a policy marks what is computed again, from values that are kept anyway. Products, attention and collectives never run twice.',
  requires: ['differentiated'],
  ensures: ['checkpointed'],
  numerics: 'exact',
  options,
  run: (graph, { policy }, context) => {
    const order = topologicalOrder(graph);
    const forward = forwardNodes(graph, order);
    const again = recomputable(order, forward, POLICIES[policy]);
    const copies = new Map<Node, readonly Value[]>();
    const copied = (value: Value): Value =>
      again.has(value) ? copies.get(value.node)![value.index]! : value;
    // A list of work, not recursion: chains of cheap values may be thousands of nodes long.
    const copyOf = (value: Value): Value => {
      const pending = again.has(value) ? [value.node] : [];
      for (let node = pending.at(-1); node !== undefined; node = pending.at(-1)) {
        const missing = node.operands.filter((v) => again.has(v) && !copies.has(v.node));
        if (missing.length === 0) {
          if (!copies.has(node)) copies.set(node, rebuildNode(node, node.operands.map(copied)));
          pending.pop();
        } else for (const operand of missing) pending.push(operand.node);
      }
      return copied(value);
    };
    const rebuilt = new Map<Node, readonly Value[]>();
    const current = (value: Value): Value => rebuilt.get(value.node)?.[value.index] ?? value;
    for (const node of order) {
      if (forward.has(node)) continue;
      const operands = node.operands.map((v) => (forward.has(v.node) ? copyOf(v) : current(v)));
      if (operands.some((v, i) => v !== node.operands[i])) rebuilt.set(node, rebuildNode(node, operands));
    }
    if (copies.size > 0)
      context.note(
        `${copies.size} cheap values are computed again in the backward pass instead of being kept`,
      );
    return { ...graph, outputs: graph.outputs.map(({ name, value }) => ({ name, value: current(value) })) };
  },
});
