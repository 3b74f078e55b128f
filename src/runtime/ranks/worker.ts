import { parentPort, workerData, type Transferable } from 'node:worker_threads';
import { invariant } from '../../errors.js';
import { AbortError, MismatchError, interruptRequested, raiseAbort } from '../collectives/abort.js';
import { readAbort, throwIfAborted } from '../collectives/abort.js';
import type { Collectives } from '../collectives/engine.js';
import { localCollectives } from '../collectives/local.js';
import { rankWord, viewMesh, type MeshView } from '../collectives/mesh.js';
import { describeCause, type FromRank, type Seat, type ToRank } from './protocol.js';

/** What a rank's handler works with. */
export interface RankContext {
  readonly rank: number;
  readonly world: number;
  readonly collectives: Collectives;
  /** What the pool was given for its workers. */
  readonly data: unknown;
  /** Publishes what this rank executes now: the pool names it should the rank fail. One store, no message. */
  setInstruction(instruction: number): void;
  /** @throws AbortError once another rank has failed. Collectives check by themselves; long computations should. */
  checkAbort(): void;
  /**
   * Runs native code under guard: a thread terminated inside onnxruntime-node takes the whole process along, so the
   * pool waits until the rank is out of it. Not to be nested, and not to wait for other ranks within.
   *
   * @throws AbortError when the rank is about to be terminated
   */
  native<T>(call: () => Promise<T> | T): Promise<T>;
  /** The same for native code that blocks. */
  nativeSync<T>(call: () => T): T;
  /** The run was asked to finish early. Ranks see it at different moments: decide on one of them, or on main. */
  interrupted(): boolean;
}

const transfers = new WeakMap<object, readonly Transferable[]>();

/** Marks buffers of a reply to be moved to the main thread instead of copied. */
export function transferring<Reply extends object>(reply: Reply, buffers: readonly Transferable[]): Reply {
  transfers.set(reply, buffers);
  return reply;
}

/**
 * Makes this worker thread a rank: answers the pool's requests one at a time, in their order. A handler that throws
 * ends the whole run.
 */
export function serveRank<Message, Reply>(
  handler: (message: Message, context: RankContext) => Promise<Reply> | Reply,
): void {
  const port = parentPort;
  invariant(port !== null, 'serveRank was called outside of a rank pool');
  const seat = workerData as Seat;
  const mesh = viewMesh(seat.mesh);
  const context = makeContext(seat, mesh);
  const pending = rankWord(mesh, seat.rank, 'pending');
  const post = (message: FromRank<Reply>, buffers: readonly Transferable[] = []): void =>
    port.postMessage(message, buffers);

  async function answer(id: number, message: Message): Promise<void> {
    try {
      context.checkAbort();
      const reply = await handler(message, context);
      const buffers = typeof reply === 'object' && reply !== null ? (transfers.get(reply) ?? []) : [];
      post({ type: 'reply', id, reply }, buffers);
    } catch (error) {
      const cause = describeCause(error);
      raiseAbort(mesh, { code: 'failed', rank: seat.rank, text: cause.message });
      post({ type: 'failed', cause, secondary: isSecondary(error, mesh, seat.rank) });
    } finally {
      Atomics.sub(mesh.words, pending, 1);
    }
  }

  let last = Promise.resolve();
  port.on('message', (message: ToRank<Message>) => {
    if (message.type === 'close') port.close();
    else last = last.then(() => answer(message.id, message.message));
  });
  Atomics.sub(mesh.words, pending, 1);
  post({ type: 'ready' });
}

/** A rank that was only told of the failure of another. */
function isSecondary(error: unknown, mesh: MeshView, rank: number): boolean {
  const origin = readAbort(mesh)?.rank;
  return (error instanceof AbortError || error instanceof MismatchError) && origin !== rank;
}

function makeContext(seat: Seat, mesh: MeshView): RankContext {
  const instructionWord = rankWord(mesh, seat.rank, 'instruction');
  return {
    rank: seat.rank,
    world: mesh.world,
    collectives: localCollectives(seat.mesh, seat.rank),
    data: seat.data,
    setInstruction: (instruction) => void Atomics.store(mesh.words, instructionWord, instruction),
    checkAbort: () => throwIfAborted(mesh),
    native: (call) => guardNative(mesh, seat.rank, call),
    nativeSync: (call) => {
      const leave = enterNative(mesh, seat.rank);
      try {
        return call();
      } finally {
        leave();
      }
    },
    interrupted: () => interruptRequested(mesh),
  };
}

async function guardNative<T>(mesh: MeshView, rank: number, call: () => Promise<T> | T): Promise<T> {
  const leave = enterNative(mesh, rank);
  try {
    return await call();
  } finally {
    leave();
  }
}

/** @returns what ends the guard */
function enterNative(mesh: MeshView, rank: number): () => void {
  const word = rankWord(mesh, rank, 'native');
  const state = Atomics.compareExchange(mesh.words, word, 0, 1);
  invariant(state !== 1, 'native calls are nested');
  if (state === 2) throw new AbortError('this rank is being terminated', rank);
  return () => void Atomics.store(mesh.words, word, 0);
}
