/**
 * Copies a file with byte ranges replaced. In a protobuf file a replacement of another length changes the
 * lengths of the messages around it; every other byte, known field or not, stays as it is.
 */
import { UserError, invariant } from '../../errors.js';
import { PIECE_BYTES, rangesOf, writeFully } from '../../files/pieces.js';
import type { ByteSource } from './bytes.js';
import { MAX_MODEL_BYTES } from './bytes.js';
import type { MessageSpan } from './scan.js';
import { encodeVarint } from './wire.js';

/** Bytes [start, end) of a file become `length` bytes, made piece by piece when they are written. */
export interface Patch {
  readonly start: number;
  readonly end: number;
  readonly length: number;
  /** What is patched, for messages. */
  readonly what: string;
  /** The memory of a piece may be used again for the next. */
  produce(): Iterable<Uint8Array>;
}

/** A patch inside a protobuf message. */
export interface Edit extends Patch {
  readonly message: MessageSpan;
}

/** A patch with bytes at hand. */
export function patch(start: number, end: number, bytes: Uint8Array, what: string): Patch {
  return { start, end, length: bytes.length, what, produce: () => [bytes] };
}

/**
 * Adds the patches that keep the lengths of the enclosing messages right.
 * @throws UserError when the result is larger than a protobuf file can be
 */
export function withLengths(source: ByteSource, edits: readonly Edit[]): readonly Patch[] {
  const growth = new Map<MessageSpan, number>();
  const grow = (message: MessageSpan, bytes: number): void => {
    growth.set(message, (growth.get(message) ?? 0) + bytes);
  };
  for (const edit of edits) {
    grow(edit.message, edit.length - (edit.end - edit.start));
    for (let at = edit.message.parent; at !== undefined; at = at.parent) grow(at, 0);
  }
  const patches: Patch[] = [...edits];
  // Inner messages first: an outer length counts the inner length fields too.
  const messages = [...growth.keys()].sort((a, b) => depth(b) - depth(a));
  for (const message of messages) {
    const by = growth.get(message) ?? 0;
    const { parent, lengthAt, start, end } = message;
    if (parent === undefined) {
      if (source.size + by > MAX_MODEL_BYTES) {
        throw new UserError(
          `${source.path}: with its weights rewritten the file would exceed 2 GiB`,
          'export the source model with external data',
        );
      }
    } else if (by !== 0) {
      const length = encodeVarint(end - start + by);
      patches.push(patch(lengthAt, start, length, 'length'));
      grow(parent, by + length.length - (start - lengthAt));
    }
  }
  return patches;
}

/**
 * Drops patches of one and the same range that write the same bytes (one stored tensor under two names).
 * @throws UserError when patches overlap otherwise
 */
export function withoutDuplicates(path: string, patches: readonly Patch[]): readonly Patch[] {
  const sorted = [...patches].sort((a, b) => a.start - b.start || a.end - b.end);
  const kept: Patch[] = [];
  for (const next of sorted) {
    const last = kept.at(-1);
    if (last === undefined || next.start >= last.end) {
      kept.push(next);
    } else if (last.start !== next.start || last.end !== next.end) {
      throw new UserError(`${path}: ${last.what} and ${next.what} overlap`, 'export the source model again');
    } else if (!sameBytes(last, next)) {
      throw new UserError(
        `${path}: ${last.what} and ${next.what} are stored once but were trained apart`,
        'tie the two parameters, or export the source model with separate weights',
      );
    }
  }
  return kept;
}

/** Whether two patches write the same. Their pieces may end at different bytes: one may store another type. */
function sameBytes(a: Patch, b: Patch): boolean {
  if (a.length !== b.length) return false;
  const right = b.produce()[Symbol.iterator]();
  let rest = new Uint8Array(0);
  for (let left of a.produce()) {
    while (left.length > 0) {
      while (rest.length === 0) rest = next(right);
      const length = Math.min(left.length, rest.length);
      if (Buffer.compare(left.subarray(0, length), rest.subarray(0, length)) !== 0) return false;
      left = left.subarray(length);
      rest = rest.subarray(length);
    }
  }
  return true;
}

function next(pieces: Iterator<Uint8Array>): Uint8Array<ArrayBuffer> {
  const { done, value } = pieces.next();
  invariant(done !== true, 'a patch is shorter than announced');
  return value as Uint8Array<ArrayBuffer>;
}

/** Writes the patched copy of `source` to an open file. */
export function writePatched(source: ByteSource, fd: number, patches: readonly Patch[]): void {
  const sorted = [...patches].sort((a, b) => a.start - b.start || a.end - b.end);
  let at = 0;
  for (const { start, end, length, what, produce } of sorted) {
    invariant(start >= at && end <= source.size, `patch of ${what} overlaps or lies outside the file`);
    copy(source, fd, at, start);
    let written = 0;
    for (const piece of produce()) {
      writeFully(fd, piece, undefined);
      written += piece.length;
    }
    invariant(written === length, `patch of ${what} has ${written} bytes, announced ${length}`);
    at = end;
  }
  copy(source, fd, at, source.size);
}

function copy(source: ByteSource, fd: number, from: number, to: number): void {
  for (const { start, end } of rangesOf(to - from, PIECE_BYTES))
    writeFully(fd, source.slice(from + start, from + end), undefined);
}

function depth(message: MessageSpan): number {
  let count = 0;
  for (let at = message.parent; at !== undefined; at = at.parent) count++;
  return count;
}
