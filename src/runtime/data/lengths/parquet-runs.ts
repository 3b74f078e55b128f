/** Numbers in the run-length and bit-packing hybrid of Parquet, as runs of one value. */
export interface Runs {
  /** How many more of the present value there are. */
  readonly left: number;
  readonly value: number;
  /** Uses some of the present value, at most as many as are left; then the next run is present. */
  take(count: number): void;
}

/**
 * Reads levels or indices of `width` bits each (https://parquet.apache.org/docs/file-format/data-pages/encodings/,
 * RLE = 3). Takes no memory, whatever the runs announce.
 * @throws Error when more is taken than there is
 */
export function readRuns(bytes: Uint8Array, width: number): Runs {
  if (!(width >= 0 && width <= 32)) throw new Error(`values of ${width} bits`);
  let [at, value, left] = [0, 0, 0];
  // Of a bit-packed run: values that follow, and the bit at which the next one starts.
  let [packed, bit] = [0, 0];

  function unpack(): number {
    let number = 0;
    for (let have = 0; have < width;) {
      const byte = bytes[bit >> 3];
      if (byte === undefined) throw new Error('bit-packed values end early');
      const some = Math.min(8 - (bit & 7), width - have);
      number += ((byte >> (bit & 7)) & ((1 << some) - 1)) * 2 ** have;
      have += some;
      bit += some;
    }
    return number;
  }

  function next(): void {
    while (left === 0 && packed === 0) {
      const header = varint();
      if (header % 2 === 1) {
        packed = 8 * Math.floor(header / 2);
        bit = 8 * at;
        at += Math.floor(header / 2) * width;
      } else {
        left = header / 2;
        value = 0;
        for (let i = 0; i < width; i += 8) value += byteAt(at++) * 2 ** i;
      }
    }
    if (left > 0) return;
    packed--;
    [value, left] = [unpack(), 1];
  }

  const byteAt = (index: number): number => {
    const byte = bytes[index];
    if (byte === undefined) throw new Error('runs end early');
    return byte;
  };
  const varint = (): number => {
    let number = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = byteAt(at++);
      number += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return number;
    }
    throw new Error('a run is announced in more than five bytes');
  };
  return {
    get left() {
      if (left === 0) next();
      return left;
    },
    get value() {
      if (left === 0) next();
      return value;
    },
    take(count) {
      left -= count;
    },
  };
}

/** One value as often as it is asked for: levels that a column does not have. */
export const always = (value: number): Runs => ({ left: Infinity, value, take: () => undefined });
