/**
 * Norms over the last dim. Cotangents of weights are sums over the local rows. Nodes are emitted so that the
 * order ONNX Runtime gives them (`executionOrder`) keeps few of the large tensors alive: what is to run first
 * comes last.
 */
import { numberAttr } from '../../../ir/graph.js';
import { constantOf } from '../../../ir/size.js';
import { dim, tensorType, type Type } from '../../../ir/type.js';
import { keptType, type OrtValue } from './builder.js';
import { operandType, resultType, withScalar, type KernelContext, type OrtKernel } from './kernel.js';

const epsilon = (k: KernelContext): { axis: number; epsilon: { float: number } } => ({
  axis: -1,
  epsilon: { float: numberAttr(k.attrs, 'eps') },
});

export const rmsNorm: OrtKernel = {
  lower: (k) => [k.build.op('RMSNormalization', [k.operand(0), k.operand(1)], resultType(k), epsilon(k))],
};

export const layerNorm: OrtKernel = {
  lower: (k) => [
    k.build.op('LayerNormalization', [k.operand(0), k.operand(1), k.operand(2)], resultType(k), epsilon(k)),
  ],
};

interface Rows {
  readonly size: number;
  /** Type of x and of a scalar per row. */
  readonly full: Type;
  readonly row: Type;
}

const rowsOf = (k: KernelContext): Rows => {
  const x = operandType(k, 0);
  const full = tensorType('f32', x.dims);
  return {
    size: constantOf(x.dims.at(-1)!.size)!,
    full,
    row: keptType(full, new Set([x.dims.length - 1])),
  };
};

/** Σ over the last dim of a · w / n, one number a row: a product with the column w. */
function weightedMean(k: KernelContext, { size, row }: Rows, a: OrtValue, w: OrtValue): OrtValue {
  const column = k.build.op('Unsqueeze', [w, k.build.int64s([1])], tensorType('f32', [dim(size), dim(1)]));
  return withScalar(k, 'Mul', k.build.op('MatMul', [a, column], row), 1 / size);
}

/** Σ over all dims but the last. */
function sumRows(k: KernelContext, x: OrtValue, type: Type): OrtValue {
  const lead = x.type!.dims.length - 1;
  if (lead === 0) return x;
  const dims = k.build.int64s(Array.from({ length: lead }, (_, i) => i));
  return k.build.op('ReduceSum', [x, dims], type, { keepdims: 0 });
}

export const rmsNormVjp: OrtKernel = {
  lower: (k) => {
    const [x, w, g] = [k.operand(0), k.operand(1), k.operand(2)];
    const rows = rowsOf(k);
    const { full, row, size } = rows;
    const squares = k.build.op('ReduceSumSquare', [x, k.build.int64s([full.dims.length - 1])], row, {
      keepdims: 1,
    });
    const variance = withScalar(
      k,
      'Add',
      withScalar(k, 'Mul', squares, 1 / size),
      numberAttr(k.attrs, 'eps'),
    );
    const inverse = k.build.op('Reciprocal', [k.build.op('Sqrt', [variance], row)], row);
    const normal = k.build.op('Mul', [x, inverse], full);
    const weighted = k.build.op('Mul', [g, normal], full);
    const scaled = k.build.op('Mul', [k.build.op('Mul', [g, w], full), inverse], full);
    const dot = k.build.op('Mul', [weightedMean(k, rows, weighted, w), inverse], row);
    const along = k.build.op('Mul', [normal, dot], full);
    const dx = k.build.op('Sub', [scaled, along], full);
    return [dx, sumRows(k, weighted, resultType(k, 1))];
  },
};

export const layerNormVjp: OrtKernel = {
  lower: (k) => {
    const [x, w, g] = [k.operand(0), k.operand(1), k.operand(2)];
    const rows = rowsOf(k);
    const { full, row, size } = rows;
    const ones = k.build.constant(
      'f32',
      [size],
      Array.from({ length: size }, () => 1),
    );
    const [normal, , inverse] = k.build.ops(
      'LayerNormalization',
      [x, ones],
      [full, undefined, row],
      epsilon(k),
    );
    const weighted = k.build.op('Mul', [g, normal!], full);
    const product = k.build.op('Mul', [g, w], full);
    const along = k.build.op('Mul', [normal!, weightedMean(k, rows, weighted, w)], full);
    const across = k.build.op('Sub', [product, along], full);
    const centred = k.build.op('Sub', [across, weightedMean(k, rows, g, w)], full);
    const dx = k.build.op('Mul', [centred, inverse!], full);
    const db = sumRows(k, g, resultType(k, 2));
    return [dx, sumRows(k, weighted, resultType(k, 1)), db];
  },
};
