/** Random calls for random groups, from a seed. */
import type { AllToAllPart, Block, Group } from '../../../src/runtime/collectives/engine.js';
import type { Call } from './calls.js';

export type Random = (below: number) => number;

/** mulberry32: integers in [0, below). */
export function seeded(seed: number): Random {
  let state = seed | 0;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** Splits some of the ranks into disjoint groups. */
export function randomGroups(random: Random, world: number): Group[] {
  const count = 1 + random(world);
  const groups = Array.from({ length: count }, (): number[] => []);
  for (let rank = 0; rank < world; rank++) {
    const choice = random(count + (random(4) === 0 ? 1 : 0));
    groups[choice]?.push(rank);
  }
  return groups.filter((ranks) => ranks.length > 0).map((ranks) => ({ ranks }));
}

/** One call for each member of a group. @param size elements of a typical pair */
export function randomCalls(random: Random, group: Group, size: number): Call[] {
  const kind = random(10);
  if (kind < 4) return randomAllToAll(random, group, size);
  if (kind < 6) return randomAllReduce(random, group, size);
  if (kind < 8) return randomReduceScatter(random, group, size);
  if (kind < 9) return randomAllGather(random, group, size);
  return group.ranks.map(() => ({ kind: 'barrier', group, parts: [] }));
}

function floats(random: Random, length: number): Float32Array {
  return Float32Array.from({ length }, () => (random(2_000_001) - 1_000_000) / 977);
}

function count(random: Random, size: number): number {
  return random(4) === 0 ? 0 : random(size + 1);
}

function randomAllToAll(random: Random, group: Group, size: number): Call[] {
  const degree = group.ranks.length;
  const members = Array.from({ length: degree }, (): AllToAllPart[] => []);
  for (let k = random(4); k > 0; k--) {
    const sizes = members.map(() => members.map(() => count(random, size)));
    // Peers add to the same places in the order of the group when their payloads are equal, whatever the rounds.
    const accumulate = random(2) === 0;
    if (accumulate) sizes.forEach((row) => row.fill(sizes[0]?.[0] ?? 0));
    members.forEach((parts, me) => {
      let sendAt = 0;
      let recvAt = 0;
      const sends = members.map((_, i) => {
        const blocks = randomBlocks(random, sizes[me]?.[i] ?? 0, sendAt);
        sendAt = blocks.end;
        return blocks.list;
      });
      const recvs = members.map((_, i) => {
        const blocks = randomBlocks(random, sizes[i]?.[me] ?? 0, accumulate ? 0 : recvAt);
        recvAt = Math.max(recvAt, blocks.end);
        return blocks.list;
      });
      parts.push({ src: floats(random, sendAt), dst: floats(random, recvAt), sends, recvs, accumulate });
    });
    if (accumulate) alignAccumulation(members);
  }
  return members.map((parts) => ({ kind: 'all-to-all', group, parts }));
}

/** All peers add to the same blocks in the same order: the sums' order is then the group's. */
function alignAccumulation(members: AllToAllPart[][]): void {
  for (const parts of members) {
    const last = parts.pop();
    if (last === undefined) continue;
    const first = last.recvs[0] ?? [];
    parts.push({ ...last, recvs: last.recvs.map(() => first) });
  }
}

function randomBlocks(random: Random, elements: number, from: number): { list: Block[]; end: number } {
  const list: Block[] = [];
  let end = from;
  for (let left = elements; left > 0;) {
    const cols = 1 + random(Math.min(left, random(2) === 0 ? 5 : 70));
    const rows = 1 + random(Math.floor(left / cols));
    const rowStride = cols + random(3);
    const offset = end + random(3);
    list.push({ offset, rows, rowStride, cols });
    end = offset + rows * rowStride;
    left -= rows * cols;
    if (random(5) === 0) list.push({ offset: end, rows: random(2), rowStride: 0, cols: 0 });
  }
  return { list, end };
}

function randomAllReduce(random: Random, group: Group, size: number): Call[] {
  const lengths = Array.from({ length: random(6) }, () => count(random, size * group.ranks.length));
  return group.ranks.map(() => ({
    kind: 'all-reduce',
    group,
    parts: lengths.map((length) => ({ dst: floats(random, length) })),
  }));
}

function randomCounts(random: Random, group: Group, size: number): number[][] {
  return Array.from({ length: random(4) }, () => group.ranks.map(() => count(random, size)));
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, n) => total + n, 0);
}

function randomReduceScatter(random: Random, group: Group, size: number): Call[] {
  const shapes = randomCounts(random, group, size);
  return group.ranks.map((_, me) => ({
    kind: 'reduce-scatter',
    group,
    parts: shapes.map((counts) => {
      const src = floats(random, sum(counts));
      const start = sum(counts.slice(0, me));
      const inPlace = random(2) === 0;
      const dst = inPlace ? src.subarray(start, start + (counts[me] ?? 0)) : floats(random, counts[me] ?? 0);
      return { src, dst, counts };
    }),
  }));
}

function randomAllGather(random: Random, group: Group, size: number): Call[] {
  const shapes = randomCounts(random, group, size);
  const whole = random(2) === 0;
  return group.ranks.map((_, me) => ({
    kind: 'all-gather',
    group,
    parts: shapes.map((counts) => {
      const make = (n: number): Float32Array | Int32Array =>
        whole ? Int32Array.from(floats(random, n)) : floats(random, n);
      const src = make(counts[me] ?? 0);
      return { src, dst: make(sum(counts)), counts };
    }),
  }));
}
