/** What a line of JSONL says that a document, or its tokens, should be predicted as. */
import { UserError } from '../../errors.js';
import { pooledToken } from '../../ir/pooled.js';
import type { LossEntry } from '../../package/manifest.js';
import { IGNORED } from './document.js';
import { checkIds, shown } from './fields.js';

/** The label of a document: at the token that stands for it, and what it is where that is no class. */
export interface DocumentLabel {
  readonly labels: Int32Array;
  readonly targets?: Float32Array;
}

type Line = Readonly<Record<string, unknown>>;

/** Under either of the names that Hugging Face gives it; undefined: none, or the loss is of tokens. */
export function documentLabel(
  json: Line,
  at: string,
  ids: ArrayLike<number>,
  loss: LossEntry,
): DocumentLabel | undefined {
  const key = ['label', 'labels'].find((name) => Object.hasOwn(json, name));
  if (loss.pool === undefined || key === undefined) return undefined;
  const isRegression = loss.kind === 'regression';
  const targets = isRegression ? targetsOf(json[key], at, key, loss.classes) : undefined;
  const label = isRegression ? 0 : classOf(json[key], at, key, loss.classes);
  const token = pooledToken(ids, loss.pool);
  const labels = new Int32Array(ids.length).fill(IGNORED).fill(label, token, token + 1);
  return targets === undefined ? { labels } : { labels, targets };
}

function classOf(value: unknown, at: string, key: string, classes: number): number {
  if (Number.isInteger(value) && (value as number) >= 0 && (value as number) < classes)
    return value as number;
  throw new UserError(
    `${at}: ${key} is ${shown(value)}, expected a class from 0 to ${classes - 1}`,
    'the model classifies whole documents: each has one label',
  );
}

function targetsOf(value: unknown, at: string, key: string, outputs: number): Float32Array {
  const given: readonly unknown[] = Array.isArray(value) ? value : [value];
  const targets = Float32Array.from(given, (x) => (typeof x === 'number' ? x : NaN));
  if (targets.length === outputs && targets.every((x) => Number.isFinite(x))) return targets;
  throw new UserError(
    `${at}: ${key} is ${shown(value)}, expected ${outputs === 1 ? 'a number' : `a list of ${outputs} numbers`}`,
    'in regression a document has as many targets as the model has outputs',
  );
}

/** Labels of tokens: ids or classes. */
export function checkLabels(labels: readonly number[], at: string, loss: LossEntry): void {
  if (!loss.kind.endsWith('classification'))
    return checkIds(labels, { at, key: 'labels', vocabulary: loss.classes, ignored: IGNORED });
  const stray = labels.findIndex((label) => (label < 0 || label >= loss.classes) && label !== IGNORED);
  if (stray >= 0)
    throw new UserError(
      `${at}: labels[${stray}] is ${labels[stray]}, outside the model's ${loss.classes} classes` +
        ` (0 to ${loss.classes - 1}, or ${IGNORED})`,
      'labels are classes, one a token, or −100 where none is predicted',
    );
}
