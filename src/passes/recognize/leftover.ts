import { UserError } from '../../errors.js';
import {
  inputName,
  nodesReaching,
  topologicalOrder,
  type Graph,
  type Node,
  type Value,
} from '../../ir/graph.js';
import { printGraph } from '../../ir/text/print.js';
import { isSymbolic } from '../match.js';
import { describe } from './rule.js';
import { softmaxDim } from './softmax.js';

const CONTEXT_LINES = 12;

/** The last lines of the IR that computes a node. */
function around(node: Node, graph: Graph): string {
  const part: Graph = { ...graph, inputs: [], outputs: [{ name: 'here', value: node.results[0]! }] };
  const inputs = topologicalOrder(part).flatMap((n) => (n.op === 'input' ? n.results : []));
  const lines = printGraph({ ...part, inputs })
    .split('\n')
    .slice(0, -2);
  const first = lines.findIndex((line) => /^ {2}%\d+ = /.test(line));
  return lines.slice(Math.max(first, lines.length - CONTEXT_LINES)).join('\n');
}

const MOVES: ReadonlySet<string> = new Set(['reshape', 'broadcast', 'transpose', 'cast', 'not']);

/** The first node that does more than move a mask about, and the mask. */
function maskReader(nodes: readonly Node[]): readonly [Node, Value] | undefined {
  const masks = new Map<Node, Value>();
  for (const node of nodes) {
    if (node.attrs['form'] === 'mask') masks.set(node, node.results[0]!);
    const read = node.operands.find((v) => masks.has(v.node));
    if (read === undefined) continue;
    const mask = masks.get(read.node)!;
    if (!MOVES.has(node.op)) return [node, mask];
    masks.set(node, mask);
  }
  return undefined;
}

/** Refuses what reads the scores of attention beside it, and is no sink that was understood. */
function refuseBeside(node: Node): void {
  const { op, attrs, operands, results } = node;
  const dims = op === 'concat' || op === 'drop_last' ? [attrs['dim'] as number] : attrs['dims'];
  const wide = op === 'concat' ? results[0]! : operands[0]!;
  const reads =
    BESIDE_SCORES.has(op) && wide.type.dims.some((d, i) => (dims as number[]).includes(i) && isSymbolic(d));
  if (reads)
    throw new UserError(
      `${describe(node)} runs over the keys of attention and is not part of one`,
      'beside softmax, scores may have an attention sink only: one number a head, joined to the keys and cut off after softmax',
    );
}

const BESIDE_SCORES: ReadonlySet<string> = new Set(['concat', 'drop_last', 'reduce_max', 'log_sum_exp']);

/**
 * Refuses what would mix tokens behind the back of the sequence-parallel passes: a softmax over tokens that is
 * not attention, and masks that something else reads. Throws a `UserError` that names the ONNX node.
 */
export function refuseLeftovers(graph: Graph, reasons: ReadonlyMap<Node, string>): void {
  const nodes = topologicalOrder(graph);
  for (const node of nodes) {
    refuseBeside(node);
    const overTokens =
      node.op === 'softmax' && isSymbolic(node.results[0]!.type.dims[softmaxDim(node.results[0]!)]!);
    if (!overTokens) continue;
    const reason = reasons.get(node) ?? 'no product of its result with values follows';
    throw new UserError(
      `${describe(node)} runs over tokens and is nearly attention: ${reason}`,
      `ithaca shards attention only when it is softmax(scale · q·kᵀ + mask)·v; the IR around it:\n${around(node, graph)}`,
    );
  }
  const [reader, mask] = maskReader(nodes) ?? [];
  if (reader !== undefined)
    throw new UserError(
      `the mask '${inputName(mask!)}' is read by ${describe(reader)}, which is not part of an attention`,
      `masks may be used in attention only; the IR around it:\n${around(reader, graph)}`,
    );
  const left = nodes.find((n) => n.attrs['form'] === 'mask' && isOutput(n, graph));
  if (left !== undefined) throw new UserError(`the mask '${inputName(left.results[0]!)}' reaches an output`);
}

const isOutput = (node: Node, graph: Graph): boolean =>
  nodesReaching(graph.outputs.map((o) => o.value)).includes(node);
