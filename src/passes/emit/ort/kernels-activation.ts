import { GELU_CUBIC, GELU_SQRT_2_OVER_PI } from '../../../ir/ops/activation.js';
import type { OrtValue } from './builder.js';
import { direct, resultType, withScalar, type KernelContext, type OrtKernel } from './kernel.js';

const elementwise = (k: KernelContext, op: string, ...inputs: OrtValue[]): OrtValue =>
  k.build.op(op, inputs, resultType(k));

export const gelu: OrtKernel = {
  lower: (k) => [
    k.build.op('Gelu', [k.operand(0)], resultType(k), {
      approximate: k.attrs['approximate'] === 'tanh' ? 'tanh' : 'none',
    }),
  ],
};

/**
 * d/dx of x·σ(z) with z = 2√(2/π)·(x + 0.044715·x³), the tanh form of GELU: σ·(1 + x·z'·(1 − σ)).
 */
function tanhSlope(k: KernelContext, x: OrtValue): OrtValue {
  const linear = 2 * GELU_SQRT_2_OVER_PI;
  const cubic = linear * GELU_CUBIC;
  const square = elementwise(k, 'Mul', x, x);
  const z = elementwise(k, 'Mul', x, withScalar(k, 'Add', withScalar(k, 'Mul', square, cubic), linear));
  const gate = elementwise(k, 'Sigmoid', z);
  const slopeZ = withScalar(k, 'Add', withScalar(k, 'Mul', square, 3 * cubic), linear);
  return gatedSlope(k, gate, elementwise(k, 'Mul', x, slopeZ));
}

/** σ·(1 + w·(1 − σ)). */
function gatedSlope(k: KernelContext, gate: OrtValue, w: OrtValue): OrtValue {
  const rest = k.build.op('Sub', [k.build.float(1), gate], resultType(k));
  return elementwise(k, 'Mul', gate, withScalar(k, 'Add', elementwise(k, 'Mul', w, rest), 1));
}

/** Φ(x) + x·φ(x). */
function erfSlope(k: KernelContext, x: OrtValue): OrtValue {
  const error = elementwise(k, 'Erf', withScalar(k, 'Mul', x, Math.SQRT1_2));
  const cumulative = withScalar(k, 'Add', withScalar(k, 'Mul', error, 0.5), 0.5);
  const exponent = withScalar(k, 'Mul', elementwise(k, 'Mul', x, x), -0.5);
  const density = withScalar(k, 'Mul', elementwise(k, 'Exp', exponent), 1 / Math.sqrt(2 * Math.PI));
  return elementwise(k, 'Add', cumulative, elementwise(k, 'Mul', x, density));
}

export const geluVjp: OrtKernel = {
  lower: (k) => {
    const [x, g] = [k.operand(0), k.operand(1)];
    const slope = k.attrs['approximate'] === 'tanh' ? tanhSlope(k, x) : erfSlope(k, x);
    return [elementwise(k, 'Mul', g, slope)];
  },
};

export const sigmoid = direct('Sigmoid');

export const silu: OrtKernel = {
  lower: (k) => {
    const x = k.operand(0);
    return [elementwise(k, 'Mul', x, elementwise(k, 'Sigmoid', x))];
  },
};

export const siluVjp: OrtKernel = {
  lower: (k) => {
    const [x, g] = [k.operand(0), k.operand(1)];
    return [elementwise(k, 'Mul', g, gatedSlope(k, elementwise(k, 'Sigmoid', x), x))];
  },
};
