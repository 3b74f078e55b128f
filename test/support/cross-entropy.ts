/**
 * Adds up −log p of the labels under the rows of logits, spelled apart from the code under test.
 * @param logits `[tokens, width]`; labels below 0 are left out
 */
export function crossEntropy(
  logits: Float32Array,
  labels: Int32Array,
): { readonly sum: number; readonly count: number } {
  const width = logits.length / labels.length;
  let [sum, count] = [0, 0];
  labels.forEach((label, t) => {
    if (label < 0) return;
    const row = logits.subarray(t * width, (t + 1) * width);
    const max = row.reduce((a, b) => Math.max(a, b), -Infinity);
    sum += max + Math.log(row.reduce((s, x) => s + Math.exp(x - max), 0)) - row[label]!;
    count++;
  });
  return { sum, count };
}
