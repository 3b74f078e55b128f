const isPowerOfTwo = (n: number): boolean => (n & (n - 1)) === 0;

/** Whether groups of these sizes always fit as long as they have few enough ranks: nothing is lost at nodes' borders. */
export const fitsByCount = (sizes: Iterable<number>, ranks: number, ranksPerNode: number): boolean => {
  if (ranks <= ranksPerNode) return true;
  if (!isPowerOfTwo(ranksPerNode)) return false;
  for (const size of sizes) if (!isPowerOfTwo(size)) return false;
  return true;
};

/** Nodes that fill up with groups. First fit decreasing wants large groups first. */
export interface Room {
  /**
   * Takes ranks for one more group: one of up to a node's size inside the fullest node that has room, a larger one on
   * whole nodes that nothing else uses, and at most part of one more.
   * @returns its first rank; −1, and nothing taken, if it does not fit
   */
  take(size: number): number;
}

export function createRoom(ranks: number, ranksPerNode: number): Room {
  const nodes = Math.ceil(ranks / ranksPerNode);
  const sizeOf = (n: number): number => Math.min(ranksPerNode, ranks - n * ranksPerNode);
  const used = new Int32Array(nodes);
  // Nodes before this one are full, or hold the end of a larger group and perhaps smaller ones.
  let fresh = 0;
  const takeNodes = (size: number): number => {
    const first = fresh;
    let rest = size;
    let next = first;
    for (; rest > 0; next++) {
      if (next >= nodes) return -1;
      rest -= sizeOf(next);
    }
    for (let n = first; n < next; n++) used[n] = sizeOf(n);
    used[next - 1] = used[next - 1]! + rest;
    fresh = next;
    return first * ranksPerNode;
  };
  const takeInside = (size: number): number => {
    let best = -1;
    for (let n = 0; n < nodes; n++) {
      if (used[n]! + size <= sizeOf(n) && (best < 0 || used[n]! > used[best]!)) best = n;
      // All later nodes are as empty as this one.
      if (n >= fresh && used[n] === 0) break;
    }
    if (best < 0) return -1;
    const start = best * ranksPerNode + used[best]!;
    used[best] = used[best]! + size;
    fresh = Math.max(fresh, best + 1);
    return start;
  };
  return { take: (size) => (size > ranksPerNode ? takeNodes(size) : takeInside(size)) };
}

const largestFirst = (sizes: readonly number[]): number[] =>
  Array.from(sizes.keys()).sort((a, b) => sizes[b]! - sizes[a]! || a - b);

/**
 * Whether groups of these sizes fit so that none of up to a node's size straddles nodes, and larger ones take whole
 * nodes and at most part of one more. First fit decreasing: may refuse what a cleverer search would place.
 */
export function placeable(sizes: readonly number[], ranks: number, ranksPerNode: number): boolean {
  let total = 0;
  for (const size of sizes) total += size;
  if (total > ranks) return false;
  return fitsByCount(sizes, ranks, ranksPerNode) || placeGroups(sizes, ranks, ranksPerNode) !== undefined;
}

/**
 * First rank of each group: contiguous ranges, large groups from a node's first rank on, small ones inside a node.
 * @returns undefined if the sizes do not fit
 */
export function placeGroups(
  sizes: readonly number[],
  ranks: number,
  ranksPerNode: number,
): readonly number[] | undefined {
  let total = 0;
  for (const size of sizes) total += size;
  if (total > ranks) return undefined;
  const starts: number[] = Array.from(sizes, () => 0);
  // End to end: in one node anywhere, powers of two from the largest down at multiples of their sizes.
  const endToEnd = fitsByCount(sizes, ranks, ranksPerNode);
  const room = endToEnd ? undefined : createRoom(ranks, ranksPerNode);
  let next = 0;
  for (const g of largestFirst(sizes)) {
    const start = room === undefined ? next : room.take(sizes[g]!);
    if (start < 0) return undefined;
    starts[g] = start;
    next += sizes[g]!;
  }
  return starts;
}

/** Most groups of one size that fit side by side. */
export function sideBySide(size: number, ranks: number, ranksPerNode: number): number {
  if (fitsByCount([size], ranks, ranksPerNode)) return Math.floor(ranks / size);
  const room = createRoom(ranks, ranksPerNode);
  let count = 0;
  while (room.take(size) >= 0) count++;
  return count;
}

/** Groups as a solver leaves them: degrees and the sequences they hold, ranks not yet chosen. */
export interface Shape {
  readonly degree: number;
  readonly sequences: readonly number[];
}
