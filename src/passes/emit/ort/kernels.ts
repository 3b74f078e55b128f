import type { OpName } from '../../../ir/ops/index.js';
import { direct, instruction, type OrtKernel } from './kernel.js';
import * as activation from './kernels-activation.js';
import * as distillation from './kernels-distillation.js';
import * as linear from './kernels-linear.js';
import * as loss from './kernels-loss.js';
import * as norm from './kernels-norm.js';
import * as optimizer from './kernels-optimizer.js';
import * as shape from './kernels-shape.js';

/** The ONNX Runtime lowering of every op. A missing kernel does not compile. */
export const ORT_KERNELS = {
  input: instruction,
  constant: shape.constant,
  neg: direct('Neg'),
  exp: direct('Exp'),
  log: direct('Log'),
  sqrt: direct('Sqrt'),
  reciprocal: direct('Reciprocal'),
  tanh: direct('Tanh'),
  sigmoid: direct('Sigmoid'),
  sin: direct('Sin'),
  cos: direct('Cos'),
  erf: direct('Erf'),
  relu: direct('Relu'),
  abs: direct('Abs'),
  is_nan: direct('IsNaN'),
  not: direct('Not'),
  cast: shape.cast,
  add: linear.add,
  sub: direct('Sub'),
  mul: direct('Mul'),
  div: direct('Div'),
  pow: direct('Pow'),
  maximum: direct('Max'),
  minimum: direct('Min'),
  equal: direct('Equal'),
  less: direct('Less'),
  less_equal: direct('LessOrEqual'),
  and: direct('And'),
  or: direct('Or'),
  where: direct('Where'),
  reshape: shape.reshape,
  transpose: shape.transpose,
  slice: shape.slice,
  unslice: shape.unslice,
  concat: shape.concat,
  drop_last: shape.dropLast,
  broadcast: shape.broadcast,
  matmul: linear.matmul,
  reduce_sum: shape.reduction('ReduceSum'),
  reduce_mean: shape.reduction('ReduceMean'),
  reduce_max: shape.reduction('ReduceMax'),
  log_sum_exp: shape.reduction('ReduceLogSumExp'),
  softmax: shape.softmax,
  top_k: shape.topK,
  gelu: activation.gelu,
  gelu_vjp: activation.geluVjp,
  silu: activation.silu,
  silu_vjp: activation.siluVjp,
  rms_norm: norm.rmsNorm,
  rms_norm_vjp: norm.rmsNormVjp,
  layer_norm: norm.layerNorm,
  layer_norm_vjp: norm.layerNormVjp,
  gather: linear.gather,
  gather_vjp: linear.gatherVjp,
  attention: instruction,
  attention_vjp: instruction,
  cross_entropy: loss.crossEntropy,
  cross_entropy_vjp: loss.crossEntropyVjp,
  correct: loss.correct,
  squared_error: loss.squaredError,
  squared_error_vjp: loss.squaredErrorVjp,
  soft_cross_entropy: distillation.softCrossEntropy,
  soft_cross_entropy_vjp: distillation.softCrossEntropyVjp,
  document_sum: linear.documentSum,
  tiled: instruction,
  all_to_all: instruction,
  all_reduce: instruction,
  reduce_scatter: instruction,
  all_gather: instruction,
  shard: instruction,
  sum_squares: optimizer.sumSquares,
  clip_factor: optimizer.clipFactor,
  adamw: optimizer.adamw,
} as const satisfies { [K in OpName]: OrtKernel };

/** Whether an op is compute that goes into a segment. */
export const isLowered = (op: OpName): boolean => {
  const kernel: OrtKernel = ORT_KERNELS[op];
  return kernel.instruction !== true;
};
