import { z } from 'zod';
import { builderAt, rebuildNode } from '../ir/build.js';
import {
  inputName,
  inputRole,
  makeInput,
  rewriteGraph,
  topologicalOrder,
  type Graph,
  type Node,
  type Value,
} from '../ir/graph.js';
import type { OpName } from '../ir/ops/index.js';
import { printDim, tensorType } from '../ir/type.js';
import { definePass } from './pass.js';
import { activationRules } from './recognize/activation.js';
import { attentionAt, TOKENS } from './recognize/attention.js';
import { refuseLeftovers } from './recognize/leftover.js';
import { normRules } from './recognize/norm.js';
import { describe, isNearMiss, type RecognitionRule } from './recognize/rule.js';
import { sinkRules, withRowSums, type RowSums } from './recognize/sink.js';
import { softmaxDim, softmaxRules } from './recognize/softmax.js';
import { simplifyGraph } from './simplify.js';

const RULES: readonly RecognitionRule[] = [...softmaxRules, ...sinkRules, ...normRules, ...activationRules];

/** Ops that recognition finds; importers may bring them too. */
export const RECOGNIZED_OPS = [
  'attention',
  'layer_norm',
  'rms_norm',
  'gelu',
  'silu',
] as const satisfies readonly OpName[];

export interface Recognized {
  readonly graph: Graph;
  /** One line for each op found and each near miss. */
  readonly notes: readonly string[];
  /** How many of each kind the graph holds. */
  readonly counts: ReadonlyMap<string, number>;
}

const DOCUMENTS = 'documents';

/** The document number of every token: attention never crosses documents. */
function documentsOf(graph: Graph): Value {
  const own = graph.inputs.find((v) => inputName(v) === DOCUMENTS);
  return own ?? makeInput(DOCUMENTS, 'data', tensorType('i32', [TOKENS]));
}

/** The graph with an input it may have come to need, after the other data inputs. */
function withInput(graph: Graph, input: Value): Graph {
  if (graph.inputs.includes(input) || !topologicalOrder(graph).includes(input.node)) return graph;
  const last = graph.inputs.findLastIndex((v) => inputRole(v) === 'data');
  return { ...graph, inputs: graph.inputs.toSpliced(last + 1, 0, input) };
}

/** Near misses and their reasons, by the node that stays. */
type Misses = Map<Node, string>;

/** What recognition has found so far. */
interface Found {
  readonly documents: Value;
  readonly misses: Misses;
  /** For scores that an attention was read from, their log-sum-exp. */
  readonly rowSums: Map<Value, RowSums>;
}

function applyRules(node: Node, state: Found): readonly Value[] {
  let results = node.results;
  for (let found: Value | undefined = results[0]; found !== undefined && results.length === 1;) {
    found = recognizeNode(results[0]!.node, state);
    if (found !== undefined) results = [found];
  }
  return results;
}

function recognizeNode(node: Node, { documents, misses, rowSums }: Found): Value | undefined {
  const attention = attentionAt(node);
  if (attention !== undefined) {
    const { softmax, found } = attention;
    if (typeof found === 'function') {
      const { product, rowSums: of } = found(builderAt(softmax.loc ?? node.loc), documents);
      if (of !== undefined) rowSums.set(softmax.operands[0]!, { dim: softmaxDim(softmax.results[0]!), of });
      return product;
    }
    misses.set(softmax, found.nearMiss);
  }
  for (const rule of RULES) {
    const found = rule(node, builderAt(node.loc));
    if (found === undefined) continue;
    if (!isNearMiss(found)) return found;
    misses.set(node, found.nearMiss);
  }
  return undefined;
}

/**
 * Finds attention, norms and activations in a simplified, unplaced graph. Masks are gone afterwards: attention
 * reads the input `documents` instead. Throws a `UserError` when a softmax over tokens or a mask is left.
 */
export function recognizeGraph(graph: Graph): Recognized {
  const documents = documentsOf(graph);
  const misses: Misses = new Map();
  const state: Found = { documents, misses, rowSums: new Map() };
  const recognized = rewriteGraph(
    graph,
    (node, operands) => {
      if (node.op === 'input' || node.results.length !== 1 || node.region !== undefined) return undefined;
      const unchanged = operands.every((v, i) => v === node.operands[i]);
      return applyRules(unchanged ? node : rebuildNode(node, operands)[0]!.node, state);
    },
    rebuildNode,
  );
  const rewritten = withRowSums(recognized, state.rowSums);
  const reached = new Set(topologicalOrder(rewritten));
  for (const node of misses.keys()) if (!reached.has(node)) misses.delete(node);
  refuseLeftovers(rewritten, misses);
  const result = simplifyGraph(withInput(rewritten, documents));
  return { graph: result, ...summary(result, misses) };
}

function summary(graph: Graph, misses: Misses): Pick<Recognized, 'notes' | 'counts'> {
  const found = topologicalOrder(graph).filter((n) => (RECOGNIZED_OPS as readonly string[]).includes(n.op));
  const counts = new Map<string, number>();
  const read = new Set(topologicalOrder(graph).flatMap(({ operands }) => operands));
  for (const { op } of found) counts.set(op, (counts.get(op) ?? 0) + 1);
  return {
    notes: [
      ...found.map((node) => `${describe(node)}: recognised${detail(node, read)}`),
      ...[...misses].map(([node, reason]) => `near miss: ${describe(node)}: ${reason}`),
    ],
    counts,
  };
}

function detail({ op, attrs, operands, results }: Node, read: ReadonlySet<Value>): string {
  if (op !== 'attention') return '';
  const [heads, kvHeads] = operands.map((v) => printDim(v.type.dims[1] ?? v.type.dims[0]!));
  const ahead = attrs['ahead'] === undefined ? '' : ` and ${String(attrs['ahead'])} ahead`;
  const window = attrs['window'] === undefined ? '' : ` of ${String(attrs['window'])}${ahead}`;
  const cap = attrs['softcap'] === undefined ? '' : `, scores capped at ${String(attrs['softcap'])}`;
  const slopes = attrs['slopes'] === undefined ? '' : ', biased by distance';
  const table = attrs['before'] === undefined ? '' : ', biased by a table of offsets';
  const sink = read.has(results[1]!) ? ', with an attention sink' : '';
  return ` (${String(attrs['mask'])}${window}, ${heads} heads, ${kvHeads} K/V heads${cap}${slopes}${table}${sink})`;
}

export const recognize = definePass({
  name: 'recognize',
  doc: 'Finds attention, norms and activations by their meaning; says why where it nearly does.',
  requires: ['unplaced', 'simplified'],
  ensures: ['recognized'],
  numerics: 'reordered',
  options: z.strictObject({}),
  run: (graph, _options, context) => {
    const { graph: result, notes, counts } = recognizeGraph(graph);
    notes.forEach((note) => context.note(note));
    for (const [kind, n] of counts) for (let i = 0; i < n; i++) context.count(kind);
    return result;
  },
});
