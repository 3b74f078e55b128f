/**
 * Attention sinks: a learned number a head beside the scores of a row, which takes a share of the softmax and gives
 * no value. softmax([s, sink])·v without the sink's column is σ(log Σ eˢ − sink) · softmax(s)·v: plain attention,
 * its rows scaled by its own log-sum-exp.
 */
import { rebuildNode } from '../../ir/build.js';
import {
  nodesReaching,
  numberAttr,
  numbersAttr,
  rewriteGraph,
  topologicalOrder,
  type Graph,
  type Node,
  type Value,
} from '../../ir/graph.js';
import { dimIndex } from '../../ir/infer.js';
import type { Builder } from '../../ir/op.js';
import { tensorType } from '../../ir/type.js';
import { eitherOrder, isSymbolic, isUnit, operandOf, operandsOf, reshapeTo } from '../match.js';
import { headRoles, throughElementwise, type Located } from './roles.js';
import type { RecognitionRule } from './rule.js';
import { softmaxDim } from './softmax.js';

const dimOf = (value: Value): number => dimIndex(numberAttr(value.node.attrs, 'dim'), value.type.dims.length);

/** The first columns of softmax over scores and one column that is the same for every key. */
const dropped: RecognitionRule = (node, build) => {
  if (node.op !== 'drop_last' || numberAttr(node.attrs, 'count') !== 1) return undefined;
  const dim = dimOf(node.results[0]!);
  const joined = operandOf(node.operands[0]!, 'softmax');
  if (joined === undefined || softmaxDim(node.operands[0]!) !== dim) return undefined;
  const [scores, sink, more] = operandsOf(joined, 'concat') ?? [];
  if (scores === undefined || sink === undefined || more !== undefined || dimOf(joined) !== dim)
    return undefined;
  if (!isSymbolic(scores.type.dims[dim]!) || !isUnit(sink.type.dims[dim]!)) return undefined;
  const sum = build.one('log_sum_exp', [scores], { dims: [dim], keep: true });
  const share = build.one('sigmoid', [build.one('sub', [sum, sink])]);
  return build.one('mul', [build.one('softmax', [scores], { dim }), share]);
};

export const sinkRules: readonly RecognitionRule[] = [dropped];

/** Weights that are multiplied by one number a row, which may as well be multiplied after the values are summed. */
export function scaledRows(
  weights: Located,
): { readonly weights: Located; readonly factor: Value } | undefined {
  const key = weights.roles.findIndex(({ kind }) => kind === 'key');
  for (const [inner, factor] of eitherOrder(weights.value, 'mul')) {
    const aligned = throughElementwise(weights, inner);
    const { dims } = factor.type;
    if (aligned === undefined || dims.length !== weights.roles.length || !isUnit(dims[key]!)) continue;
    return { weights: aligned, factor };
  }
  return undefined;
}

/** The log-sum-exp `[tokens, heads]` of an attention in the layout of its scores' reduction; undefined: another layout. */
export function asRowSums(build: Builder, lse: Value, softmax: Located): ((sum: Value) => Value) | undefined {
  const { value, roles } = softmax;
  const lead = value.type.dims.slice(0, -2);
  const expected = headRoles(lead);
  const inOrder = roles.slice(0, -2).every((role, i) => {
    const own = expected?.[i];
    return (
      own?.kind === role.kind && (own.kind !== 'head' || role.kind !== 'head' || own.stride === role.stride)
    );
  });
  if (!inOrder) return undefined;
  return (sum) => {
    const turned = build.one('transpose', [lse], { perm: [1, 0] });
    return reshapeTo(build, turned, tensorType('f32', sum.type.dims));
  };
}

/** The log-sum-exp of the scores of an attention, over one of their dims. */
export interface RowSums {
  readonly dim: number;
  readonly of: (sum: Value) => Value;
}

const isSorted = (order: readonly Node[]): boolean => {
  const before = new Set<Node>();
  return order.every((node) => node.operands.every((v) => before.has(v.node)) && before.add(node));
};

/** Log-sum-exps of scores become what the attention that was read from them gives beside its output. */
export function withRowSums(graph: Graph, known: ReadonlyMap<Value, RowSums>): Graph {
  const instead = new Map<Node, Value>();
  for (const node of topologicalOrder(graph)) {
    if (node.op !== 'log_sum_exp') continue;
    const found = known.get(node.operands[0]!);
    const dims = numbersAttr(node.attrs, 'dims');
    const same = dims.length === 1 && dimIndex(dims[0]!, node.operands[0]!.type.dims.length) === found?.dim;
    if (found !== undefined && same) instead.set(node, found.of(node.results[0]!));
  }
  if (instead.size === 0) return graph;
  const roots = [...graph.inputs, ...graph.outputs.map(({ value }) => value)];
  const order = nodesReaching(roots, (node) => [
    ...node.operands,
    ...(instead.has(node) ? [instead.get(node)!] : []),
  ]);
  // A sum that the values of its own attention need: it stays, and is refused.
  if (!isSorted(order)) return graph;
  const now = new Map<Node, readonly Value[]>();
  const visit = (node: Node, operands: readonly Value[]): readonly Value[] => {
    const by = instead.get(node);
    const found = by && now.get(by.node)?.[by.index];
    const unchanged = operands.every((v, i) => v === node.operands[i]);
    const results = found ? [found] : unchanged ? node.results : rebuildNode(node, operands);
    now.set(node, results);
    return results;
  };
  return rewriteGraph({ ...graph, order }, visit, rebuildNode);
}
