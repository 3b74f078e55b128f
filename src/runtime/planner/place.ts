const isPowerOfTwo = (n: number): boolean => (n & (n - 1)) === 0;

/**
 * Whether groups of these sizes fit so that none of up to a node's size straddles nodes, and larger ones take whole
 * nodes and at most part of one more. First fit decreasing: may refuse what a cleverer search would place.
 */
export function placeable(sizes: readonly number[], ranks: number, ranksPerNode: number): boolean {
  let [total, aligned] = [0, isPowerOfTwo(ranksPerNode)];
  for (const size of sizes) {
    total += size;
    aligned &&= isPowerOfTwo(size);
  }
  if (total > ranks) return false;
  return aligned || ranks <= ranksPerNode || placeGroups(sizes, ranks, ranksPerNode) !== undefined;
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
  let aligned = isPowerOfTwo(ranksPerNode);
  for (const size of sizes) {
    total += size;
    aligned &&= isPowerOfTwo(size);
  }
  if (total > ranks) return undefined;
  const order = Array.from(sizes.keys()).sort((a, b) => sizes[b]! - sizes[a]! || a - b);
  const starts: number[] = Array.from(sizes, () => 0);
  // One node, or powers of two from the largest down: end to end, each then starts at a multiple of its size.
  if (aligned || ranks <= ranksPerNode) {
    let next = 0;
    for (const g of order) {
      starts[g] = next;
      next += sizes[g]!;
    }
    return starts;
  }
  const nodes = Math.ceil(ranks / ranksPerNode);
  const sizeOf = (n: number): number => Math.min(ranksPerNode, ranks - n * ranksPerNode);
  const used: number[] = Array.from({ length: nodes }, () => 0);
  let fresh = 0;
  for (const g of order) {
    const size = sizes[g]!;
    if (size > ranksPerNode) {
      starts[g] = fresh * ranksPerNode;
      for (let rest = size; rest > 0; fresh++) {
        if (fresh >= nodes) return undefined;
        used[fresh] = Math.min(rest, sizeOf(fresh));
        rest -= used[fresh]!;
      }
    } else {
      // Best fit: the fullest node with room.
      let best = -1;
      for (let n = 0; n < nodes; n++)
        if (used[n]! + size <= sizeOf(n) && (best < 0 || used[n]! > used[best]!)) best = n;
      if (best < 0) return undefined;
      starts[g] = best * ranksPerNode + used[best]!;
      used[best] = used[best]! + size;
    }
  }
  return starts;
}

/** Most groups of one size that fit side by side. */
export function sideBySide(size: number, ranks: number, ranksPerNode: number): number {
  let count = Math.floor(ranks / size);
  while (
    count > 0 &&
    !placeable(
      Array.from({ length: count }, () => size),
      ranks,
      ranksPerNode,
    )
  )
    count--;
  return count;
}

/** Groups as a solver leaves them: degrees and the sequences they hold, ranks not yet chosen. */
export interface Shape {
  readonly degree: number;
  readonly sequences: readonly number[];
}
