import { z } from 'zod';
import { rebuildNode } from '../ir/build.js';
import { topologicalOrder, type Graph, type Node, type Value } from '../ir/graph.js';
import type { OpName } from '../ir/ops/index.js';
import { definePass } from './pass.js';

/** Ops whose results cost less to compute again than to keep: one pass over their operands. */
const CHEAP: ReadonlySet<string> = new Set<OpName>([
  'neg',
  'exp',
  'log',
  'sqrt',
  'reciprocal',
  'tanh',
  'sigmoid',
  'sin',
  'cos',
  'erf',
  'relu',
  'abs',
  'not',
  'cast',
  'add',
  'sub',
  'mul',
  'div',
  'pow',
  'maximum',
  'minimum',
  'equal',
  'less',
  'less_equal',
  'and',
  'or',
  'where',
  'reshape',
  'transpose',
  'slice',
  'concat',
  'broadcast',
  'gelu',
  'silu',
  'rms_norm',
  'layer_norm',
]);

/** A policy says which forward nodes may be computed again; one mechanism does it. */
type Policy = (node: Node) => boolean;

const POLICIES = {
  none: () => false,
  cheap: (node) => CHEAP.has(node.op),
} as const satisfies Record<string, Policy>;

/** Nodes the loss needs: the forward pass. */
function forwardNodes(graph: Graph, order: readonly Node[]): Set<Node> {
  const found = new Set(graph.outputs.filter((o) => !o.name.includes('/')).map((o) => o.value.node));
  for (const node of [...order].reverse())
    if (found.has(node)) for (const v of node.operands) found.add(v.node);
  return found;
}

/** Nodes that depend on a parameter; tables made from positions alone are shared by all layers and kept. */
function parametric(order: readonly Node[]): Set<Node> {
  const found = new Set<Node>();
  for (const node of order)
    if (node.attrs['role'] === 'parameter' || node.operands.some((v) => found.has(v.node))) found.add(node);
  return found;
}

/**
 * Forward values that the backward can compute again from what it keeps anyway: nothing is kept for the sake
 * of recomputation. A residual sum, whose other addend nobody keeps, therefore stays.
 */
function recomputable(order: readonly Node[], forward: ReadonlySet<Node>, policy: Policy): Set<Value> {
  const kept = new Set<Value>();
  for (const node of order)
    if (!forward.has(node)) for (const v of node.operands) if (forward.has(v.node)) kept.add(v);
  const withParameters = parametric(order);
  const found = new Set<Value>();
  const available = (v: Value): boolean =>
    found.has(v) || kept.has(v) || v.node.op === 'input' || v.node.op === 'constant';
  for (const node of order)
    if (forward.has(node) && withParameters.has(node) && policy(node) && node.operands.every(available))
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
    const copyOf = (value: Value): Value => {
      if (!again.has(value)) return value;
      const made = copies.get(value.node) ?? rebuildNode(value.node, value.node.operands.map(copyOf));
      copies.set(value.node, made);
      return made[value.index]!;
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
