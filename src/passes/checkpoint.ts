import { z } from 'zod';
import { rebuildNode } from '../ir/build.js';
import { topologicalOrder, type Node, type Value } from '../ir/graph.js';
import { POLICIES } from './checkpoint/policies.js';
import { recomputable } from './checkpoint/policy.js';
import { forwardNodes } from './dataflow.js';
import { definePass } from './pass.js';

const options = z.strictObject({
  /** What is computed again: `none`, or norms, activations and data movement (`cheap`), up to whole `layers`. */
  policy: z.enum(POLICIES).default('cheap'),
});

export const checkpoint = definePass({
  name: 'checkpoint',
  doc: 'Chooses what the backward keeps of the forward (arXiv 1604.06174): a policy marks what is computed again, from values that are kept anyway or that whole layers start with.',
  requires: ['differentiated'],
  ensures: ['checkpointed'],
  numerics: 'exact',
  options,
  run: (graph, { policy }, context) => {
    const order = topologicalOrder(graph);
    const forward = forwardNodes(graph, order);
    const again = recomputable(order, forward, policy);
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
        `checkpoint ${policy}: ${copies.size} values are computed again in the backward pass instead of being kept`,
      );
    return { ...graph, outputs: graph.outputs.map(({ name, value }) => ({ name, value: current(value) })) };
  },
});
