/** Prints rows under a heading, numbers to the right. */
export function printTable(
  heading: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): void {
  const text = [heading, ...rows].map((row) =>
    row.map((cell) => (typeof cell === 'number' ? format(cell) : cell)),
  );
  const widths = heading.map((_, i) => Math.max(...text.map((row) => (row[i] ?? '').length)));
  for (const row of text)
    console.log(
      `  ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ')}`,
    );
}

const format = (x: number): string =>
  Number.isInteger(x) ? x.toLocaleString('en') : x >= 100 ? x.toFixed(0) : x.toFixed(2);

export const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
