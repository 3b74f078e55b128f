import { unreachable } from '../errors.js';

/**
 * What stands for a document in a model that pools: its first or last token; all of them (`mean`: every row is the
 * same); the last token that is not `id`; the first that is; the one before that (the last, where that is the
 * first); or the first token of the largest id. Where no token is such, the first one.
 */
export interface Pool {
  readonly kind: PoolKind;
  readonly id?: number;
}

export const POOL_KINDS = [
  'first',
  'last',
  'mean',
  'last-except',
  'first-of',
  'before-first-of',
  'largest',
] as const;

export type PoolKind = (typeof POOL_KINDS)[number];

/** Index of the token that stands for a document of these ids, n ≥ 1. */
export function pooledToken(ids: ArrayLike<number>, { kind, id }: Pool): number {
  const last = ids.length - 1;
  switch (kind) {
    case 'first':
    case 'mean':
      return 0;
    case 'last':
      return last;
    case 'last-except': {
      let t = last;
      while (t > 0 && ids[t] === id) t--;
      return t;
    }
    case 'first-of':
      return Math.max(0, indexOf(ids, id));
    case 'before-first-of': {
      const found = Math.max(0, indexOf(ids, id));
      return found === 0 ? last : found - 1;
    }
    case 'largest': {
      let largest = 0;
      for (let t = 1; t <= last; t++) if (ids[t]! > ids[largest]!) largest = t;
      return largest;
    }
    default:
      return unreachable(kind);
  }
}

const indexOf = (ids: ArrayLike<number>, id: number | undefined): number =>
  Array.prototype.indexOf.call(ids, id);

/** `the last token of a document` */
export function poolText({ kind, id }: Pool): string {
  switch (kind) {
    case 'first':
    case 'last':
      return `the ${kind} token of a document`;
    case 'mean':
      return 'the mean over a document';
    case 'last-except':
      return `the last token of a document that is not id ${id}`;
    case 'first-of':
      return `the first token of id ${id} of a document`;
    case 'before-first-of':
      return `the token before the first of id ${id} of a document`;
    case 'largest':
      return 'the token of the largest id of a document';
    default:
      return unreachable(kind);
  }
}

export const samePool = (a: Pool, b: Pool): boolean => a.kind === b.kind && a.id === b.id;
