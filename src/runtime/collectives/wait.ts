import { awaitAbort, MismatchError, raiseAbort, throwIfAborted } from './abort.js';
import { describeOperation, operationBase, rankWord, readOperation, type MeshView } from './mesh.js';

/**
 * Waiting for a counter in shared memory.
 *
 * A waiter announces the word it waits for, then sleeps; whoever changes a word wakes its waiter only if one is
 * announced. No wake-up is lost: all these accesses are sequentially consistent, so a writer that saw no
 * announcement wrote before it, and `Atomics.wait` sees the new value and does not sleep.
 *
 * Every 100 ms a waiter looks at the abort word and for a deadlock: ranks that called collectives in
 * contradicting orders wait for each other in a circle.
 */

const tickMs = 100;

/** Makes `words[index]` become `value` and wakes `waiter` if it waits for that word. */
export function publishWord(mesh: MeshView, index: number, value: number, waiter: number): void {
  Atomics.store(mesh.words, index, value);
  if (Atomics.load(mesh.words, rankWord(mesh, waiter, 'waitWord')) === index)
    Atomics.notify(mesh.words, index);
}

/**
 * Blocks until the counter `words[index]` has reached `target`; counters wrap around at 2³².
 *
 * @param peer the rank that will raise it
 * @returns milliseconds blocked
 * @throws AbortError, MismatchError
 */
export function waitForWord(
  mesh: MeshView,
  rank: number,
  peer: number,
  index: number,
  target: number,
): number {
  const { words } = mesh;
  for (let spin = 0; spin < mesh.spins; spin++) if (reached(words, index, target)) return 0;
  const start = performance.now();
  const waitWord = rankWord(mesh, rank, 'waitWord');
  Atomics.store(words, rankWord(mesh, rank, 'waitTarget'), target);
  Atomics.store(words, rankWord(mesh, rank, 'waitPeer'), peer);
  Atomics.add(words, rankWord(mesh, rank, 'waitEpoch'), 1);
  Atomics.store(words, waitWord, index);
  try {
    for (;;) {
      const seen = Atomics.load(words, index);
      if (((seen - target) | 0) >= 0) return performance.now() - start;
      throwIfAborted(mesh);
      if (Atomics.wait(words, index, seen, tickMs) === 'timed-out') refuseDeadlock(mesh, rank, start);
    }
  } finally {
    Atomics.store(words, waitWord, -1);
  }
}

function reached(words: Int32Array, index: number, target: number): boolean {
  return ((Atomics.load(words, index) - target) | 0) >= 0;
}

interface Link {
  readonly rank: number;
  readonly epoch: number;
  readonly peer: number;
}

/**
 * Follows who waits for whom from `rank`. A circle is a deadlock: each wait was seen unfulfilled between two
 * readings of an unchanged epoch, so all of them were in progress at once, and each can only be ended by the
 * next rank of the circle, which does nothing but wait. A chain may also end at a rank that has answered
 * all its requests: nothing will come from it unless the main thread sends it more work.
 *
 * @throws MismatchError
 */
function refuseDeadlock(mesh: MeshView, rank: number, waitingSince: number): void {
  const { words } = mesh;
  const chain: Link[] = [];
  let next = rank;
  while (!chain.some((link) => link.rank === next)) {
    const epoch = Atomics.load(words, rankWord(mesh, next, 'waitEpoch'));
    const index = Atomics.load(words, rankWord(mesh, next, 'waitWord'));
    if (index < 0) {
      const idle = Atomics.load(words, rankWord(mesh, next, 'pending')) <= 0;
      if (idle && performance.now() - waitingSince > mesh.idleGraceMs) refuseIdle(mesh, rank, next);
      return;
    }
    if (reached(words, index, Atomics.load(words, rankWord(mesh, next, 'waitTarget')))) return;
    const peer = Atomics.load(words, rankWord(mesh, next, 'waitPeer'));
    chain.push({ rank: next, epoch, peer });
    next = peer;
  }
  const described = chain.map(
    (link) => `${describeCurrent(mesh, link.rank)} and waits for rank ${link.peer}`,
  );
  // The word first: a later wait raises the epoch before it announces its word.
  const still = chain.every(
    (link) =>
      Atomics.load(words, rankWord(mesh, link.rank, 'waitWord')) >= 0 &&
      Atomics.load(words, rankWord(mesh, link.rank, 'waitEpoch')) === link.epoch,
  );
  if (still) refuse(mesh, rank, `ranks wait for each other: ${described.join('; ')}`);
}

function refuseIdle(mesh: MeshView, rank: number, idle: number): void {
  refuse(
    mesh,
    rank,
    `${describeCurrent(mesh, rank)}, but rank ${idle} has finished its work without joining it`,
  );
}

/** Ends the run because ranks disagree. When several find out at once, all throw what the first one found. */
export function refuse(mesh: MeshView, rank: number, text: string): never {
  raiseAbort(mesh, { code: 'mismatch', rank, text });
  awaitAbort(mesh, tickMs);
  throwIfAborted(mesh);
  throw new MismatchError(text);
}

function describeCurrent(mesh: MeshView, rank: number): string {
  return `rank ${rank} is in ${describeOperation(readOperation(mesh, operationBase(mesh, rank, 2)))}`;
}
