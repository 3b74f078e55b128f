/** Damage to the bytes of a model file, without knowledge of its format but where its graph lies. */
import type { Dice } from './dice.js';

export type ByteEdit = (bytes: Uint8Array, dice: Dice) => Uint8Array;

/** Most of a file is weights: half of all places lie in the first part, where exporters put the nodes. */
const GRAPH_BYTES = 120_000;

const place = (bytes: Uint8Array, dice: Dice): number =>
  dice.below(dice.chance(0.7) ? Math.min(bytes.length, GRAPH_BYTES) : bytes.length);

const INTERESTING: readonly number[] = [0, 1, 0x7f, 0x80, 0xff, 0x0a, 0x12, 0x08, 0x3a];

function splice(bytes: Uint8Array, start: number, end: number, inserted: Uint8Array): Uint8Array {
  const out = new Uint8Array(start + inserted.length + Math.max(0, bytes.length - end));
  out.set(bytes.subarray(0, start));
  out.set(inserted, start);
  out.set(bytes.subarray(end), start + inserted.length);
  return out;
}

const edited = (bytes: Uint8Array, edit: (copy: Uint8Array) => void): Uint8Array => {
  const copy = Uint8Array.from(bytes);
  if (copy.length > 0) edit(copy);
  return copy;
};

/** A place where a length-delimited field seems to start: its tag is followed by a plausible length. */
function lengthPlace(bytes: Uint8Array, dice: Dice): number {
  const from = place(bytes, dice);
  for (let at = from; at < Math.min(bytes.length - 1, from + 4096); at++)
    if ((bytes[at]! & 7) === 2 && bytes[at]! < 0x80 && bytes[at + 1]! > 0 && bytes[at + 1]! < 0x60)
      return at + 1;
  return from;
}

const HUGE_LENGTHS: readonly (readonly number[])[] = [
  [0xff, 0xff, 0xff, 0xff, 0x07],
  [0xff, 0xff, 0xff, 0xff, 0x0f],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
  [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
];

export const BYTE_EDITS: Readonly<Record<string, ByteEdit>> = {
  flipBit: (bytes, dice) =>
    edited(bytes, (copy) => {
      copy[place(bytes, dice)]! ^= 1 << dice.below(8);
    }),
  setByte: (bytes, dice) =>
    edited(bytes, (copy) => {
      copy[place(bytes, dice)] = dice.chance(0.5) ? dice.pick(INTERESTING) : dice.below(256);
    }),
  truncate: (bytes, dice) => bytes.slice(0, place(bytes, dice)),
  remove: (bytes, dice) => {
    const at = place(bytes, dice);
    return splice(bytes, at, at + 1 + dice.below(64), new Uint8Array(0));
  },
  copyWithin: (bytes, dice) => {
    const [from, to, length] = [place(bytes, dice), place(bytes, dice), 1 + dice.below(512)];
    return splice(bytes, to, dice.chance(0.5) ? to : to + length, bytes.slice(from, from + length));
  },
  insertNoise: (bytes, dice) => {
    const at = place(bytes, dice);
    return splice(
      bytes,
      at,
      at,
      Uint8Array.from({ length: 1 + dice.below(32) }, () => dice.below(256)),
    );
  },
  lengthByte: (bytes, dice) =>
    edited(bytes, (copy) => {
      const at = lengthPlace(bytes, dice);
      copy[at] = dice.chance(0.5) ? dice.below(128) : copy[at]! + dice.pick([-2, -1, 1, 2]);
    }),
  hugeLength: (bytes, dice) => {
    const at = lengthPlace(bytes, dice);
    return splice(bytes, at, at + 1, Uint8Array.from(dice.pick(HUGE_LENGTHS)));
  },
  repeatTail: (bytes, dice) => splice(bytes, bytes.length, bytes.length, bytes.slice(place(bytes, dice))),
  /** A graph in a node in a graph, and so on, after the file's own fields. */
  nest: (bytes, dice) => {
    let body: Uint8Array = new Uint8Array(0);
    for (let level = dice.pick([10, 60, 70, 3000]); level > 0; level--)
      body = field(1, field(5, field(6, body)));
    return splice(bytes, bytes.length, bytes.length, field(7, body));
  },
};

/** A length-delimited field. */
function field(number: number, body: Uint8Array): Uint8Array {
  const header = [number * 8 + 2];
  let length = body.length;
  for (; length >= 0x80; length = Math.floor(length / 128)) header.push((length % 128) + 0x80);
  return Uint8Array.from([...header, length, ...body]);
}
