import { lruCache } from '../memory/lru.js';
import type { Group } from './engine.js';

/** Groups kept at a time. A rank of a world of 1,024 is in no more than this many of those that a node has. */
const KEPT = 256;

/**
 * One handle for each set of ranks, however often the groups of micro-batches change: engines that set something up
 * for a group (a communicator) do so once.
 */
export interface GroupPool {
  get(ranks: readonly number[]): Group;
  /** Handles made so far. */
  readonly made: number;
}

export function groupPool(): GroupPool {
  const groups = lruCache<Group>(KEPT);
  let made = 0;
  return {
    get: (ranks) =>
      groups.get(ranks.join(), () => {
        made++;
        return Object.freeze({ ranks: Object.freeze([...ranks]) });
      }),
    get made() {
      return made;
    },
  };
}
