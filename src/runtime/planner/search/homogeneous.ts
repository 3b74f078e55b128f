import { sideBySide } from '../place.js';
import { chunkItems } from './chunk.js';
import type { Items } from './items.js';
import type { Start } from './start.js';
import { loadMs, type DegreeTables } from './tables.js';

/**
 * One degree for the whole step: micro-batches of even token counts, longest first, each sequence to the group that
 * then ends first. As few micro-batches as memory lets this rule find, or up to two more if that is faster.
 * @returns undefined if the degree does not hold the longest sequence
 */
export function balancedPlan(tables: DegreeTables, items: Items, column: number): Start | undefined {
  const groups = sideBySide(tables.size[column]!, tables.ranks, tables.ranksPerNode);
  const capacity = tables.capacity[column]!;
  if (groups === 0 || (items.tokens[0] ?? 0) > capacity) return undefined;
  const all = Array.from({ length: items.count }, (_, i) => i);
  const tokens = items.tokens.reduce((a, b) => a + b, 0);
  let best: Start | undefined;
  let least = Math.max(1, Math.ceil(tokens / (groups * capacity)));
  for (let count = least; count <= least + 2 && count <= Math.max(1, items.count); count++) {
    const runs = chunkItems(items, all, count).map((run) => balance(tables, items, run, column, groups));
    if (runs.some((run) => run === undefined)) {
      // A rule this simple may need more than memory demands; one sequence a group always fits.
      least++;
      continue;
    }
    const ms = runs.reduce((sum, run) => sum + tables.microBatchMs + run!.ms, 0);
    if (best === undefined || ms < best.ms)
      best = { microBatches: runs.map((run) => run!.held.map((held) => ({ column, held }))), left: [], ms };
  }
  return best;
}

function balance(
  tables: DegreeTables,
  items: Items,
  run: readonly number[],
  column: number,
  groups: number,
): { held: number[][]; ms: number } | undefined {
  const tokens = new Float64Array(groups);
  const pairs = new Float64Array(groups);
  const ms = new Float64Array(groups);
  const held: number[][] = Array.from({ length: groups }, () => []);
  for (const item of run) {
    const room = tables.capacity[column]! - items.tokens[item]!;
    let best = -1;
    for (let g = 0; g < groups; g++) if (tokens[g]! <= room && (best < 0 || ms[g]! < ms[best]!)) best = g;
    if (best < 0) return undefined;
    tokens[best]! += items.tokens[item]!;
    pairs[best]! += items.pairs[item]!;
    ms[best] = loadMs(tables, column, tokens[best]!, pairs[best]!);
    held[best]!.push(item);
  }
  return { held, ms: ms.reduce((a, b) => Math.max(a, b), 0) };
}

/**
 * Best fit decreasing into groups of one degree, groups then set side by side in the order they were opened: the
 * packing of static sequence parallelism (FlexSP's DeepSpeed baseline).
 */
export function packedPlan(tables: DegreeTables, items: Items, column: number): Start | undefined {
  const side = sideBySide(tables.size[column]!, tables.ranks, tables.ranksPerNode);
  const capacity = tables.capacity[column]!;
  if (side === 0 || (items.tokens[0] ?? 0) > capacity) return undefined;
  const open: { column: number; held: number[]; tokens: number; pairs: number }[] = [];
  for (let item = 0; item < items.count; item++) {
    const room = capacity - items.tokens[item]!;
    let best: (typeof open)[number] | undefined;
    for (const group of open)
      if (group.tokens <= room && (best === undefined || group.tokens > best.tokens)) best = group;
    if (best === undefined) open.push((best = { column, held: [], tokens: 0, pairs: 0 }));
    best.held.push(item);
    best.tokens += items.tokens[item]!;
    best.pairs += items.pairs[item]!;
  }
  const microBatches: (typeof open)[] = [];
  let ms = 0;
  for (let i = 0; i < open.length; i += side) {
    const part = open.slice(i, i + side);
    microBatches.push(part);
    ms +=
      tables.microBatchMs +
      part.reduce((most, g) => Math.max(most, loadMs(tables, column, g.tokens, g.pairs)), 0);
  }
  return { microBatches, left: [], ms };
}
