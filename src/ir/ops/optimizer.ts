import type { Attrs } from '../graph.js';
import { numberAttr } from '../graph.js';
import { elementwise, pendingOf, requireDType, summedOver } from '../infer.js';
import { TypeMismatch } from '../op.js';
import { printType, sameType, tensorType } from '../type.js';
import { defineOp, mapElements, tensor } from './define.js';

export const sumSquares = defineOp('sum_squares', {
  doc: 'Σ x² over all elements: a pending sum when x is split.',
  operands: ['x'],
  infer: ({ types: [x] }) => {
    pendingOf([x!], 'none');
    return [tensorType('f32', [], summedOver(x!.dims, undefined))];
  },
  eval: ({ inputs: [x], shapes }) => {
    const out = tensor(shapes[0]!);
    for (const value of x!.data) out.data[0]! += value * value;
    return [out];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 3]' }] }, { operands: [{ type: 'f32[3]' }] }],
});

export const clipFactor = defineOp('clip_factor', {
  doc: 'min(1, max_norm / (norm + 1e-6)): the factor that clips gradients to a global norm, as PyTorch’s clip_grad_norm_. max_norm 0 means no clipping.',
  operands: ['norm'],
  attrs: { max_norm: 'number' },
  infer: elementwise('none'),
  eval: ({ inputs, shapes, attrs }) => {
    const max = numberAttr(attrs, 'max_norm');
    return [mapElements(shapes[0]!, inputs, (norm) => (max === 0 ? 1 : Math.min(1, max / (norm + 1e-6))))];
  },
  samples: [{ operands: [{ type: 'f32[]', range: [0.1, 3] }], attrs: { max_norm: 1 } }],
});

const scalars = ['lr', 'correction1', 'correction2'];

export const adamw = defineOp('adamw', {
  doc: 'AdamW with decoupled weight decay (arXiv 1711.05101): results (parameter, m, v). lr: learning rate of the step; correction1 = 1 − beta1^t, correction2 = 1 − beta2^t. All tensors are placed alike.',
  operands: ['parameter', 'gradient', 'm', 'v', ...scalars],
  attrs: { beta1: 'number', beta2: 'number', eps: 'number', decay: 'number' },
  infer: ({ types }) => {
    pendingOf(types, 'none');
    const [parameter, gradient, m, v] = types;
    requireDType(parameter!, 'f32', 'the parameter of adamw');
    for (const t of [gradient, m, v])
      if (!sameType(parameter!, t!))
        throw new TypeMismatch(
          `adamw: the parameter is ${printType(parameter!)}, another operand ${printType(t!)}`,
        );
    for (const t of types.slice(4))
      if (t.dims.length !== 0 || t.dtype !== 'f32')
        throw new TypeMismatch('adamw: lr and corrections are scalars');
    return [parameter!, parameter!, parameter!];
  },
  eval: ({ inputs, attrs, shapes }) => {
    const [parameter, gradient, m, v, lr, c1, c2] = inputs.map((t) => t.data);
    const { beta1, beta2, eps, decay } = hyperParameters(attrs);
    const outs = shapes.map((shape) => tensor(shape));
    parameter!.forEach((p, i) => {
      const g = gradient![i]!;
      const m1 = beta1 * m![i]! + (1 - beta1) * g;
      const v1 = beta2 * v![i]! + (1 - beta2) * g * g;
      const step = (lr![0]! * (m1 / c1![0]!)) / (Math.sqrt(v1 / c2![0]!) + eps);
      outs[0]!.data[i] = p * (1 - lr![0]! * decay) - step;
      outs[1]!.data[i] = m1;
      outs[2]!.data[i] = v1;
    });
    return outs;
  },
  samples: [
    {
      operands: [
        { type: 'f32[4, 2]' },
        { type: 'f32[4, 2]' },
        { type: 'f32[4, 2]' },
        { type: 'f32[4, 2]', range: [0.1, 1] },
        { type: 'f32[]', range: [0.01, 0.1] },
        { type: 'f32[]', range: [0.1, 0.9] },
        { type: 'f32[]', range: [0.1, 0.9] },
      ],
      attrs: { beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1 },
    },
  ],
});

export const hyperParameters = (
  attrs: Attrs,
): { beta1: number; beta2: number; eps: number; decay: number } => ({
  beta1: numberAttr(attrs, 'beta1'),
  beta2: numberAttr(attrs, 'beta2'),
  eps: numberAttr(attrs, 'eps'),
  decay: numberAttr(attrs, 'decay'),
});
