import { availableParallelism } from 'node:os';
import { invariant } from '../../errors.js';
import { collectiveKinds, type CollectiveKind, type Group } from './engine.js';

/**
 * The shared memory of all ranks of one machine: made by the main thread, posted to every worker
 * (it survives structured cloning), used through {@link viewMesh}.
 */
export interface SharedMesh {
  readonly world: number;
  /** Bytes a rank can have on their way to others. Bigger payloads travel in rounds. */
  readonly outboxBytes: number;
  /** How long a rank may wait for one that has nothing to do before this counts as a disagreement. */
  readonly idleGraceMs: number;
  /** How often a rank looks again before it sleeps. */
  readonly spins: number;
  readonly control: SharedArrayBuffer;
  readonly outboxes: readonly SharedArrayBuffer[];
}

export interface MeshOptions {
  readonly world: number;
  readonly outboxBytes?: number;
  readonly idleGraceMs?: number;
}

export interface MeshView {
  readonly world: number;
  readonly idleGraceMs: number;
  readonly spins: number;
  readonly words: Int32Array;
  readonly text: Uint8Array;
  readonly outboxes: readonly Int32Array[];
  /** Words of half an outbox: what one round may carry. */
  readonly capacity: number;
}

/** One operation of a rank, as its peers see it. */
export interface Operation {
  readonly kind: CollectiveKind;
  readonly group: Group;
}

const textBytes = 4096;
const maxWorld = 1024;
/** About 20 µs, less than a sleep and a wake-up, where every rank has a core; else less than a microsecond. */
const spinsAlone = 2000;
const spinsCrowded = 40;

/*
 * Words of `control`:
 *   head      abort word, length of the abort text, interrupt word
 *   ranks     one record a rank (below)
 *   pairs     one record of 64 bytes for each (sender, receiver), a cache line
 *   text      UTF-8 of the abort's cause
 */
export const abortWord = 0;
export const abortTextLength = 1;
export const interruptWord = 2;
const headWords = 16;
const pairWords = 16;

/** Offsets inside a rank's record; three descriptions of operations follow, of world + 2 words each. */
export const rankField = {
  /** What the rank executes now, for error messages. */
  instruction: 0,
  /** Requests it has not answered. */
  pending: 1,
  /** The wait it is in: the word's index or −1, the value it waits for, the rank that must act, how many before. */
  waitWord: 2,
  waitTarget: 3,
  waitPeer: 4,
  waitEpoch: 5,
  /** 0: in JavaScript; 1: in native code, not to be terminated; 2: about to be terminated, keep out of native code. */
  native: 6,
} as const;
const rankHeadWords = 8;

/** Offsets inside a pair's record: two counters, then a header in each of two slots. */
export const pairField = { posted: 0, taken: 1, slots: 2 } as const;
export const slotWords = 7;
export const slotField = {
  half: 0,
  offset: 1,
  count: 2,
  totalLow: 3,
  totalHigh: 4,
  layout: 5,
  round: 6,
} as const;

function rankRecordWords(world: number): number {
  return Math.ceil((rankHeadWords + 3 * (world + 2)) / 16) * 16;
}

export function createMesh(options: MeshOptions): SharedMesh {
  const { world, outboxBytes = 4 << 20, idleGraceMs = 10_000 } = options;
  invariant(Number.isInteger(world) && world >= 1 && world <= maxWorld, `world of ${world} ranks`);
  invariant(
    outboxBytes % 8 === 0 && outboxBytes >= 8 * world,
    `outbox of ${outboxBytes} bytes for ${world} ranks`,
  );
  const words = headWords + world * rankRecordWords(world) + world * world * pairWords;
  const mesh: SharedMesh = {
    world,
    outboxBytes,
    idleGraceMs,
    spins: world <= availableParallelism() ? spinsAlone : spinsCrowded,
    control: new SharedArrayBuffer(4 * words + textBytes),
    outboxes: Array.from({ length: world }, () => new SharedArrayBuffer(outboxBytes)),
  };
  const view = viewMesh(mesh);
  for (let rank = 0; rank < world; rank++) {
    view.words[rankWord(view, rank, 'waitWord')] = -1;
    view.words[rankWord(view, rank, 'instruction')] = -1;
    view.words[rankWord(view, rank, 'pending')] = 1;
  }
  return mesh;
}

export function viewMesh(mesh: SharedMesh): MeshView {
  const textAt = mesh.control.byteLength - textBytes;
  return {
    world: mesh.world,
    idleGraceMs: mesh.idleGraceMs,
    spins: mesh.spins,
    words: new Int32Array(mesh.control, 0, textAt / 4),
    text: new Uint8Array(mesh.control, textAt, textBytes),
    outboxes: mesh.outboxes.map((box) => new Int32Array(box)),
    capacity: mesh.outboxBytes / 8,
  };
}

/** Index of a word in a rank's record. */
export function rankWord(mesh: MeshView, rank: number, field: keyof typeof rankField): number {
  return headWords + rank * rankRecordWords(mesh.world) + rankField[field];
}

/** Index of the first word of the record of what `sender` gives `receiver`. */
export function pairBase(mesh: MeshView, sender: number, receiver: number): number {
  return headWords + mesh.world * rankRecordWords(mesh.world) + (sender * mesh.world + receiver) * pairWords;
}

/** Index of a rank's description of an operation: the one it published with half 0 or 1, or (2) the one it is in. */
export function operationBase(mesh: MeshView, rank: number, slot: 0 | 1 | 2): number {
  return headWords + rank * rankRecordWords(mesh.world) + rankHeadWords + slot * (mesh.world + 2);
}

export function writeOperation(mesh: MeshView, base: number, op: Operation): void {
  mesh.words[base] = collectiveKinds.indexOf(op.kind);
  mesh.words[base + 1] = op.group.ranks.length;
  op.group.ranks.forEach((rank, i) => (mesh.words[base + 2 + i] = rank));
}

export function sameOperation(mesh: MeshView, base: number, op: Operation): boolean {
  const { ranks } = op.group;
  if (mesh.words[base] !== collectiveKinds.indexOf(op.kind) || mesh.words[base + 1] !== ranks.length)
    return false;
  for (let i = 0; i < ranks.length; i++) if (mesh.words[base + 2 + i] !== ranks[i]) return false;
  return true;
}

export function readOperation(mesh: MeshView, base: number): Operation {
  const size = mesh.words[base + 1] ?? 0;
  return {
    kind: collectiveKinds[mesh.words[base] ?? 0] ?? 'barrier',
    group: { ranks: Array.from(mesh.words.subarray(base + 2, base + 2 + size)) },
  };
}

/** "all-to-all of ranks 0, 1". */
export function describeOperation(op: Operation): string {
  return `${op.kind} of ranks ${op.group.ranks.join(', ')}`;
}
