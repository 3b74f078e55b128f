import { accessOf } from '../../package/access.js';
import type { Program } from '../../package/program.js';

/**
 * Replays a program on a layout and reports every way in which a value would be lost. Shares nothing with the
 * planner: it believes neither the lifetimes in the package nor the layout's own size.
 */

export type LayoutFinding =
  | { readonly kind: 'unplaced'; readonly buffer: number; readonly offset: number }
  | { readonly kind: 'misaligned'; readonly buffer: number; readonly offset: number }
  | { readonly kind: 'outside'; readonly buffer: number; readonly offset: number; readonly bytes: number }
  | { readonly kind: 'unwritten'; readonly buffer: number; readonly instruction: number }
  /** `buffer` is read by `instruction` after `by` was written over a part of it (by instruction `at`). */
  | {
      readonly kind: 'overwritten';
      readonly buffer: number;
      readonly instruction: number;
      readonly by: number;
      readonly at: number;
    }
  /** Both are used by `instruction`, and one of them is written. */
  | {
      readonly kind: 'overlapping';
      readonly buffer: number;
      readonly other: number;
      readonly instruction: number;
    };

/** What is checked of a layout: offsets by buffer (bytes), the arena's size, and what offsets are multiples of. */
export interface CheckedLayout {
  readonly offsets: ArrayLike<number>;
  readonly bytes: number;
  readonly alignment: number;
}

/** Local bytes by buffer, as the runtime will use them. */
export interface CheckedSizes {
  readonly bytes: ArrayLike<number>;
}

export function checkLayout(
  program: Program,
  bound: CheckedSizes,
  layout: CheckedLayout,
): readonly LayoutFinding[] {
  const findings = checkPlaces(program, bound, layout);
  if (findings.length > 0) return findings;
  const inArena = (buffer: number): boolean =>
    program.buffers[buffer]!.kind === 'arena' && bound.bytes[buffer]! > 0;
  const written = new Int32Array(program.buffers.length).fill(-1);
  const memory = new Ownership();
  // One loss, one finding: what is lost stays lost.
  const lost = new Set<number>();
  const report = (buffer: number, finding: LayoutFinding): void => {
    if (!lost.has(buffer)) findings.push(finding);
    lost.add(buffer);
  };
  program.instructions.forEach((instruction, at) => {
    const access = accessOf(instruction, program);
    const reads = [...access.reads, ...access.adds].filter(inArena);
    const writes = access.writes.filter(inArena);
    for (const buffer of reads) {
      const by = memory.strangerIn(buffer, layout.offsets[buffer]!, bound.bytes[buffer]!);
      if (written[buffer]! < 0) report(buffer, { kind: 'unwritten', buffer, instruction: at });
      else if (by !== undefined)
        report(buffer, { kind: 'overwritten', buffer, instruction: at, by, at: written[by]! });
    }
    for (const buffer of writes) {
      memory.take(buffer, layout.offsets[buffer]!, bound.bytes[buffer]!);
      written[buffer] = at;
    }
    // All of an instruction's buffers are in use together.
    for (const buffer of new Set([...reads, ...writes])) {
      const other = memory.strangerIn(buffer, layout.offsets[buffer]!, bound.bytes[buffer]!);
      if (other !== undefined) report(buffer, { kind: 'overlapping', buffer, other, instruction: at });
    }
  });
  return findings;
}

/** One line a finding, for errors. */
export function describeFinding(finding: LayoutFinding, program: Program): string {
  const at = (index: number): string => `instruction ${index} (${program.labels[index] ?? ''})`;
  const buffer = `buffer ${finding.buffer} (${program.buffers[finding.buffer]?.type ?? ''})`;
  switch (finding.kind) {
    case 'unplaced':
      return `${buffer} has no place in the arena: ${finding.offset}`;
    case 'misaligned':
      return `${buffer} is misaligned at byte ${finding.offset}`;
    case 'outside':
      return `${buffer} of ${finding.bytes} bytes at ${finding.offset} lies outside the arena`;
    case 'unwritten':
      return `${buffer} is read by ${at(finding.instruction)} before it is written`;
    case 'overwritten':
      return `${buffer} is read by ${at(finding.instruction)} after ${at(finding.at)} wrote buffer ${finding.by} over it`;
    case 'overlapping':
      return `${buffer} and buffer ${finding.other}, both used by ${at(finding.instruction)}, overlap`;
  }
}

function checkPlaces(
  program: Program,
  { bytes }: CheckedSizes,
  { offsets, bytes: total, alignment }: CheckedLayout,
): LayoutFinding[] {
  return program.buffers.flatMap(({ kind }, buffer): LayoutFinding[] => {
    const offset = offsets[buffer] ?? NaN;
    const size = bytes[buffer]!;
    if (kind !== 'arena') return offset === -1 ? [] : [{ kind: 'unplaced', buffer, offset }];
    if (!Number.isSafeInteger(offset) || offset < 0) return [{ kind: 'unplaced', buffer, offset }];
    if (offset % alignment !== 0) return [{ kind: 'misaligned', buffer, offset }];
    if (offset + size > total) return [{ kind: 'outside', buffer, offset, bytes: size }];
    return [];
  });
}

/** Who wrote last, byte by byte: disjoint intervals by rising start. Bytes of nobody are in none. */
class Ownership {
  readonly #start: number[] = [];
  readonly #end: number[] = [];
  readonly #owner: number[] = [];

  /** Gives `bytes` bytes from `offset` on to `owner`. */
  take(owner: number, offset: number, bytes: number): void {
    const end = offset + bytes;
    let from = this.#firstEndingAfter(offset);
    let to = from;
    while (to < this.#start.length && this.#start[to]! < end) to++;
    const kept: [number, number, number][] = [[offset, end, owner]];
    if (from < to && this.#start[from]! < offset)
      kept.unshift([this.#start[from]!, offset, this.#owner[from]!]);
    if (from < to && this.#end[to - 1]! > end) kept.push([end, this.#end[to - 1]!, this.#owner[to - 1]!]);
    this.#start.splice(from, to - from, ...kept.map((piece) => piece[0]));
    this.#end.splice(from, to - from, ...kept.map((piece) => piece[1]));
    this.#owner.splice(from, to - from, ...kept.map((piece) => piece[2]));
  }

  /** Someone else who owns a part of the range; undefined when it is all `owner`'s, or nobody's. */
  strangerIn(owner: number, offset: number, bytes: number): number | undefined {
    for (let i = this.#firstEndingAfter(offset); i < this.#start.length; i++) {
      if (this.#start[i]! >= offset + bytes) return undefined;
      if (this.#owner[i] !== owner) return this.#owner[i];
    }
    return undefined;
  }

  #firstEndingAfter(offset: number): number {
    let [low, high] = [0, this.#end.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#end[middle]! > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
