import { numberAttr } from '../../../ir/graph.js';
import { hyperParameters } from '../../../ir/ops/optimizer.js';
import { tensorType } from '../../../ir/type.js';
import type { OrtValue } from './builder.js';
import { operandType, resultType, withScalar, type OrtKernel } from './kernel.js';

const scalar = tensorType('f32', []);

export const sumSquares: OrtKernel = {
  lower: (k) => {
    const x = k.operand(0);
    const dims = operandType(k, 0).dims.map((_, i) => i);
    if (dims.length === 0) return [k.build.op('Mul', [x, x], resultType(k))];
    return [k.build.op('ReduceSumSquare', [x, k.build.int64s(dims)], resultType(k), { keepdims: 0 })];
  },
};

export const clipFactor: OrtKernel = {
  lower: (k) => {
    const norm = k.operand(0);
    const max = numberAttr(k.attrs, 'max_norm');
    const type = resultType(k);
    if (max === 0) return [k.build.op('Expand', [k.build.float(1), k.build.shape(type.dims)], type)];
    const ratio = k.build.op('Div', [k.build.float(max), withScalar(k, 'Add', norm, 1e-6)], type);
    return [withScalar(k, 'Min', ratio, 1)];
  },
};

export const adamw: OrtKernel = {
  lower: (k) => {
    const [parameter, gradient, m, v, lr, correction1, correction2] = k.node.operands.map((_, i) =>
      k.operand(i),
    ) as [OrtValue, OrtValue, OrtValue, OrtValue, OrtValue, OrtValue, OrtValue];
    const { beta1, beta2, eps, decay } = hyperParameters(k.attrs);
    const type = resultType(k);
    const op = (name: string, a: OrtValue, b: OrtValue): OrtValue => k.build.op(name, [a, b], type);
    const m1 = op('Add', withScalar(k, 'Mul', m, beta1), withScalar(k, 'Mul', gradient, 1 - beta1));
    const square = withScalar(k, 'Mul', op('Mul', gradient, gradient), 1 - beta2);
    const v1 = op('Add', withScalar(k, 'Mul', v, beta2), square);
    const root = k.build.op('Sqrt', [op('Div', v1, correction2)], type);
    const rate = k.build.op('Div', [lr, correction1], scalar);
    const step = op('Div', op('Mul', m1, rate), withScalar(k, 'Add', root, eps));
    const keep = k.build.op('Sub', [k.build.float(1), withScalar(k, 'Mul', lr, decay)], scalar);
    const decayed = decay === 0 ? parameter : op('Mul', parameter, keep);
    return [op('Sub', decayed, step), m1, v1];
  },
};
