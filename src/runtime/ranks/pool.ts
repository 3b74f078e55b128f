import '../../ort-environment.js';
import { Worker, type Transferable } from 'node:worker_threads';
import { raiseAbort, readAbort, requestInterrupt } from '../collectives/abort.js';
import { createMesh, rankWord, viewMesh, type MeshView } from '../collectives/mesh.js';
import { resolveWorker } from '../../worker-url.js';
import { describeCause, type FailureCause, type FromRank } from './protocol.js';
import type { Seat, ToRank } from './protocol.js';

export interface PoolOptions {
  readonly world: number;
  /** Module that calls `serveRank`, such as `new URL('./entry.js', import.meta.url)`; see {@link resolveWorker}. */
  readonly entry: string | URL;
  /** Structured-cloned to every rank as `context.data`. */
  readonly data?: unknown;
  readonly outboxBytes?: number;
  readonly idleGraceMs?: number;
  /** Names an instruction number in errors. */
  readonly labelOf?: (instruction: number, rank: number) => string;
}

/** A rank threw, exited or was terminated: the run is over. `message` is one line that names rank and instruction. */
export class RankFailure extends Error {
  override readonly name = 'RankFailure';

  /** @param instruction label of what the rank was executing, if it had begun any */
  constructor(
    readonly rank: number,
    readonly instruction: string | undefined,
    readonly origin: FailureCause,
  ) {
    const where = instruction === undefined ? '' : ` at ${instruction}`;
    super(`rank ${rank} failed${where}: ${origin.message}`, { cause: origin });
  }

  get hint(): string | undefined {
    return this.origin.hint;
  }
}

interface Pending<Reply> {
  resolve(reply: Reply): void;
  reject(error: Error): void;
}

/** How long ranks may take to end by themselves, so that native calls return, before they are terminated. */
const exitGraceMs = 400;
const nativePollMs = 5;
/** How long the report of the rank that failed first may lag behind those of the ranks it took along. */
const originGraceMs = 300;

/** The ranks of one machine as worker threads. The first failure of any of them ends all. */
export class RankPool<Message, Reply> {
  readonly #mesh: MeshView;
  readonly #workers: readonly Worker[];
  readonly #pending = new Map<number, Pending<Reply>>();
  readonly #exits: readonly Promise<void>[];
  readonly #labelOf: (instruction: number, rank: number) => string;
  #nextId = 0;
  #failure: RankFailure | undefined;
  #closing: Promise<void> | undefined;
  #starting: { ready: number; done(): void; failed(error: Error): void } | undefined;

