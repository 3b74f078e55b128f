import type { OnnxNode } from '../../model.js';
import type { OnnxOp } from '../context.js';
import { formulaOps } from './formula.js';
import { attentionOps } from './attention.js';
import { contractOps } from './contract.js';
import { contribOps } from './contrib.js';
import { Einsum } from './einsum.js';
import { elementwiseOps } from './elementwise.js';
import { generateOps } from './generate.js';
import { layoutOps } from './layout.js';
import { normOps } from './norm.js';
import { oneHotOps } from './one-hot.js';
import { padOps } from './pad.js';
import { poolingOps } from './pooling.js';
import { reduceOps } from './reduce.js';
import { scatterOps } from './scatter.js';
import { selectOps } from './select.js';

/** The operations of ai.onnx that can be imported (and one that ONNX Runtime puts there). */
export const ONNX_OPS = {
  ...elementwiseOps,
  ...formulaOps,
  ...layoutOps,
  ...selectOps,
  ...scatterOps,
  ...generateOps,
  ...padOps,
  ...contractOps,
  ...normOps,
  ...reduceOps,
  ...oneHotOps,
  Einsum,
  ...attentionOps,
  ...poolingOps,
} as const satisfies Record<string, OnnxOp>;

/** The operation of a node, by its domain. */
export function onnxOp({ domain, opType }: Pick<OnnxNode, 'domain' | 'opType'>): OnnxOp | undefined {
  const ops: Readonly<Record<string, OnnxOp>> =
    domain === '' || domain === 'ai.onnx' ? ONNX_OPS : domain === 'com.microsoft' ? contribOps : {};
  return Object.hasOwn(ops, opType) ? ops[opType] : undefined;
}
