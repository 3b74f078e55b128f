import type { Items } from './items.js';

/**
 * Cuts a list of items, longest first, into `count` runs whose fullest is as small as possible in tokens (the blaster of
 * FlexSP, arXiv 2412.01523, section 5). Dynamic programme over cuts; each row is filled by two pointers.
 * @returns runs of item numbers; fewer than `count` if there are fewer items
 */
export function chunkItems(
  items: Items,
  list: readonly number[],
  count: number,
): readonly (readonly number[])[] {
  const n = list.length;
  const runs = Math.min(count, n);
  if (runs === 0) return [];
  const sum = new Float64Array(n + 1);
  for (let i = 0; i < n; i++) sum[i + 1] = sum[i]! + items.tokens[list[i]!]!;
  let best = sum;
  const cuts: Int32Array[] = [];
  for (let k = 2; k <= runs; k++) {
    const next = new Float64Array(n + 1).fill(Infinity);
    const cut = new Int32Array(n + 1);
    let j = k - 1;
    for (let i = k; i <= n; i++) {
      // best[j] grows with j, sum[i] − sum[j] falls: the best cut is where they cross, and it moves right with i.
      while (j + 1 < i && best[j + 1]! <= sum[i]! - sum[j + 1]!) j++;
      for (let c = j; c <= j + 1 && c < i; c++) {
        const fullest = Math.max(best[c]!, sum[i]! - sum[c]!);
        if (fullest < next[i]!) {
          next[i] = fullest;
          cut[i] = c;
        }
      }
    }
    best = next;
    cuts.push(cut);
  }
  const result: number[][] = [];
  let end = n;
  for (let k = runs; k > 0; k--) {
    const start = k > 1 ? cuts[k - 2]![end]! : 0;
    result.unshift(list.slice(start, end));
    end = start;
  }
  return result;
}
