/**
 * LZ4 blocks and frames (https://github.com/lz4/lz4/tree/dev/doc), which neither Node.js nor the readers of Parquet
 * and Arrow bring. Checksums are not verified: what is read is checked for making sense, as an uncompressed file is.
 */

const wrong = (what: string): Error => new Error(`LZ4: ${what}`);

/** Decompresses one block to `output` from `at` on; matches may reach back to its beginning. @returns the new end */
export function decompressLz4Block(input: Uint8Array, output: Uint8Array, at = 0): number {
  let [from, to] = [0, at];
  /** What follows a nibble of 15. */
  const more = (length: number): number => {
    if (length < 15) return length;
    for (let byte = 255; byte === 255; length += byte) {
      byte = input[from++] ?? 0;
      if (from > input.length) throw wrong('a length ends early');
    }
    return length;
  };
  while (from < input.length) {
    const token = input[from++]!;
    const literals = more(token >> 4);
    if (from + literals > input.length || to + literals > output.length)
      throw wrong('literals beyond the end');
    output.set(input.subarray(from, from + literals), to);
    [from, to] = [from + literals, to + literals];
    if (from === input.length) return to;
    const offset = input[from]! | ((input[from + 1] ?? 0) << 8);
    from += 2;
    if (offset === 0 || offset > to) throw wrong('a match before the beginning');
    const end = to + more(token & 15) + 4;
    if (end > output.length) throw wrong('a match beyond the end');
    // Byte by byte: a match may overlap what it writes.
    for (; to < end; to++) output[to] = output[to - offset]!;
  }
  return to;
}

const MAGIC = 0x184d2204;
const UNCOMPRESSED = 0x8000_0000;

/** Decompresses a frame of exactly `bytes`. */
export function decompressLz4Frame(input: Uint8Array, bytes: number): Uint8Array {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  const output = new Uint8Array(bytes);
  if (input.length < 7 || view.getUint32(0, true) !== MAGIC) throw wrong('not a frame');
  const flags = input[4]!;
  if (flags >> 6 !== 1) throw wrong(`version ${flags >> 6} is not known`);
  const [blockChecksum, contentSize, dictionary] = [flags & 0x10, flags & 0x08, flags & 0x01];
  let [from, to] = [7 + (contentSize === 0 ? 0 : 8) + (dictionary === 0 ? 0 : 4), 0];
  for (;;) {
    if (from + 4 > input.length) throw wrong('a frame ends early');
    const word = view.getUint32(from, true);
    from += 4;
    if (word === 0) break;
    const length = word & 0x7fff_ffff;
    if (from + length > input.length) throw wrong('a block beyond the end');
    const block = input.subarray(from, from + length);
    if (word < UNCOMPRESSED) to = decompressLz4Block(block, output, to);
    else {
      if (to + length > bytes) throw wrong('a block beyond the end');
      output.set(block, to);
      to += length;
    }
    from += length + (blockChecksum === 0 ? 0 : 4);
  }
  if (to !== bytes) throw wrong(`${to} bytes, ${bytes} were announced`);
  return output;
}
