/** Rotary and sinusoidal tables: cosines and sines of position times frequency are constants, not weights. */
import { PIECE_BYTES, rangesOf } from '../../../files/pieces.js';
import type { OnnxInitializer } from '../model.js';

/** More would take long to look at. */
const MAX_TABLE_BYTES = 512 * 1024 * 1024;

/** Whether every column of a table [positions, …] is cos(p·f) or sin(p·f) of some frequency 0 ≤ f ≤ π/2. */
export function isSinusoidal(table: OnnxInitializer, pieceBytes: number = PIECE_BYTES): boolean {
  const rows = table.dims.find((size) => size !== 1) ?? 1;
  const columns = table.elementCount / rows;
  if (
    rows < 4 ||
    !Number.isInteger(columns) ||
    columns === 0 ||
    table.bytes > MAX_TABLE_BYTES ||
    table.dtype !== 'f32' ||
    !table.isPresent()
  )
    return false;
  const rowsAt = (row: number, count: number): Float32Array =>
    new Float32Array(Uint8Array.from(table.readRange(row * columns * 4, count * columns * 4)).buffer);
  const first = rowsAt(0, 1);
  if (!first.every((value) => value === 0 || value === 1)) return false;
  const frequencies = frequenciesOf(rowsAt, rows, first);
  if (frequencies === undefined) return false;
  for (const { start, end } of rangesOf(rows, pieceBytes / (columns * 4))) {
    const values = rowsAt(start, end - start);
    for (let i = 0; i < values.length; i++)
      if (
        !fits(
          start + Math.floor(i / columns),
          frequencies[i % columns]!,
          values[i]!,
          first[i % columns] === 1,
        )
      )
        return false;
  }
  return true;
}

/** Frequency of each column, from rows 1, 2, 4, …; undefined where row 1 has no cosine or sine. */
function frequenciesOf(
  rowsAt: (row: number, count: number) => Float32Array,
  rows: number,
  first: Float32Array,
): Float64Array | undefined {
  const second = rowsAt(1, 1);
  if (!second.every((value) => Math.abs(value) <= 1)) return undefined;
  const frequencies = Float64Array.from(second, (value, column) =>
    first[column] === 1 ? Math.acos(value) : Math.asin(value),
  );
  // Doubling the row doubles the precision of the frequency, as long as the phase is known to within a turn.
  for (let p = 2; p < rows; p *= 2)
    rowsAt(p, 1).forEach((value, column) => {
      frequencies[column] = refined(p, frequencies[column]!, value, first[column] === 1);
    });
  return frequencies;
}

/** Whether cos(p·f), or sin(p·f), is a value. */
function fits(p: number, frequency: number, value: number, cosine: boolean): boolean {
  const expected = cosine ? Math.cos(p * frequency) : Math.sin(p * frequency);
  return Math.abs(expected - value) <= 1e-5 + 4e-7 * p * Math.abs(frequency);
}

/** The frequency nearest to an estimate whose wave has `value` at row p. */
function refined(p: number, estimate: number, value: number, cosine: boolean): number {
  const clipped = Math.min(1, Math.max(-1, value));
  // Near its extremes a wave says little about its phase.
  if (Math.abs(clipped) > 0.9) return estimate;
  const phase = cosine ? Math.acos(clipped) : Math.asin(clipped);
  const turns = 2 * Math.PI;
  const candidates = cosine ? [phase, -phase] : [phase, Math.PI - phase];
  const target = p * estimate;
  const nearest = candidates
    .map((c) => c + turns * Math.round((target - c) / turns))
    .reduce((a, b) => (Math.abs(a - target) <= Math.abs(b - target) ? a : b));
  return nearest / p;
}