  private constructor(options: PoolOptions) {
    const mesh = createMesh(options);
    const entry = resolveWorker(options.entry);
    this.#mesh = viewMesh(mesh);
    this.#labelOf = options.labelOf ?? ((instruction) => `instruction ${instruction}`);
    this.#workers = Array.from({ length: options.world }, (_, rank) => {
      const seat: Seat = { rank, mesh, data: options.data };
      return new Worker(entry, { name: `rank ${rank}`, workerData: seat });
    });
    this.#exits = this.#workers.map((worker, rank) => this.#watch(worker, rank));
  }

  /** @throws RankFailure when a rank does not come up */
  static async start<Message, Reply>(options: PoolOptions): Promise<RankPool<Message, Reply>> {
    const pool = new RankPool<Message, Reply>(options);
    try {
      await new Promise<void>((done, failed) => {
        pool.#starting = { ready: 0, done, failed };
      });
      return pool;
    } catch (error) {
      await pool.close();
      throw error;
    }
  }

  get world(): number {
    return this.#workers.length;
  }

  /** What ended the run, if something did. */
  get failure(): RankFailure | undefined {
    return this.#failure;
  }

  /** Threads that have not ended. */
  get alive(): number {
    return this.#workers.filter((worker) => worker.threadId !== -1).length;
  }

  /**
   * Asks one rank. Its requests are answered in order.
   *
   * @param transfer buffers to move instead of copying
   * @throws RankFailure as soon as any rank of the pool fails
   */
  request(rank: number, message: Message, transfer: readonly Transferable[] = []): Promise<Reply> {
    const worker = this.#workers[rank];
    if (worker === undefined) return Promise.reject(new RangeError(`rank ${rank} of ${this.world}`));
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#closing !== undefined) return Promise.reject(new Error('the rank pool is closed'));
    const id = this.#nextId++;
    const order: ToRank<Message> = { type: 'request', id, message };
    const reply = new Promise<Reply>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    Atomics.add(this.#mesh.words, rankWord(this.#mesh, rank, 'pending'), 1);
    worker.postMessage(order, transfer);
    return reply;
  }

  /** Asks every rank the same, or what `message` makes for each; the replies come by rank. */
  broadcast(message: Message | ((rank: number) => Message)): Promise<Reply[]> {
    const make =
      typeof message === 'function' ? (message as (rank: number) => Message) : (): Message => message;
    return Promise.all(this.#workers.map((_, rank) => this.request(rank, make(rank))));
  }

  /** What a rank is executing now. */
  instruction(rank: number): string | undefined {
    const instruction = Atomics.load(this.#mesh.words, rankWord(this.#mesh, rank, 'instruction'));
    return instruction < 0 ? undefined : this.#labelOf(instruction, rank);
  }

  /** Lets ranks know that the run should finish early (`context.interrupted()`); nothing else happens. */
  interrupt(): void {
    requestInterrupt(this.#mesh);
  }

  /**
   * Ends one rank's thread from outside, as a crash would, as soon as it is out of native code. For fault tests.
   * The run fails with it.
   */
  async terminate(rank: number): Promise<void> {
    const worker = this.#workers[rank];
    const word = rankWord(this.#mesh, rank, 'native');
    if (worker === undefined) return;
    while (worker.threadId !== -1) {
      if (Atomics.compareExchange(this.#mesh.words, word, 0, 2) !== 1) return void (await worker.terminate());
      await new Promise((resolve) => setTimeout(resolve, nativePollMs));
    }
  }

  /** Ends all ranks; what they have not answered is rejected. Returns when no thread is left. */
  close(): Promise<void> {
    this.#closing ??= this.#end('the rank pool is closed');
    return this.#closing;
  }

  async #end(reason: string): Promise<void> {
    raiseAbort(this.#mesh, { code: 'stopped', rank: -1, text: reason });
    this.#rejectAll(this.#failure ?? new Error(reason));
    const close: ToRank<Message> = { type: 'close' };
    for (const worker of this.#workers) worker.postMessage(close, []);
    const timer = setTimeout(
      () => this.#workers.forEach((_, rank) => void this.terminate(rank)),
      exitGraceMs,
    );
    await Promise.all(this.#exits);
    clearTimeout(timer);
  }

  /** @returns a promise of the thread's end */
  #watch(worker: Worker, rank: number): Promise<void> {
    worker.on('message', (message: FromRank<Reply>) => this.#receive(rank, message));
    worker.on('messageerror', (error) => this.#fail(rank, describeCause(error)));
    worker.on('error', (error) => this.#fail(rank, describeCause(error)));
    return new Promise((resolve) =>
      worker.on('exit', (code) => {
        resolve();
        if (this.#closing !== undefined) return;
        const died = `its thread ended, with exit code ${code}`;
        this.#fail(rank, {
          name: 'Error',
          message: this.#starting === undefined ? died : `${died}, before it was ready`,
        });
      }),
    );
  }

  #receive(rank: number, message: FromRank<Reply>): void {
    switch (message.type) {
      case 'ready': {
        const starting = this.#starting;
        if (starting === undefined || ++starting.ready < this.world) return;
        this.#starting = undefined;
        return starting.done();
      }
      case 'reply': {
        const pending = this.#pending.get(message.id);
        this.#pending.delete(message.id);
        return pending?.resolve(message.reply);
      }
      case 'failed': {
        if (!message.secondary) return this.#fail(rank, message.cause);
        setTimeout(() => this.#failByWord(rank, message.cause), originGraceMs).unref();
      }
    }
  }

  /** The rank that failed first never reported: the abort word names it. */
  #failByWord(rank: number, cause: FailureCause): void {
    const abort = readAbort(this.#mesh);
    if (abort === undefined || abort.rank < 0) return this.#fail(rank, cause);
    this.#fail(abort.rank, { name: 'Error', message: abort.text });
  }

  #fail(rank: number, cause: FailureCause): void {
    if (this.#failure !== undefined || this.#closing !== undefined) return;
    const failure = new RankFailure(rank, this.instruction(rank), cause);
    this.#failure = failure;
    raiseAbort(this.#mesh, { code: 'failed', rank, text: cause.message });
    this.#rejectAll(failure);
    this.#starting?.failed(failure);
    this.#starting = undefined;
    void this.close();
  }

  #rejectAll(error: Error): void {
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }
}
