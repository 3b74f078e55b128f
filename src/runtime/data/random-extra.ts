import type { LossEntry } from '../../package/manifest.js';
import type { Document } from './document.js';
import { randomBelow } from './random.js';

/** What a document that means nothing needs beside ids and labels: targets of regression, a teacher's logits. */
export function randomExtra(
  { kind, classes, distillation }: LossEntry,
  length: number,
  random: () => number,
): Pick<Document, 'targets' | 'teacher'> {
  const number = (): number => random() / 2 ** 31 - 1;
  if (kind === 'regression') return { targets: Float32Array.from({ length: classes }, number) };
  if (distillation === undefined) return {};
  const { topK } = distillation;
  const ids = new Int32Array(length * topK);
  for (let token = 0; token < length; token++) {
    const first = randomBelow(random, classes);
    for (let i = 0; i < topK; i++) ids[token * topK + i] = (first + i) % classes;
  }
  return { teacher: { ids, logits: Float32Array.from(ids, number) } };
}
