import type { Node } from '../../ir/graph.js';
import { descendants } from '../dataflow.js';

/** Where the stream of activations is one value: every path from the tokens to the loss runs through it. */
export interface Boundary {
  readonly node: Node;
  /** Whether attention stands between this boundary and the next. */
  readonly beforeAttention: boolean;
}

/**
 * Sums that the whole stream passes through, which are the residual sums of a transformer, in their order, and the
 * value the stream starts with. A graph whose layers are not joined by sums has the start alone.
 */
export function boundariesOf(order: readonly Node[], forward: ReadonlySet<Node>): readonly Boundary[] {
  const fromTokens = descendants(order, (node) => node.op === 'input' && node.attrs['name'] === 'tokens');
  const stream = order.filter((node) => fromTokens.has(node) && forward.has(node) && node.op !== 'input');
  const place = new Map(stream.map((node, i) => [node, i]));
  const lastUse = stream.map(() => -1);
  stream.forEach((node, i) => {
    for (const { node: operand } of node.operands) {
      const at = place.get(operand);
      if (at !== undefined) lastUse[at] = Math.max(lastUse[at]!, i);
    }
  });
  const found: { node: Node; beforeAttention: boolean }[] = [];
  let open = -1;
  stream.forEach((node, i) => {
    const joins = new Set(node.operands.flatMap((v) => (place.has(v.node) ? [v.node] : []))).size > 1;
    if (open <= i && (joins || found.length === 0)) found.push({ node, beforeAttention: false });
    else if (node.op === 'attention') found.at(-1)!.beforeAttention = true;
    open = Math.max(open, lastUse[i]!);
  });
  return found;
}
