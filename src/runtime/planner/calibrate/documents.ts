import type { Manifest } from '../../../package/manifest.js';
import { IGNORED, type Document } from '../../data/document.js';
import { randomExtra } from '../../data/random-extra.js';
import { createRandom } from '../../data/random.js';
import type { Lane, MicroBatchPlan } from '../../session/plan.js';

/** Documents of given lengths, with ids that mean nothing: how long a step takes does not depend on them. */
export function documentMaker({ vocabulary, loss }: Manifest): (length: number) => Document {
  let made = 0;
  return (length) => {
    const start = 7919 * made++;
    const ids = Int32Array.from({ length }, (_, i) => (start + 104_729 * i) % vocabulary);
    const labels =
      loss.kind === 'next-token'
        ? Int32Array.from(ids, (_, i) => ids[i + 1] ?? IGNORED)
        : ids.map((id) => id % loss.classes);
    return { ids, labels, ...randomExtra(loss, length, createRandom(start)), origin: 'calibration' };
  };
}

/** A micro-batch: for each group its degree and the lengths of its documents. Ranks that are left form idle groups. */
export interface MicroBatchShape {
  readonly groups: readonly { readonly degree: number; readonly lengths: readonly number[] }[];
}

/** @param maxDegree of a group, idle ones too */
export function microBatchOf(
  { groups }: MicroBatchShape,
  world: number,
  maxDegree: number,
  document: (length: number) => Document,
): MicroBatchPlan {
  const lanes: Lane[] = [];
  const add = (first: number, degree: number, lengths: readonly number[]): number => {
    const ranks = Array.from({ length: degree }, (_, i) => first + i);
    lanes.push({ ranks, documents: lengths.map(document) });
    return first + degree;
  };
  let next = 0;
  for (const { degree, lengths } of groups) next = add(next, degree, lengths);
  while (next < world) next = add(next, Math.min(maxDegree, world - next), []);
  return { lanes };
}

/** `tokens` as documents of about `length`, none longer. */
export function cutTokens(tokens: number, length: number): readonly number[] {
  const count = Math.max(1, Math.ceil(tokens / length));
  return Array.from(
    { length: count },
    (_, i) => Math.floor((tokens * (i + 1)) / count) - Math.floor((tokens * i) / count),
  );
}
