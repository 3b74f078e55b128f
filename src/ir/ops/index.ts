import type { OpDef } from '../op.js';
import * as activation from './activation.js';
import * as attention from './attention.js';
import * as collective from './collective.js';
import * as distillation from './distillation.js';
import * as document from './document.js';
import * as elementwise from './elementwise.js';
import * as embedding from './embedding.js';
import * as linear from './linear.js';
import * as loss from './loss.js';
import * as norm from './norm.js';
import * as optimizer from './optimizer.js';
import * as reduce from './reduce.js';
import * as regression from './regression.js';
import * as shape from './shape.js';
import * as tiled from './tiled.js';
import * as topK from './top-k.js';
import { TypeMismatch } from '../op.js';
import { defineOp } from './define.js';

const input = defineOp('input', {
  doc: 'A graph input: data, a parameter, a gradient, optimizer state or a scalar. Its type is given, not inferred.',
  operands: [],
  infer: () => {
    throw new TypeMismatch('the type of an input is given');
  },
  samples: [],
});

/** The op table: one home for everything that is true of an op on every machine. Backends map over `OpName`. */
export const OPS = {
  input,
  constant: shape.constant,
  neg: elementwise.neg,
  exp: elementwise.exp,
  log: elementwise.log,
  sqrt: elementwise.sqrt,
  reciprocal: elementwise.reciprocal,
  tanh: elementwise.tanh,
  sigmoid: elementwise.sigmoid,
  sin: elementwise.sin,
  cos: elementwise.cos,
  erf: elementwise.erfOp,
  relu: elementwise.relu,
  abs: elementwise.abs,
  is_nan: elementwise.isNan,
  not: elementwise.not,
  cast: elementwise.cast,
  add: elementwise.add,
  sub: elementwise.sub,
  mul: elementwise.mul,
  div: elementwise.div,
  pow: elementwise.pow,
  maximum: elementwise.maximum,
  minimum: elementwise.minimum,
  equal: elementwise.equal,
  less: elementwise.less,
  less_equal: elementwise.lessEqual,
  and: elementwise.and,
  or: elementwise.or,
  where: elementwise.where,
  reshape: shape.reshape,
  transpose: shape.transpose,
  slice: shape.slice,
  unslice: shape.unslice,
  concat: shape.concat,
  drop_last: shape.dropLast,
  broadcast: shape.broadcast,
  matmul: linear.matmul,
  reduce_sum: reduce.reduceSum,
  reduce_mean: reduce.reduceMean,
  reduce_max: reduce.reduceMax,
  log_sum_exp: reduce.logSumExp,
  softmax: reduce.softmax,
  top_k: topK.topK,
  gelu: activation.gelu,
  gelu_vjp: activation.geluVjp,
  silu: activation.silu,
  silu_vjp: activation.siluVjp,
  rms_norm: norm.rmsNorm,
  rms_norm_vjp: norm.rmsNormVjp,
  layer_norm: norm.layerNorm,
  layer_norm_vjp: norm.layerNormVjp,
  gather: embedding.gather,
  gather_vjp: embedding.gatherVjp,
  attention: attention.attention,
  attention_vjp: attention.attentionVjp,
  cross_entropy: loss.crossEntropy,
  cross_entropy_vjp: loss.crossEntropyVjp,
  correct: loss.correct,
  squared_error: regression.squaredError,
  squared_error_vjp: regression.squaredErrorVjp,
  soft_cross_entropy: distillation.softCrossEntropy,
  soft_cross_entropy_vjp: distillation.softCrossEntropyVjp,
  document_sum: document.documentSum,
  tiled: tiled.tiled,
  all_to_all: collective.allToAll,
  all_reduce: collective.allReduce,
  reduce_scatter: collective.reduceScatter,
  all_gather: collective.allGather,
  shard: collective.shard,
  sum_squares: optimizer.sumSquares,
  clip_factor: optimizer.clipFactor,
  adamw: optimizer.adamw,
} as const satisfies { [K in string]: OpDef & { readonly name: K } };

export type OpName = keyof typeof OPS;

export const isOpName = (name: string): name is OpName => Object.hasOwn(OPS, name);

/** The definition of an op that is known to exist. */
export const opDef = (name: string): OpDef => {
  if (!isOpName(name)) throw new TypeMismatch(`there is no op '${name}'`);
  return OPS[name];
};
