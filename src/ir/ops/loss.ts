import { axes } from '../infer.js';
import type { InferContext } from '../op.js';
import type { Attrs } from '../graph.js';
import type { Type } from '../type.js';
import { defineOp, tensor } from './define.js';

/** Labels with this value are not predicted (the convention of PyTorch and Hugging Face). */
export const IGNORED_LABEL = -100;

const infer: (ctx: InferContext<Attrs>) => readonly Type[] = axes('t V, t -> , ', {
  linearity: 'none',
  operandDTypes: ['f32', 'i32'],
});

const logSumExp = (data: Float64Array, start: number, n: number): number => {
  let max = -Infinity;
  for (let i = 0; i < n; i++) max = Math.max(max, data[start + i]!);
  let sum = 0;
  for (let i = 0; i < n; i++) sum += Math.exp(data[start + i]! - max);
  return max + Math.log(sum);
};

const checkLabel = (label: number, vocabulary: number): void => {
  if (!(label >= 0 && label < vocabulary))
    throw new RangeError(`label ${label} is outside a vocabulary of ${vocabulary}`);
};

export const crossEntropy = defineOp('cross_entropy', {
  doc: 'Sum over tokens of −log softmax(logits)[label] and the number of counted tokens; label −100 is not counted. Never a mean: (0, 0) when nothing is counted.',
  operands: ['logits', 'labels'],
  infer,
  vjp: ({ cotangents: [g], operands: [logits, labels], build }) => [
    g && build.one('cross_entropy_vjp', [logits!, labels!, g]),
    undefined,
  ],
  eval: ({ inputs: [logits, labels], shapes }) => {
    const [sum, count] = [tensor(shapes[0]!), tensor(shapes[1]!)];
    const n = logits!.shape[1]!;
    labels!.data.forEach((label, t) => {
      if (label === IGNORED_LABEL) return;
      checkLabel(label, n);
      sum.data[0]! += logSumExp(logits!.data, t * n, n) - logits!.data[t * n + label]!;
      count.data[0]! += 1;
    });
    return [sum, count];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 5]' }, { type: 'i32[S@sp]', range: [0, 4], integers: true }] }],
});

export const crossEntropyVjp = defineOp('cross_entropy_vjp', {
  doc: 'g · (softmax(logits) − one_hot(label)), zero where the label is −100; g is the cotangent of the sum.',
  operands: ['logits', 'labels', 'g'],
  infer: axes('t V, t, -> t V', { linearity: 'last', operandDTypes: ['f32', 'i32', 'f32'] }),
  eval: ({ inputs: [logits, labels, g], shapes }) => {
    const out = tensor(shapes[0]!);
    const n = logits!.shape[1]!;
    labels!.data.forEach((label, t) => {
      if (label === IGNORED_LABEL) return;
      checkLabel(label, n);
      const lse = logSumExp(logits!.data, t * n, n);
      for (let i = 0; i < n; i++)
        out.data[t * n + i] = g!.data[0]! * (Math.exp(logits!.data[t * n + i]! - lse) - Number(i === label));
    });
    return [out];
  },
  samples: [
    {
      operands: [
        { type: 'f32[S@sp, 5]' },
        { type: 'i32[S@sp]', range: [0, 4], integers: true },
        { type: 'f32[]' },
      ],
    },
  ],
});

export const correct = defineOp('correct', {
  doc: 'The number of counted tokens whose label has the largest logit; a tie counts.',
  operands: ['logits', 'labels'],
  infer: axes('t V, t -> ', { linearity: 'none', operandDTypes: ['f32', 'i32'] }),
  eval: ({ inputs: [logits, labels], shapes }) => {
    const sum = tensor(shapes[0]!);
    const n = logits!.shape[1]!;
    labels!.data.forEach((label, t) => {
      if (label === IGNORED_LABEL) return;
      checkLabel(label, n);
      const row = logits!.data.subarray(t * n, (t + 1) * n);
      if (row.every((x) => x <= row[label]!)) sum.data[0]! += 1;
    });
    return [sum];
  },
  samples: [{ operands: [{ type: 'f32[S@sp, 5]' }, { type: 'i32[S@sp]', range: [0, 4], integers: true }] }],
});
