/** Rotary and sinusoidal tables: cosines and sines of position times frequency are constants, not weights. */
import type { OnnxInitializer } from '../model.js';

const MAX_TABLE_BYTES = 512 * 1024 * 1024;

/** Whether every column of a table [positions, …] is cos(p·f) or sin(p·f) of some frequency 0 ≤ f ≤ π/2. */
export function isSinusoidal(table: OnnxInitializer): boolean {
  const rows = table.dims.find((size) => size !== 1) ?? 1;
  const columns = table.elementCount / rows;
  if (
    rows < 4 ||
    !Number.isInteger(columns) ||
    table.bytes > MAX_TABLE_BYTES ||
    table.dtype !== 'f32' ||
    !table.isPresent()
  )
    return false;
  const head = table.readRange(0, columns * 4);
  const first = new Float32Array(Uint8Array.from(head).buffer);
  if (!first.every((value) => value === 0 || value === 1) || first.length === 0) return false;
  const values = table.read().toFloat32();
  for (let column = 0; column < columns; column++) {
    if (!isWave((p) => values[p * columns + column]!, rows, first[column] === 1)) return false;
  }
  return true;
}

/** Whether at(p) = cos(p·f), or sin(p·f), for all rows. */
function isWave(at: (row: number) => number, rows: number, cosine: boolean): boolean {
  const wave = cosine ? Math.cos : Math.sin;
  const inverse = cosine ? Math.acos : Math.asin;
  if (Math.abs(at(1)) > 1) return false;
  let frequency = inverse(at(1));
  // Doubling the row doubles the precision of the frequency, as long as the phase is known to within a turn.
  for (let p = 2; p < rows; p *= 2) frequency = refined(p, frequency, at(p), cosine);
  for (let p = 0; p < rows; p++) {
    const tolerance = 1e-5 + 4e-7 * p * Math.abs(frequency);
    if (!(Math.abs(wave(p * frequency) - at(p)) <= tolerance)) return false;
  }
  return true;
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
