import { PIECE_BYTES, rangesOf, tilesOf } from '../../files/pieces.js';
import { isFloat } from './dtype.js';
import type { OnnxInitializer, OnnxModel } from './model.js';

/** Two initializers that store one parameter twice. */
export interface TiedInitializers {
  readonly a: string;
  readonly b: string;
  /** `transposed`: b is the transpose of the 2-D a. */
  readonly relation: 'same' | 'transposed';
}

/** Elements looked at before the whole contents are. */
const SAMPLES = 64;

/**
 * Finds floating initializers, two-dimensional or more, with the same content, or one the transpose of the
 * other (2-D). Constant contents (all zeros, all ones) tie nothing: fresh buffers often look alike. Absent
 * external data compares by location only.
 * @returns pairs in file order; of k copies, k − 1 pairs with the first as `a`
 * @param pieceBytes how much of a tensor is in memory at a time
 * @throws UserError when the data of a candidate is damaged
 */
export function findTiedInitializers(
  model: OnnxModel,
  pieceBytes: number = PIECE_BYTES,
): readonly TiedInitializers[] {
  const groups = new Map<string, OnnxInitializer[]>();
  for (const tensor of model.initializers.values()) {
    if (!isFloat(tensor.dtype) || tensor.dims.length < 2 || tensor.elementCount < 2) continue;
    const key = `${tensor.dtype} ${[...tensor.dims].sort((x, y) => x - y).join('x')} ${ends(tensor)}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [tensor]);
    else group.push(tensor);
  }
  return [...groups.values()].flatMap((group) => tiedInGroup(group, pieceBytes));
}

/** The first and the last element: a transpose has the same. Where they are absent, their place. */
function ends(tensor: OnnxInitializer): string {
  if (!tensor.isPresent())
    return tensor.location.kind === 'external'
      ? `${tensor.location.offset} of ${tensor.location.file}`
      : tensor.name;
  const width = size(tensor);
  const elements = [tensor.readRange(0, width), tensor.readRange(tensor.bytes - width, width)];
  return elements.map((bytes) => Buffer.from(bytes).toString('hex')).join(' ');
}

/** Tensors that start and end alike and are not the same are few; of more, copies are not looked for. */
const MAX_LIKE = 16;

function tiedInGroup(group: readonly OnnxInitializer[], pieceBytes: number): readonly TiedInitializers[] {
  const found: { readonly a: OnnxInitializer; readonly copies: TiedInitializers[] }[] = [];
  if (group.length === 1) return [];
  for (const b of group) {
    if (b.isPresent() && isConstant(b, pieceBytes)) continue;
    const isNew = !found.some(({ a, copies }) => {
      const relation = relationOf(a, b, pieceBytes);
      if (relation !== undefined) copies.push({ a: a.name, b: b.name, relation });
      return relation !== undefined;
    });
    if (isNew && found.length < MAX_LIKE) found.push({ a: b, copies: [] });
  }
  return found.flatMap(({ copies }) => copies);
}

function relationOf(
  a: OnnxInitializer,
  b: OnnxInitializer,
  pieceBytes: number,
): TiedInitializers['relation'] | undefined {
  const sameDims = a.dims.length === b.dims.length && a.dims.every((dim, index) => dim === b.dims[index]);
  if (sameDims && sameLocation(a, b)) return 'same';
  if (!a.isPresent() || !b.isPresent()) return undefined;
  if (sameDims && samplesAgree(a, b, (index) => index) && sameBytes(a, b, pieceBytes)) return 'same';
  const [rows = 0, columns = 0] = a.dims;
  if (a.dims.length !== 2 || b.dims.length !== 2 || b.dims[0] !== columns || b.dims[1] !== rows)
    return undefined;
  const flip = (index: number): number => (index % columns) * rows + Math.floor(index / columns);
  return samplesAgree(a, b, flip) && isTranspose(a, b, pieceBytes) ? 'transposed' : undefined;
}

function sameLocation(a: OnnxInitializer, b: OnnxInitializer): boolean {
  const [x, y] = [a.location, b.location];
  return x.kind === 'external' && y.kind === 'external' && x.file === y.file && x.offset === y.offset;
}

function size(tensor: OnnxInitializer): number {
  return tensor.bytes / tensor.elementCount;
}

/** Compares a few elements of a with those of b at mapped positions. */
function samplesAgree(a: OnnxInitializer, b: OnnxInitializer, map: (index: number) => number): boolean {
  const width = size(a);
  // A stride prime to the usual sizes visits different rows and columns.
  const step = Math.max(1, Math.floor(a.elementCount / SAMPLES) | 1);
  for (let index = 0; index < a.elementCount; index += step) {
    if (!equal(a.readRange(index * width, width), b.readRange(map(index) * width, width))) return false;
  }
  return true;
}

function sameBytes(a: OnnxInitializer, b: OnnxInitializer, pieceBytes: number): boolean {
  for (const { start, end } of rangesOf(a.bytes, pieceBytes))
    if (!equal(a.readRange(start, end - start), b.readRange(start, end - start))) return false;
  return true;
}

/** Compares tiles of a with those of b, a row of a and then a row of b at a time. */
function isTranspose(a: OnnxInitializer, b: OnnxInitializer, pieceBytes: number): boolean {
  const [rows = 0, columns = 0] = a.dims;
  const width = size(a);
  const elements = Math.max(1, Math.floor(pieceBytes / width));
  const memory = new Uint8Array(elements * width);
  for (const tile of tilesOf(rows, columns, elements)) {
    const stride = tile.columns * width;
    for (let row = 0; row < tile.rows; row++)
      memory.set(a.readRange(((tile.row + row) * columns + tile.column) * width, stride), row * stride);
    for (let column = 0; column < tile.columns; column++) {
      const line = b.readRange(((tile.column + column) * rows + tile.row) * width, tile.rows * width);
      for (let row = 0; row < tile.rows; row++) {
        const from = row * stride + column * width;
        for (let byte = 0; byte < width; byte++)
          if (memory[from + byte] !== line[row * width + byte]) return false;
      }
    }
  }
  return true;
}

/** True when every element equals the first. */
function isConstant(tensor: OnnxInitializer, pieceBytes: number): boolean {
  const width = size(tensor);
  const first = Uint8Array.from(tensor.readRange(0, width));
  for (const { start, end } of rangesOf(tensor.elementCount, pieceBytes / width)) {
    const chunk = tensor.readRange(start * width, (end - start) * width);
    if (chunk.some((byte, index) => byte !== first[index % width])) return false;
  }
  return true;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
