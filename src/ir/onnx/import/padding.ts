/**
 * Positions counted from the tokens, as RoBERTa does: `CumSum(tokens ≠ id)`, where `id` stands for padding. Training
 * packs documents and pads none, so the test for padding is taken as false everywhere, and what is counted becomes a
 * function of the position. Documents that hold the id all the same are refused when they are read.
 */
import { constantOf } from '../../size.js';
import type { OnnxNode } from '../model.js';
import { producersOf } from '../producers.js';
import type { ValueFacts } from './classify.js';

/** What may stand between a test for padding and the sum over it. */
const BETWEEN = new Set(['Cast', 'Not', 'Identity', 'Unsqueeze', 'Squeeze', 'Reshape', 'Sub', 'Mul', 'And']);

/** The `Equal` nodes whose results are summed up along a row. */
export function countedTests(nodes: readonly OnnxNode[]): ReadonlySet<OnnxNode> {
  const [found, seen] = [new Set<OnnxNode>(), new Set<string>()];
  const pending = nodes.flatMap((node) => (node.opType === 'CumSum' ? node.inputs.slice(0, 1) : []));
  if (pending.length === 0) return found;
  const producers = producersOf(nodes);
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    const node = producers.get(name);
    if (node === undefined || seen.has(name)) continue;
    seen.add(name);
    if (node.opType === 'Equal') found.add(node);
    else if (BETWEEN.has(node.opType)) for (const input of node.inputs) pending.push(input);
  }
  return found;
}

/** The id that a node compares the tokens with; undefined when it compares something else. */
export function comparedId(node: OnnxNode, facts: ReadonlyMap<string, ValueFacts>): number | undefined {
  const [a, b] = node.inputs.map((name) => facts.get(name));
  for (const [tokens, id] of [
    [a, b],
    [b, a],
  ])
    if (tokens?.input?.role === 'tokens' && id?.ints?.length === 1) return constantOf(id.ints[0]!);
  return undefined;
}

/** A token id that is none of the given. */
export function otherId(ids: ReadonlySet<number>): number {
  let id = 0;
  while (ids.has(id)) id++;
  return id;
}
