/** Token losses from logits `[t, V]`. */
import { IGNORED_LABEL } from '../../../ir/ops/loss.js';
import { dim, tensorType, type Type } from '../../../ir/type.js';
import type { OrtValue } from './builder.js';
import { operandType, resultType, type KernelContext, type OrtKernel } from './kernel.js';

interface Labels {
  /** Whether a token is not counted, bool[t, 1]. */
  readonly ignored: OrtValue;
  /** Labels as indices, 0 where ignored, i32[t, 1]. */
  readonly index: OrtValue;
  readonly column: (dtype: 'f32' | 'i32' | 'bool') => Type;
}

function labelsOf(k: KernelContext): Labels {
  const tokens = operandType(k, 0).dims[0]!;
  const column = (dtype: 'f32' | 'i32' | 'bool'): Type => tensorType(dtype, [tokens, dim(1)]);
  const labels = k.build.op('Unsqueeze', [k.operand(1), k.build.int64s([1])], column('i32'));
  const ignored = k.build.op('Equal', [labels, k.build.constant('i32', [], [IGNORED_LABEL])], column('bool'));
  const index = k.build.op('Where', [ignored, k.build.constant('i32', [], [0]), labels], column('i32'));
  return { ignored, index, column };
}

/** Spelt out: three times as fast as ReduceLogSumExp, for one more tensor of the logits' size. */
function logSumExp(k: KernelContext, logits: OrtValue, row: Type): OrtValue {
  const full = tensorType('f32', operandType(k, 0).dims);
  const over = k.build.int64s([1]);
  const max = k.build.op('ReduceMax', [logits, over], row, { keepdims: 1 });
  const weights = k.build.op('Exp', [k.build.op('Sub', [logits, max], full)], full);
  const total = k.build.op('ReduceSum', [weights, over], row, { keepdims: 1 });
  return k.build.op('Add', [max, k.build.op('Log', [total], row)], row);
}

export const crossEntropy: OrtKernel = {
  lower: (k) => {
    const logits = k.operand(0);
    const { ignored, index, column } = labelsOf(k);
    const f32 = column('f32');
    const all = k.build.int64s([0, 1]);
    const lse = logSumExp(k, logits, f32);
    const picked = k.build.op('GatherElements', [logits, index], f32, { axis: 1 });
    const losses = k.build.op(
      'Where',
      [ignored, k.build.float(0), k.build.op('Sub', [lse, picked], f32)],
      f32,
    );
    const counted = k.build.op('Where', [ignored, k.build.float(0), k.build.float(1)], f32);
    return [losses, counted].map((x, i) =>
      k.build.op('ReduceSum', [x, all], resultType(k, i), { keepdims: 0 }),
    );
  },
};

export const crossEntropyVjp: OrtKernel = {
  lower: (k) => {
    const [logits, g] = [k.operand(0), k.operand(2)];
    const { ignored, index, column } = labelsOf(k);
    const full = tensorType('f32', operandType(k, 0).dims);
    const probabilities = k.build.op('Softmax', [logits], full, { axis: 1 });
    const minusOne = k.build.op(
      'Expand',
      [k.build.float(-1), k.build.shape(column('f32').dims)],
      column('f32'),
    );
    const errors = k.build.op('ScatterElements', [probabilities, index, minusOne], full, {
      axis: 1,
      reduction: 'add',
    });
    const scale = k.build.op('Where', [ignored, k.build.float(0), g], column('f32'));
    return [k.build.op('Mul', [errors, scale], resultType(k))];
  },
};
