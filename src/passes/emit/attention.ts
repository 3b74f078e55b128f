import { attrsText } from '../../ir/attrs.js';
import { topologicalOrder, type Graph, type Node, type Value } from '../../ir/graph.js';
import {
  attentionOperands,
  attentionResults,
  type AttentionExtras,
} from '../../package/attention-operands.js';
import type { KernelInfo } from '../../package/program.js';
import { lowerAttention } from './ort/attention.js';
import type { AttentionKernels, AttentionModel } from './ort/lowered.js';

export interface AttentionLowering {
  readonly models: (node: Node) => { model: AttentionModel; mapped: AttentionModel | undefined };
  /** Operands the kernel reads; what it can do without need not be kept for it. */
  readonly taken: (node: Node) => readonly boolean[];
}

const kindOf = (node: Node): KernelInfo['op'] => (node.op === 'attention' ? 'attention' : 'attention_vjp');

/** What a node is given beside what attention always is; its op checked that they agree with its attributes. */
function givenTo(node: Node): AttentionExtras {
  const bias = node.attrs['before'] !== undefined;
  const most = attentionOperands(kindOf(node), { glse: true, bias });
  return { bias, glse: kindOf(node) === 'attention_vjp' && node.operands.length === most.length };
}

/** Names of its results. */
export const resultsOf = (node: Node): readonly string[] => attentionResults(kindOf(node), givenTo(node));

/** What is read of a graph; the backward computes the log-sum-exp anew. */
function valuesRead(graph: Graph): ReadonlySet<Value> {
  const read = topologicalOrder(graph).flatMap((node) =>
    node.op === 'attention_vjp' ? node.operands.filter((_, i) => i !== 5) : node.operands,
  );
  return new Set([...read, ...graph.outputs.map(({ value }) => value)]);
}

/** Lowers each kind of attention of a graph once: layers mostly share theirs. */
export function attentionLowering(graph: Graph): AttentionLowering {
  const kinds = new Map<string, AttentionKernels>();
  const read = valuesRead(graph);
  const kernels = (node: Node): AttentionKernels => {
    const forward = node.op === 'attention';
    const { glse, bias } = givenTo(node);
    const lse = forward ? read.has(node.results[1]!) : glse;
    const dbias = bias && !forward && read.has(node.results[3]!);
    const sizes = node.operands.slice(0, 3).map((v) => v.type.dims.slice(1).map((d) => d.size.key));
    const rows = bias ? ` ${node.operands.at(-1)!.type.dims[0]!.size.key}` : '';
    const key = `${attrsText(node.attrs)} ${sizes.join(';')}${rows}${lse ? ' lse' : ''}${dbias ? ' dbias' : ''}`;
    const known = kinds.get(key) ?? lowerAttention(node, lse, dbias);
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
      const names = attentionOperands(kindOf(node), givenTo(node));
      return names.map((name) => name === 'documents' || inputs.includes(name));
    },
  };
}
