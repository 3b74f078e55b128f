import { attrsText } from '../../ir/attrs.js';
import type { Node } from '../../ir/graph.js';
import { lowerAttention } from './ort/attention.js';
import type { AttentionKernels, AttentionModel } from './ort/lowered.js';

/** Names a kernel gives to the operands of its op; documents cut the rows into calls. */
const ATTENTION_OPERANDS = ['q', 'k', 'v', 'documents', 'out', 'lse', 'g'] as const;

export interface AttentionLowering {
  readonly models: (node: Node) => { model: AttentionModel; mapped: AttentionModel | undefined };
  /** Operands the kernel reads; what it can do without need not be kept for it. */
  readonly taken: (node: Node) => readonly boolean[];
}

/** Lowers each kind of attention once: layers mostly share theirs. */
export function attentionLowering(): AttentionLowering {
  const kinds = new Map<string, AttentionKernels>();
  const kernels = (node: Node): AttentionKernels => {
    const sizes = node.operands.slice(0, 3).map((v) => v.type.dims.slice(1).map((d) => d.size.key));
    const key = `${attrsText(node.attrs)} ${sizes.join(';')}`;
    const known = kinds.get(key) ?? lowerAttention(node);
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
