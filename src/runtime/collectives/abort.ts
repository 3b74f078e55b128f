import { abortTextLength, abortWord, interruptWord, rankWord, type MeshView } from './mesh.js';

/**
 * The abort word: set once, by the main thread or by a rank that failed, and read by every wait. A rank blocked
 * in `Atomics.wait` sees no message, so this word is the only way to reach it.
 *
 * 0: none; 1: someone is writing the text; else code | (rank + 1) << 8, rank −1 being the main thread.
 */

/** Thrown on the ranks that did nothing wrong: another one failed, or the pool is closing. */
export class AbortError extends Error {
  override readonly name: string = 'AbortError';

  /** @param failedRank the rank that failed; −1 when the main thread ended the run */
  constructor(
    message: string,
    readonly failedRank: number,
  ) {
    super(message);
  }
}

/** Ranks called different collectives, or with sizes that do not fit together. Thrown on every rank of the mesh. */
export class MismatchError extends Error {
  override readonly name: string = 'MismatchError';
}

export type AbortCode = 'failed' | 'mismatch' | 'stopped';

export interface Abort {
  readonly code: AbortCode;
  readonly rank: number;
  readonly text: string;
}

const codes = { failed: 2, mismatch: 3, stopped: 4 } as const satisfies Record<AbortCode, number>;
const claimed = 1;

/** Sets the abort word unless it is set, and wakes every rank that waits. The first cause stays. */
export function raiseAbort(mesh: MeshView, abort: Abort): void {
  const { words } = mesh;
  const before = Atomics.compareExchange(words, abortWord, 0, claimed);
  if (before > claimed || (before === claimed && abort.rank >= 0)) return;
  if (before === 0) {
    const bytes = new TextEncoder().encode(abort.text).subarray(0, mesh.text.length);
    mesh.text.set(bytes);
    words[abortTextLength] = bytes.length;
  }
  // A rank may have died while it held the claim: the main thread publishes over it, without a text.
  Atomics.compareExchange(words, abortWord, claimed, codes[abort.code] | ((abort.rank + 1) << 8));
  Atomics.notify(words, abortWord);
  for (let rank = 0; rank < mesh.world; rank++) {
    const waitsAt = Atomics.load(words, rankWord(mesh, rank, 'waitWord'));
    if (waitsAt >= 0) Atomics.notify(words, waitsAt);
  }
}

/** Waits for a text that another rank is writing. */
export function awaitAbort(mesh: MeshView, timeoutMs: number): void {
  if (Atomics.load(mesh.words, abortWord) === claimed)
    Atomics.wait(mesh.words, abortWord, claimed, timeoutMs);
}

export function readAbort(mesh: MeshView): Abort | undefined {
  const word = Atomics.load(mesh.words, abortWord);
  if (word <= claimed) return undefined;
  const code = word & 0xff;
  return {
    code: code === codes.mismatch ? 'mismatch' : code === codes.stopped ? 'stopped' : 'failed',
    rank: (word >> 8) - 1,
    // TextDecoder refuses shared memory: decode a copy.
    text: new TextDecoder().decode(Uint8Array.from(mesh.text.subarray(0, mesh.words[abortTextLength]))),
  };
}

/** @throws AbortError, or MismatchError where ranks disagreed, once the abort word is set */
export function throwIfAborted(mesh: MeshView): void {
  if (Atomics.load(mesh.words, abortWord) <= claimed) return;
  const abort = readAbort(mesh);
  if (abort === undefined) return;
  if (abort.code === 'mismatch') throw new MismatchError(abort.text);
  if (abort.code === 'stopped') throw new AbortError(`the run was ended: ${abort.text}`, abort.rank);
  throw new AbortError(`rank ${abort.rank} failed: ${abort.text}`, abort.rank);
}

/** Asks the run to finish its step and save. Ranks see it at different moments: one place must decide. */
export function requestInterrupt(mesh: MeshView): void {
  Atomics.store(mesh.words, interruptWord, 1);
}

export function interruptRequested(mesh: MeshView): boolean {
  return Atomics.load(mesh.words, interruptWord) !== 0;
}
