import type { OnnxOp } from '../context.js';
import { attentionOps } from './attention.js';
import { contractOps } from './contract.js';
import { elementwiseOps } from './elementwise.js';
import { generateOps } from './generate.js';
import { layoutOps } from './layout.js';
import { selectOps } from './select.js';

/** The operations of ai.onnx that can be imported. */
export const ONNX_OPS = {
  ...elementwiseOps,
  ...layoutOps,
  ...selectOps,
  ...generateOps,
  ...contractOps,
  ...attentionOps,
} as const satisfies Record<string, OnnxOp>;

export const onnxOp = (opType: string): OnnxOp | undefined =>
  Object.hasOwn(ONNX_OPS, opType) ? ONNX_OPS[opType as keyof typeof ONNX_OPS] : undefined;
