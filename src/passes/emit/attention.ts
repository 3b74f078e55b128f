import { attrsText } from '../../ir/attrs.js';
import { topologicalOrder, type Graph, type Node } from '../../ir/graph.js';
import { lowerAttention } from './ort/attention.js';
import type { AttentionKernels, AttentionModel } from './ort/lowered.js';

/** Names a kernel gives to the operands of its op; documents cut the rows into calls. */
const ATTENTION_OPERANDS = ['q', 'k', 'v', 'documents', 'out', 'lse', 'g', 'glse'] as const;

export interface AttentionLowering {
  readonly models: (node: Node) => { model: AttentionModel; mapped: AttentionModel | undefined };
  /** Operands the kernel reads; what it can do without need not be kept for it. */
  readonly taken: (node: Node) => readonly boolean[];
}

/** Forward nodes whose log-sum-exp something reads; the backward computes it anew. */
function lseReaders(graph: Graph): ReadonlySet<Node> {
  const read = topologicalOrder(graph).flatMap((node) =>
    node.op === 'attention_vjp' ? node.operands.filter((_, i) => i !== 5) : node.operands,
  );
  const given = [...read, ...graph.outputs.map(({ value }) => value)];
  return new Set(
    given.filter(({ node, index }) => node.op === 'attention' && index === 1).map(({ node }) => node),
  );
}

/** Lowers each kind of attention of a graph once: layers mostly share theirs. */
export function attentionLowering(graph: Graph): AttentionLowering {
  const kinds = new Map<string, AttentionKernels>();
  const read = lseReaders(graph);
  const kernels = (node: Node): AttentionKernels => {
    const lse = node.op === 'attention' ? read.has(node) : node.operands.length === 8;
    const sizes = node.operands.slice(0, 3).map((v) => v.type.dims.slice(1).map((d) => d.size.key));
    const key = `${attrsText(node.attrs)} ${sizes.join(';')}${lse ? ' lse' : ''}`;
    const known = kinds.get(key) ?? lowerAttention(node, lse);
    kinds.set(key, known);
    return known;
  };
  const models = (node: Node): ReturnType<AttentionLowering['models']> => {
    const { mapped, ...own } = kernels(node);
    const direction = node.op === 'attention' ? 'forward' : 'backward';
    return { model: own[direction], mapped: mapped?.[direction] };
  };
  return {
    models,
    taken: (node) => {
      const { inputs } = models(node).model;
      return node.operands.map(
        (_, i) => ATTENTION_OPERANDS[i] === 'documents' || inputs.includes(ATTENTION_OPERANDS[i]!),
      );
    },
  };
}
