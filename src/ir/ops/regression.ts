import { axes } from '../infer.js';
import { defineOp, tensor } from './define.js';
import { IGNORED_LABEL } from './loss.js';

export const squaredError = defineOp('squared_error', {
  doc: 'Sum over counted tokens of the mean over outputs of (prediction − target)², and the number of counted tokens; a token with label −100 is not counted.',
  operands: ['predictions', 'targets', 'labels'],
  infer: axes('t C, t C, t -> , ', { linearity: 'none', operandDTypes: ['f32', 'f32', 'i32'] }),
  vjp: ({ cotangents: [g], operands: [predictions, targets, labels], wanted, build }) => {
    const error = g && build.one('squared_error_vjp', [predictions!, targets!, labels!, g]);
    return [error, error && wanted[1] ? build.one('neg', [error]) : undefined, undefined];
  },
  eval: ({ inputs: [predictions, targets, labels], shapes }) => {
    const [sum, count] = [tensor(shapes[0]!), tensor(shapes[1]!)];
    const n = predictions!.shape[1]!;
    labels!.data.forEach((label, t) => {
      if (label === IGNORED_LABEL) return;
      for (let i = 0; i < n; i++)
        sum.data[0]! += (predictions!.data[t * n + i]! - targets!.data[t * n + i]!) ** 2 / n;
      count.data[0]! += 1;
    });
    return [sum, count];
  },
  samples: [
    {
      operands: [
        { type: 'f32[S@sp, 3]' },
        { type: 'f32[S@sp, 3]' },
        { type: 'i32[S@sp]', range: [0, 1], integers: true },
      ],
    },
  ],
});

export const squaredErrorVjp = defineOp('squared_error_vjp', {
  doc: 'g · 2 (prediction − target) / outputs, zero where the label is −100; g is the cotangent of the sum.',
  operands: ['predictions', 'targets', 'labels', 'g'],
  infer: axes('t C, t C, t, -> t C', { linearity: 'last', operandDTypes: ['f32', 'f32', 'i32', 'f32'] }),
  eval: ({ inputs: [predictions, targets, labels, g], shapes }) => {
    const out = tensor(shapes[0]!);
    const n = predictions!.shape[1]!;
    labels!.data.forEach((label, t) => {
      if (label === IGNORED_LABEL) return;
      for (let at = t * n; at < (t + 1) * n; at++)
        out.data[at] = (g!.data[0]! * 2 * (predictions!.data[at]! - targets!.data[at]!)) / n;
    });
    return [out];
  },
  samples: [
    {
      operands: [
        { type: 'f32[S@sp, 3]' },
        { type: 'f32[S@sp, 3]' },
        { type: 'i32[S@sp]', range: [0, 1], integers: true },
        { type: 'f32[]' },
      ],
    },
  ],
});
