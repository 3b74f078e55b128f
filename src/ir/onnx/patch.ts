/**
 * Copies a file with byte ranges replaced. In a protobuf file a replacement of another length changes the
 * lengths of the messages around it; every other byte, known field or not, stays as it is.
 */
import { writeSync } from 'node:fs';
import { UserError, invariant } from '../../errors.js';
import type { ByteSource } from './bytes.js';
import { MAX_MODEL_BYTES } from './bytes.js';
import type { MessageSpan } from './scan.js';
import { encodeVarint } from './wire.js';

/** Bytes [start, end) of a file become `length` bytes, made when they are written. */
export interface Patch {
  readonly start: number;
  readonly end: number;
  readonly length: number;
  /** What is patched, for messages. */
  readonly what: string;
  produce(): Uint8Array;
}

/** A patch inside a protobuf message. */
export interface Edit extends Patch {
  readonly message: MessageSpan;
}

const CHUNK_BYTES = 8 * 1024 * 1024;

/** A patch with bytes at hand. */
export function patch(start: number, end: number, bytes: Uint8Array, what: string): Patch {
  return { start, end, length: bytes.length, what, produce: () => bytes };
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
    } else if (Buffer.compare(last.produce(), next.produce()) !== 0) {
      throw new UserError(
        `${path}: ${last.what} and ${next.what} are stored once but were trained apart`,
        'tie the two parameters, or export the source model with separate weights',
      );
    }
  }
  return kept;
}

/** Writes the patched copy of `source` to an open file, in chunks. */
export function writePatched(source: ByteSource, fd: number, patches: readonly Patch[]): void {
  const sorted = [...patches].sort((a, b) => a.start - b.start || a.end - b.end);
  let at = 0;
  for (const { start, end, length, what, produce } of sorted) {
    invariant(start >= at && end <= source.size, `patch of ${what} overlaps or lies outside the file`);
    copy(source, fd, at, start);
    const bytes = produce();
    invariant(bytes.length === length, `patch of ${what} has ${bytes.length} bytes, announced ${length}`);
    writeAll(fd, bytes);
    at = end;
  }
  copy(source, fd, at, source.size);
}

function copy(source: ByteSource, fd: number, start: number, end: number): void {
  for (let at = start; at < end; at += CHUNK_BYTES) {
    writeAll(fd, source.slice(at, Math.min(end, at + CHUNK_BYTES)));
  }
}

function writeAll(fd: number, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.length) {
    done += writeSync(fd, bytes, done, Math.min(bytes.length - done, CHUNK_BYTES));
  }
}

function depth(message: MessageSpan): number {
  let count = 0;
  for (let at = message.parent; at !== undefined; at = at.parent) count++;
  return count;
}
