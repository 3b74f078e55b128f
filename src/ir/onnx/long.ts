/** protobufjs gives 64-bit integers as numbers or, where they do not fit, as Long objects. */
interface LongLike {
  readonly low: number;
  readonly high: number;
}

function isLong(value: unknown): value is LongLike {
  return typeof value === 'object' && value !== null && 'low' in value && 'high' in value;
}

/** The exact integer: a number where safe, else a bigint. */
export function toInteger(value: unknown): number | bigint {
  if (typeof value === 'number') return value;
  if (!isLong(value)) return 0;
  const exact = (BigInt(value.high) << 32n) | BigInt(value.low >>> 0);
  const near = Number(exact);
  return Number.isSafeInteger(near) ? near : exact;
}

/** The nearest number. */
export function toNumber(value: unknown): number {
  return Number(toInteger(value));
}

/** Decodes a varint below 2³². */
export function varintOf(bytes: Uint8Array | null | undefined): number {
  let value = 0;
  for (const [index, byte] of (bytes ?? []).entries()) value += (byte & 0x7f) * 128 ** index;
  return value;
}
