import { loadMs, type DegreeTables } from './tables.js';

/** A packed group. */
export interface PackedGroup {
  readonly column: number;
  readonly held: readonly number[];
  readonly ms: number;
}

/** Open groups of one degree, sorted by load, so that the fullest one with room is found without looking at all. */
export interface Shelf {
  /** Position of the fullest group that has time and memory for the item, −1 if there is none. */
  find(tokens: number, pairs: number): number;
  /** Time that the item would add to the group at a position. */
  increase(at: number, tokens: number, pairs: number): number;
  /** Opens a group and returns its position. */
  open(): number;
  add(at: number, item: number, tokens: number, pairs: number): void;
  groups(): readonly PackedGroup[];
}

/** @param smallest tokens of the smallest item to come: groups without room for it are closed */
export function createShelf(
  tables: DegreeTables,
  column: number,
  most: number,
  limitMs: number,
  smallest: number,
): Shelf {
  const capacity = tables.capacity[column]!;
  const shown = 1 - tables.overlap[column]!;
  const computePerToken = tables.msPerToken[column]!;
  const exchangePerToken = tables.exchangeMsPerToken[column]!;
  const perPair = tables.msPerPair[column]!;
  const tokens = new Float64Array(most);
  const pairs = new Float64Array(most);
  const loads = new Float64Array(most);
  // Groups by position, ascending by load; closed groups have none.
  const order = new Int32Array(most);
  const held: number[][] = [];
  let open = 0;

  /** Positions before this have at most that load. */
  const upper = (load: number, from: number): number => {
    let [low, high] = [from, open];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (loads[order[middle]!]! <= load) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  return {
    find(s, p) {
      // Either compute or exchange is the shorter, of which overlap hides a share: the item adds no less than this.
      const compute = computePerToken * s + perPair * p;
      const exchange = exchangePerToken * s;
      const least = Math.min(compute + shown * exchange, exchange + shown * compute);
      for (let at = upper(limitMs - least + 1e-9 * limitMs, 0) - 1; at >= 0; at--) {
        const g = order[at]!;
        if (tokens[g]! + s > capacity) continue;
        if (loadMs(tables, column, tokens[g]! + s, pairs[g]! + p) <= limitMs) return at;
      }
      return -1;
    },
    increase(at, s, p) {
      const g = order[at]!;
      return loadMs(tables, column, tokens[g]! + s, pairs[g]! + p) - loads[g]!;
    },
    open() {
      const g = held.length;
      held.push([]);
      order.copyWithin(1, 0, open);
      order[0] = g;
      open++;
      return 0;
    },
    add(at, item, s, p) {
      const g = order[at]!;
      held[g]!.push(item);
      tokens[g] = tokens[g]! + s;
      pairs[g] = pairs[g]! + p;
      const load = (loads[g] = loadMs(tables, column, tokens[g]!, pairs[g]!));
      if (tokens[g]! + smallest > capacity) {
        order.copyWithin(at, at + 1, open);
        open--;
        return;
      }
      const end = upper(load, at + 1);
      order.copyWithin(at, at + 1, end);
      order[end - 1] = g;
    },
    groups: () => held.map((list, g): PackedGroup => ({ column, held: list, ms: loads[g]! })),
  };
}
