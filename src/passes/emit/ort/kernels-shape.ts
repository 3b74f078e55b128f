/** Data movement and reductions. Targets are local sizes, never −1. */
import { numberAttr, numbersAttr } from '../../../ir/graph.js';
import { dimIndex } from '../../../ir/infer.js';
import { constantOf } from '../../../ir/size.js';
import { dim, tensorType, type Type } from '../../../ir/type.js';
import type { OrtValue } from './builder.js';
import { elementCode } from './proto.js';
import { operands, operandType, resultType, typeOf, type KernelContext, type OrtKernel } from './kernel.js';

export const constant: OrtKernel = {
  lower: (k) => [
    k.build.constant(resultType(k).dtype, numbersAttr(k.attrs, 'shape'), numbersAttr(k.attrs, 'data')),
  ],
};

export const reshapeTo = (k: KernelContext, x: OrtValue, type: Type): OrtValue =>
  k.build.op('Reshape', [x, k.build.shape(type.dims)], type, { allowzero: 1 });

export const reshape: OrtKernel = { lower: (k) => [reshapeTo(k, k.operand(0), resultType(k))] };

export const broadcast: OrtKernel = {
  lower: (k) => [k.build.op('Expand', [k.operand(0), k.build.shape(resultType(k).dims)], resultType(k))],
};

export const transpose: OrtKernel = {
  lower: (k) => {
    const perm = numbersAttr(k.attrs, 'perm').map((p) => dimIndex(p, resultType(k).dims.length));
    return [k.build.op('Transpose', [k.operand(0)], resultType(k), { perm })];
  },
};

const attrDim = (k: KernelContext): number =>
  dimIndex(numberAttr(k.attrs, 'dim'), operandType(k, 0).dims.length);

function sliceOf(k: KernelContext, x: OrtValue, type: Type, bounds: readonly number[]): OrtValue {
  const [at, start, end, step] = bounds.map((n) => k.build.int64s([n]));
  return k.build.op('Slice', [x, start, end, at, step], type);
}

export const slice: OrtKernel = {
  lower: (k) => {
    const bounds = ['start', 'end', 'step'].map((name) => numberAttr(k.attrs, name));
    return [sliceOf(k, k.operand(0), resultType(k), [attrDim(k), ...bounds])];
  },
};

export const dropLast: OrtKernel = {
  lower: (k) => [sliceOf(k, k.operand(0), resultType(k), [attrDim(k), 0, -numberAttr(k.attrs, 'count'), 1])],
};

/** Zeros around one dim. */
function padded(k: KernelContext, x: OrtValue, at: number, before: number, after: number): OrtValue {
  if (before === 0 && after === 0) return x;
  const { dtype, dims } = typeOf(x);
  const size = constantOf(dims[at]!.size)! + before + after;
  const pads = [
    ...dims.map((_, i) => (i === at ? before : 0)),
    ...dims.map((_, i) => (i === at ? after : 0)),
  ];
  return k.build.op(
    'Pad',
    [x, k.build.int64s(pads), k.build.constant(dtype, [], [0])],
    tensorType(
      dtype,
      dims.map((d, i) => (i === at ? dim(size) : d)),
    ),
  );
}

export const unslice: OrtKernel = {
  lower: (k) => {
    const at = attrDim(k);
    const [start, step, size] = ['start', 'step', 'size'].map((name) => numberAttr(k.attrs, name));
    const x = k.operand(0);
    const spread = step === 1 ? x : interleaved(k, x, at, step!);
    const { dtype, dims } = typeOf(spread);
    const rest = size! - start! - constantOf(dims[at]!.size)!;
    if (rest >= 0) return [padded(k, spread, at, start!, rest)];
    // The zeros after the last element reach beyond the dim.
    const cut = tensorType(
      dtype,
      dims.map((d, i) => (i === at ? dim(size! - start!) : d)),
    );
    return [padded(k, sliceOf(k, spread, cut, [at, 0, size! - start!, 1]), at, start!, 0)];
  },
};

/** Every element followed by step − 1 zeros. */
function interleaved(k: KernelContext, x: OrtValue, at: number, step: number): OrtValue {
  const { dtype, dims } = typeOf(x);
  const column = k.build.op(
    'Unsqueeze',
    [x, k.build.int64s([at + 1])],
    tensorType(dtype, dims.toSpliced(at + 1, 0, dim(1))),
  );
  const zeros = padded(k, column, at + 1, 0, step - 1);
  const size = constantOf(dims[at]!.size)! * step;
  return reshapeTo(k, zeros, tensorType(dtype, dims.with(at, dim(size))));
}

export const concat: OrtKernel = {
  lower: (k) => [k.build.op('Concat', operands(k), resultType(k), { axis: attrDim(k) })],
};

/** Axes are never negative: of an empty tensor ONNX Runtime then gives back the operand's shape. */
export const reduction = (op: 'ReduceSum' | 'ReduceMean' | 'ReduceMax' | 'ReduceLogSumExp'): OrtKernel => ({
  lower: (k) => {
    const dims = numbersAttr(k.attrs, 'dims').map((d) => dimIndex(d, operandType(k, 0).dims.length));
    if (dims.length === 0) return [k.operand(0)];
    const attrs = { keepdims: k.attrs['keep'] === true ? 1 : 0 };
    return [k.build.op(op, [k.operand(0), k.build.int64s(dims)], resultType(k), attrs)];
  },
});

export const softmax: OrtKernel = {
  lower: (k) => [k.build.op('Softmax', [k.operand(0)], resultType(k), { axis: attrDim(k) })],
};

export const cast: OrtKernel = {
  lower: (k) => [k.build.op('Cast', [k.operand(0)], resultType(k), { to: elementCode(resultType(k).dtype) })],
};

/**
 * ONNX gives the places as int64. Its TopK divides by the number of rows, which ends the process on a rank
 * without tokens: it sees one row more, which is cut off again. The padded rows are not counted as temporaries:
 * they are one expert's score a token.
 */
export const topK: OrtKernel = {
  lower: (k) => {
    const { build } = k;
    const { dims } = operandType(k, 0);
    const flat = build.shape([dims.slice(0, -1), dims.at(-1)!]);
    const rows =
      dims.length === 2 ? k.operand(0) : build.shapeOp('Reshape', [k.operand(0), flat], { allowzero: 1 });
    const padded = build.shapeOp('Pad', [rows, build.int64s([0, 0, 1, 0])]);
    const count = build.int64s([numberAttr(k.attrs, 'k')]);
    const found = build.ops('TopK', [padded, count], ['int64', 'int64'], { axis: 1 });
    const cut = found.map((x) =>
      build.shapeOp('Slice', [x, build.int64s([0]), build.int64s([-1]), build.int64s([0])]),
    );
    const places = build.op('Cast', [cut[1]!], resultType(k, 1), { to: elementCode('i32') });
    return [cut[0]!, places].map((x, i) =>
      build.op('Reshape', [x, build.shape(resultType(k, i).dims)], resultType(k, i), { allowzero: 1 }),
    );
  },
};
