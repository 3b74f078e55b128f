// @ts-check
// Sizes in the page: the arithmetic of src/ir (size, type, placement) for numbers that the reader chooses.

/** @typedef {{ axis: string, unit: number, of: number | undefined }} Split */
/** @typedef {{ size: string, split: Split | undefined }} Dim */
/** @typedef {{ dtype: string, dims: readonly Dim[], pending: string | undefined }} Type */
/**
 * One group: tokens of its row, ranks, and the rank looked at.
 * @typedef {{ tokens: number, degree: number, index: number }} Group
 */

/**
 * Query and key pairs that attention sees in documents of the given lengths.
 * @param {string} symbol
 * @param {readonly number[]} lengths
 * @returns {number}
 */
export function attendedPairs(symbol, lengths) {
  const found = /^A_window_(\d+)(?:_(\d+))?$/.exec(symbol);
  const window = found === null ? Infinity : Number(found[1]);
  const ahead = Number(found?.[2] ?? 0);
  return lengths.reduce((sum, s) => {
    if (symbol === 'A_full') return sum + s * s;
    const [w, a] = [Math.min(window, s), Math.min(ahead + 1, s)];
    return sum + (w * (w + 1)) / 2 + (s - w) * w + (a * (a + 1)) / 2 + (s - a) * a - s;
  }, 0);
}

/**
 * Documents as long as they may be, as equal as they can be.
 * @param {number} tokens
 * @param {number | undefined} longest
 * @returns {number[]}
 */
export function documentLengths(tokens, longest) {
  const count = longest === undefined || longest < 1 ? 1 : Math.ceil(tokens / longest);
  const base = Math.floor(tokens / count);
  return Array.from({ length: count }, (_, i) => base + (i < tokens % count ? 1 : 0));
}

/**
 * The value of a polynomial such as `3*S + 512*A_causal + 1`.
 * @param {string} text
 * @param {readonly number[]} lengths of the documents of the row
 * @returns {number}
 */
export function evaluate(text, lengths) {
  const tokens = lengths.reduce((sum, n) => sum + n, 0);
  return text.split('+').reduce((sum, term) => {
    const factors = term.split('*').map((factor) => {
      const name = factor.trim();
      if (/^-?\d+$/.test(name)) return Number(name);
      return name.startsWith('A_') ? attendedPairs(name, lengths) : tokens;
    });
    return sum + factors.reduce((product, n) => product * n, 1);
  }, 0);
}

/** @type {Map<string, Type>} */
const parsed = new Map();

/**
 * `f32[S@sp, 2@sp(8), 64]{U:sp}`
 * @param {string} text
 * @returns {Type}
 */
export function parseType(text) {
  const known = parsed.get(text);
  if (known !== undefined) return known;
  const match = /^(\w+)\[(.*)\](?:\{U:(\w+)\})?$/.exec(text);
  const inner = match === null ? '' : match[2];
  const type = {
    dtype: match === null ? '' : String(match[1]),
    dims: inner === undefined || inner.trim() === '' ? [] : inner.split(',').map(parseDim),
    pending: match === null ? undefined : match[3],
  };
  parsed.set(text, type);
  return type;
}

/**
 * @param {string} text
 * @returns {Dim}
 */
function parseDim(text) {
  const [size = '', at] = text.trim().split('@');
  const split = at === undefined ? null : /^(\w+)(?:\/(\d+))?(?:\((\d+)\))?$/.exec(at);
  return {
    size: size.replace(/^\(|\)$/g, ''),
    split:
      split === null
        ? undefined
        : {
            axis: String(split[1]),
            unit: split[2] === undefined ? 1 : Number(split[2]),
            of: split[3] === undefined ? undefined : Number(split[3]),
          },
  };
}

/**
 * Elements [start, end) of a split dim that a rank holds.
 * @param {number} size
 * @param {Split} split
 * @param {number} degree
 * @param {number} index
 * @returns {readonly [number, number]}
 */
export function splitRange(size, split, degree, index) {
  const pieces = size / split.unit;
  const [start, end] = split.of === undefined ? share(pieces, degree, index) : share(split.of, degree, index);
  if (split.of === undefined) return [start * split.unit, end * split.unit];
  const perPiece = split.of / pieces;
  const first = Math.min(Math.floor(start / perPiece), pieces);
  const last = start === end ? first : Math.floor((end - 1) / perPiece) + 1;
  return [first * split.unit, last * split.unit];
}

