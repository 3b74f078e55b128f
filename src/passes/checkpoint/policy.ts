import type { Node, Value } from '../../ir/graph.js';
import type { OpName } from '../../ir/ops/index.js';
import { descendants } from '../dataflow.js';
import { isElementwise } from '../match.js';
import { isInstruction } from '../schedule.js';
import { boundariesOf } from './boundaries.js';
import type { Policy } from './policies.js';

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

function runsAgain(node: Node, policy: Policy): boolean {
  if (policy === 'none' || node.op === 'input' || node.op === 'constant') return false;
  if (isElementwise(node) || MOVES_OR_NORMS.has(node.op)) return true;
  if (policy === 'cheap') return false;
  if (!isInstruction(node)) return true;
  if (node.op === 'all_to_all') return policy === 'exchanges' || policy === 'layers';
  return node.op === 'attention' && policy === 'layers';
}

/** Nodes whose results stay where whole layers are run again: without them the first layer would be run for all. */
function keptBoundaries(order: readonly Node[], forward: ReadonlySet<Node>, policy: Policy): Set<Node> {
  if (policy === 'none' || policy === 'cheap') return new Set();
  const boundaries = boundariesOf(order, forward);
  // A layer starts before its attention; the sum inside it, between attention and MLP, is made again.
  const kept = policy === 'layers' ? boundaries.filter((b) => b.beforeAttention) : boundaries;
  return new Set(kept.map(({ node }) => node));
}

/**
 * Forward values that the backward can compute again, from what it keeps anyway and from boundaries. Nothing else
 * is kept for the sake of recomputation: under `cheap`, a residual sum stays whose other addend nobody keeps.
 */
export function recomputable(
  order: readonly Node[],
  forward: ReadonlySet<Node>,
  policy: Policy,
): ReadonlySet<Value> {
  const boundaries = keptBoundaries(order, forward, policy);
  const kept = new Set<Value>();
  for (const node of order)
    if (!forward.has(node)) for (const v of node.operands) if (forward.has(v.node)) kept.add(v);
  for (const node of boundaries) for (const result of node.results) kept.add(result);
  // Tables made from positions alone are shared by all layers: they stay.
  const parametric = descendants(order, (node) => node.attrs['role'] === 'parameter');
  const found = new Set<Value>();
  const available = (v: Value): boolean =>
    found.has(v) || kept.has(v) || v.node.op === 'input' || v.node.op === 'constant';
  for (const node of order)
    if (
      forward.has(node) &&
      parametric.has(node) &&
      !boundaries.has(node) &&
      runsAgain(node, policy) &&
      node.operands.every(available)
    )
      for (const result of node.results) found.add(result);
  return found;
}
