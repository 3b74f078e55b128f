/**
 * Cuts a list of items, longest first, into `count` runs whose fullest is as small as possible in tokens (the blaster of
 * FlexSP, arXiv 2412.01523, section 5). Bisection over the fullest; runs are filled from the shortest items on, so that
 * what room is left is left to the longest ones, whose work per token is highest.
 * @returns runs of item numbers; fewer than `count` if there are fewer items
 */
export function chunkItems(tokens: Float64Array, list: Int32Array, count: number): readonly Int32Array[] {
  const n = list.length;
  const runs = Math.min(count, n);
  if (runs === 0) return [];
  const sum = new Float64Array(n + 1);
  let longest = 0;
  for (let i = 0; i < n; i++) {
    const s = tokens[list[i]!]!;
    sum[i + 1] = sum[i]! + s;
    if (s > longest) longest = s;
  }
  const starts = new Int32Array(runs);
  let low = Math.max(longest, Math.ceil(sum[n]! / runs));
  let high = sum[n]!;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (cut(sum, runs, middle, starts)) high = middle;
    else low = middle + 1;
  }
  cut(sum, runs, high, starts);
  return Array.from(starts, (from, r) => list.subarray(from, starts[r + 1] ?? n));
}

/** First positions of runs of at most `most` tokens. @returns false if there are not enough runs */
function cut(sum: Float64Array, runs: number, most: number, starts: Int32Array): boolean {
  let end = sum.length - 1;
  for (let r = runs - 1; r >= 0; r--) {
    // Every earlier run holds an item.
    let [low, high] = [r, end];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sum[end]! - sum[middle]! <= most) high = middle;
      else low = middle + 1;
    }
    starts[r] = end = low;
  }
  return end === 0;
}