/**
 * @param {number} pieces
 * @param {number} degree
 * @param {number} index
 * @returns {readonly [number, number]}
 */
function share(pieces, degree, index) {
  const base = Math.floor(pieces / degree);
  const rest = pieces % degree;
  const start = index * base + Math.min(index, rest);
  return [start, start + base + (index < rest ? 1 : 0)];
}

/**
 * Length of a dim on the group's rank. All ranks are one group: `world` is as large as `sp`.
 * @param {Dim} dim
 * @param {Group} group
 * @returns {number}
 */
function localSize(dim, group) {
  const size = evaluate(dim.size, [group.tokens]);
  if (dim.split === undefined) return size;
  const [start, end] = splitRange(size, dim.split, group.degree, group.index);
  return end - start;
}

/**
 * Bytes of a value on the group's rank, 4 an element.
 * @param {string} text its type
 * @param {Group} group
 * @returns {number}
 */
export const localBytes = (text, group) =>
  parseType(text).dims.reduce((product, dim) => product * localSize(dim, group), 4);

/**
 * Bytes that the ranks of a group together send to others in one collective.
 * @param {string} op
 * @param {readonly (readonly [string, string])[]} moved types before and after
 * @param {{ tokens: number, degree: number }} group
 * @returns {number}
 */
export function sentBytes(op, moved, { tokens, degree }) {
  return moved.reduce((sum, [from, to]) => {
    const whole = localBytes(from.replace(/@[^,\]]*/g, ''), { tokens, degree, index: 0 });
    if (op === 'all_to_all') return sum + exchangedBytes(parseType(from), parseType(to), tokens, degree);
    return sum + whole * (degree - 1) * (op === 'all_reduce' ? 2 : 1);
  }, 0);
}

/**
 * A rank sends each other rank the part of its shard that lies in the other's share.
 * @param {Type} from
 * @param {Type} to
 * @param {number} tokens
 * @param {number} degree
 * @returns {number}
 */
function exchangedBytes(from, to, tokens, degree) {
  const a = from.dims.findIndex((d) => d.split !== undefined);
  const b = to.dims.findIndex((d) => d.split !== undefined);
  const others = from.dims.reduce(
    (product, d, i) => (i === a || i === b ? product : product * evaluate(d.size, [tokens])),
    4,
  );
  let [held, taken, kept] = [0, 0, 0];
  for (let index = 0; index < degree; index++) {
    const group = { tokens, degree, index };
    const mine = a < 0 ? 0 : localSize(/** @type {Dim} */ (from.dims[a]), group);
    const next = b < 0 ? 0 : localSize(/** @type {Dim} */ (to.dims[b]), group);
    held += mine;
    taken += next;
    kept += mine * next;
  }
  return (held * taken - kept) * others;
}

/**
 * Live bytes of the arena at each instruction, on one rank.
 * @param {readonly string[]} types
 * @param {{ instructions: number, type: readonly number[], first: readonly number[], last: readonly number[] }} arena
 * @param {Group} group
 * @returns {number[]}
 */
export function liveBytes(types, arena, group) {
  const bytes = types.map(() => -1);
  const change = Array.from({ length: arena.instructions + 1 }, () => 0);
  arena.type.forEach((type, i) => {
    if (bytes[type] === -1) bytes[type] = localBytes(String(types[type]), group);
    const [first = 0, last = 0] = [arena.first[i], arena.last[i]];
    change[first] = (change[first] ?? 0) + (bytes[type] ?? 0);
    change[last + 1] = (change[last + 1] ?? 0) - (bytes[type] ?? 0);
  });
  let sum = 0;
  return change.slice(0, arena.instructions).map((delta) => (sum += delta));
}

/**
 * The rank that needs most, and what it needs.
 * @param {readonly string[]} types
 * @param {{ instructions: number, type: readonly number[], first: readonly number[], last: readonly number[] }} arena
 * @param {{ tokens: number, degree: number }} group
 * @returns {{ index: number, live: number[], peak: number }}
 */
export function fullestRank(types, arena, { tokens, degree }) {
  let most = { index: 0, live: /** @type {number[]} */ ([]), peak: -1 };
  for (let index = 0; index < degree; index++) {
    const live = liveBytes(types, arena, { tokens, degree, index });
    const peak = live.reduce((a, b) => Math.max(a, b), 0);
    if (peak > most.peak) most = { index, live, peak };
  }
  return most;
}
