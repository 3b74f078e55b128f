/** What a student's logits `[t, V]` lose against a few teacher logits a token, `[t, K]`. */
import { numberAttr } from '../../../ir/graph.js';
import { tensorType } from '../../../ir/type.js';
import type { OrtValue } from './builder.js';
import { operandType, resultType, withScalar, type KernelContext, type OrtKernel } from './kernel.js';
import { labelsOf, logSumExp, sumAndCount } from './kernels-loss.js';

/** A logit that leaves no probability, and stays finite where all of a token are such. */
const NOTHING = -1e30;

const softened = (k: KernelContext, x: OrtValue): OrtValue => {
  const temperature = numberAttr(k.attrs, 'temperature');
  return temperature === 1 ? x : withScalar(k, 'Mul', x, 1 / temperature);
};

/** Ids as indices, 0 where absent, and the teacher's log probabilities of them: both `[t, K]`. */
function teacherOf(k: KernelContext): { index: OrtValue; logP: OrtValue } {
  const [ids, logits] = [k.operand(2), softened(k, k.operand(3))];
  const { dims } = operandType(k, 2);
  const f32 = tensorType('f32', dims);
  const absent = k.build.op('Less', [ids, k.build.constant('i32', [], [0])], tensorType('bool', dims));
  const index = k.build.op('Where', [absent, k.build.constant('i32', [], [0]), ids], tensorType('i32', dims));
  const given = k.build.op('Where', [absent, k.build.float(NOTHING), logits], f32);
  return { index, logP: k.build.op('LogSoftmax', [given], f32, { axis: 1 }) };
}

export const softCrossEntropy: OrtKernel = {
  lower: (k) => {
    const { ignored, column } = labelsOf(k);
    const { index, logP } = teacherOf(k);
    const f32 = tensorType('f32', operandType(k, 2).dims);
    const logits = softened(k, k.operand(0));
    const lse = logSumExp(k, logits, column('f32'));
    const picked = k.build.op('GatherElements', [logits, index], f32, { axis: 1 });
    const logQ = k.build.op('Sub', [picked, lse], f32);
    const difference = k.build.op('Sub', [logP, logQ], f32);
    const terms = k.build.op('Mul', [k.build.op('Exp', [logP], f32), difference], f32);
    const divergence = k.build.op('ReduceSum', [terms, k.build.int64s([1])], column('f32'), { keepdims: 1 });
    const losses = withScalar(k, 'Mul', divergence, numberAttr(k.attrs, 'temperature') ** 2);
    return sumAndCount(k, losses, ignored);
  },
};

export const softCrossEntropyVjp: OrtKernel = {
  lower: (k) => {
    const { ignored, column } = labelsOf(k);
    const { index, logP } = teacherOf(k);
    const f32 = tensorType('f32', operandType(k, 2).dims);
    const full = operandType(k, 0);
    const student = k.build.op('Softmax', [softened(k, k.operand(0))], full, { axis: 1 });
    const minusP = k.build.op('Neg', [k.build.op('Exp', [logP], f32)], f32);
    const errors = k.build.op('ScatterElements', [student, index, minusP], full, {
      axis: 1,
      reduction: 'add',
    });
    const slope = withScalar(k, 'Mul', k.operand(4), numberAttr(k.attrs, 'temperature'));
    const scale = k.build.op('Where', [ignored, k.build.float(0), slope], column('f32'));
    return [k.build.op('Mul', [errors, scale], resultType(k))];
  },
};
