import { poolText } from '../ir/pooled.js';
import type { LossEntry } from '../package/manifest.js';

const KINDS: Readonly<Record<LossEntry['kind'], (loss: LossEntry) => string>> = {
  'next-token': ({ classes }) => `next-token, one of ${classes} ids`,
  'masked-lm': ({ classes }) => `masked-lm, one of ${classes} ids`,
  'token-classification': ({ classes }) => `token-classification, one of ${classes} classes a token`,
  'document-classification': ({ classes }) => `document-classification, one of ${classes} classes a document`,
  regression: ({ classes }) => `regression, ${classes === 1 ? 'a number' : `${classes} numbers`} a document`,
};

/** A line that says what a package is trained for. */
export function lossText(loss: LossEntry): string {
  const { kind, pool, mlm, distillation } = loss;
  const parts = [
    KINDS[kind](loss),
    ...(pool === undefined ? [] : [`from ${poolText(pool)}`]),
    ...(mlm === undefined ? [] : [`${mlm.rate * 100} % of tokens masked by id ${mlm.maskId}`]),
    ...(distillation === undefined
      ? []
      : [
          `with a teacher: ${distillation.topK} logits a token, temperature ${distillation.temperature}, alpha ${distillation.alpha}`,
        ]),
  ];
  return parts.join('; ');
}
