/** IEEE half precision and bfloat16, widened exactly and rounded to nearest even. */

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

function bitsOf(value: number): number {
  f32[0] = value;
  return u32[0] as number;
}

/** f16 bits → number, exact. */
export function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** bf16 bits → number, exact. */
export function bf16ToNumber(bits: number): number {
  u32[0] = (bits << 16) >>> 0;
  return f32[0] as number;
}

/** float32 value → f16 bits; NaN stays NaN, overflow becomes infinity. */
export function numberToF16(value: number): number {
  const x = bitsOf(value);
  const sign = (x >>> 16) & 0x8000;
  const magnitude = x & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // ≥ 65520 rounds beyond the largest half, 65504
  if (magnitude < 0x38800000) {
    // Below 2⁻¹⁴: subnormal, a multiple of 2⁻²⁴. The scaled value is exact, so one rounding remains.
    return sign | roundHalfEven(Math.abs(f32[0] as number) * 2 ** 24);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded >>> 13) - ((127 - 15) << 10));
}

/** float32 value → bf16 bits; NaN stays NaN. */
export function numberToBf16(value: number): number {
  const x = bitsOf(value);
  if ((x & 0x7fffffff) > 0x7f800000) return ((x >>> 16) & 0x8000) | 0x7fc0;
  return ((x + 0x7fff + ((x >>> 16) & 1)) >>> 16) & 0xffff;
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest > 0.5 ? floor + 1 : floor;
  return floor % 2 === 0 ? floor : floor + 1;
}
