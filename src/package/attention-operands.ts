import type { KernelInfo, TileModel } from './program.js';

type Kind = KernelInfo['op'];

/** What attention is given beside what it always is. */
export interface AttentionExtras {
  /** The cotangent of the log-sum-exp. */
  readonly glse: boolean;
  /** The relative bias. */
  readonly bias: boolean;
}

/** Names that kernels give to the operands of an attention instruction, in order; documents become tiles. */
export const attentionOperands = (kind: Kind, { glse, bias }: AttentionExtras): readonly string[] => [
  'q',
  'k',
  'v',
  'documents',
  ...(kind === 'attention' ? [] : ['out', 'lse', 'g']),
  ...(kind === 'attention_vjp' && glse ? ['glse'] : []),
  ...(bias ? ['bias'] : []),
];

/** The same of its results. */
export const attentionResults = (kind: Kind, { bias }: AttentionExtras): readonly string[] =>
  kind === 'attention' ? ['out', 'lse'] : ['dq', 'dk', 'dv', ...(bias ? ['dbias'] : [])];

/** A kernel takes what its instruction is given of these. */
export const extrasOf = ({ inputs }: Pick<TileModel, 'inputs'>): AttentionExtras => ({
  glse: inputs.includes('glse'),
  bias: inputs.includes('bias'),
});
