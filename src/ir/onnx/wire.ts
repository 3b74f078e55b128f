import type { ByteSource } from './bytes.js';

/** The wire format is broken at a byte, or the file ends inside a message. Turned into a UserError by scan.ts. */
export class WireError extends Error {
  override readonly name = 'WireError';

  constructor(
    readonly at: number,
    readonly truncated: boolean,
    what: string,
  ) {
    super(what);
  }
}

/** One field as found: `start`..`end` is the payload (after the length of a length-delimited field). */
export interface WireField {
  readonly number: number;
  /** 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes; groups (3, 4) are refused. */
  readonly wireType: 0 | 1 | 2 | 5;
  readonly tagAt: number;
  /** Where the length varint of a length-delimited field starts; equals `start` for others. */
  readonly lengthAt: number;
  readonly start: number;
  readonly end: number;
}

/** Reads tags and varints through a window, so that payloads are skipped without being loaded. */
export interface WireReader {
  /** The field at `at`, which must end by `limit`. @throws WireError */
  field(at: number, limit: number): WireField;
  /** The varint at `at`, exact up to 2⁵³, approximate above (64-bit negatives). @throws WireError */
  varint(at: number, limit: number): { readonly value: number; readonly end: number };
}

const WINDOW_BYTES = 64 * 1024;

/** @param source the file to read; a source held in memory is its own window */
export function wireReader(source: ByteSource): WireReader {
  let window = source.slice(0, Math.min(source.size, WINDOW_BYTES));
  let windowStart = 0;

  const byteAt = (at: number, limit: number): number => {
    if (at >= limit)
      throw new WireError(at, limit >= source.size, 'a number runs past the end of its message');
    const inWindow = at - windowStart;
    if (inWindow >= 0 && inWindow < window.length) return window[inWindow] as number;
    windowStart = at;
    window = source.slice(at, Math.min(source.size, at + WINDOW_BYTES));
    return window[0] as number;
  };

  const varint = (at: number, limit: number): { value: number; end: number } => {
    let value = 0;
    let scale = 1;
    for (let index = 0; index < 10; index++) {
      const byte = byteAt(at + index, limit);
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return { value, end: at + index + 1 };
      scale *= 128;
    }
    throw new WireError(at, false, 'a number of more than 10 bytes');
  };

  const field = (at: number, limit: number): WireField => {
    const tag = varint(at, limit);
    const number = Math.floor(tag.value / 8);
    if (number < 1 || tag.value >= 2 ** 32) throw new WireError(at, false, `field number ${number}`);
    const payload = payloadOf(tag.value % 8, tag.end, at, limit);
    if (payload.end > limit) {
      throw new WireError(at, payload.end > source.size, `a field that runs past the end of its message`);
    }
    return { number, tagAt: at, lengthAt: tag.end, ...payload };
  };

  const payloadOf = (
    wireType: number,
    start: number,
    at: number,
    limit: number,
  ): Pick<WireField, 'wireType' | 'start' | 'end'> => {
    if (wireType === 0) return { wireType, start, end: varint(start, limit).end };
    if (wireType === 1) return { wireType, start, end: start + 8 };
    if (wireType === 5) return { wireType, start, end: start + 4 };
    if (wireType !== 2) throw new WireError(at, false, `wire type ${wireType}`);
    const length = varint(start, limit);
    return { wireType, start: length.end, end: length.end + length.value };
  };

  return { field, varint };
}

/** Bytes of a varint. @param value an integer from 0 to 2⁵³ − 1 */
export function encodeVarint(value: number): Uint8Array {
  let length = 1;
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) length++;
  const out = new Uint8Array(length);
  let rest = value;
  for (let at = 0; at < length - 1; at++) {
    out[at] = (rest % 128) | 128;
    rest = Math.floor(rest / 128);
  }
  out[length - 1] = rest;
  return out;
}

/** A length-delimited field. */
export function encodeField(number: number, payload: Uint8Array): Uint8Array {
  return concat([encodeVarint(number * 8 + 2), encodeVarint(payload.length), payload]);
}

/** A varint field. */
export function encodeVarintField(number: number, value: number): Uint8Array {
  return concat([encodeVarint(number * 8), encodeVarint(value)]);
}

const encoder = new TextEncoder();

/** A string field. */
export function encodeString(number: number, text: string): Uint8Array {
  return encodeField(number, encoder.encode(text));
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
