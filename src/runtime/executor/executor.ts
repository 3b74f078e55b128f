import { UserError } from '../../errors.js';
import type { RankBinding } from '../../ir/placement.js';
import type { Program } from '../../package/program.js';
import type { Group } from '../collectives/engine.js';
import { lruCache, type Lru } from '../memory/lru.js';
import { bindSteps, planMemory, type BoundProgram } from './bind.js';
import type { ExecutorHost, ModelFile, OnTile, RunContext } from './host.js';
import { createSession, type OrtSession } from './onnx.js';
import type { Binding } from './views.js';

/** Programs bound at a time; one holds views only, their memory is shared. */
const BOUND_PROGRAMS = 32;

export interface RunOptions {
  /** World ranks of this rank's lane. */
  readonly group: Group;
  /** Number of the program's first instruction, for `setInstruction`. */
  readonly firstInstruction?: number;
  /** Takes the tiles of streamed outputs; they are its own. Without it they are not made. */
  readonly onTile?: OnTile;
}

/** Runs programs on ONNX Runtime, one rank's part of them. */
export class OrtExecutor {
  readonly #host: ExecutorHost;
  readonly #sessions = new Map<string, OrtSession>();
  readonly #context: RunContext;
  #programs: Lru<BoundProgram> = lruCache(BOUND_PROGRAMS);
  #arena = new ArrayBuffer(0);
  #scratch = new ArrayBuffer(0);
  #arenaBytes = 0;
  #bound = 0;

  /** @param read bytes of a segment or kernel of the package */
  constructor(host: ExecutorHost, read: (file: string) => Uint8Array) {
    this.#host = host;
    const { rank, world } = host.collectives;
    this.#context = {
      host,
      session: (model) => this.#session(model, read),
      group: { ranks: [rank] },
      world: { ranks: Array.from({ length: world }, (_, r) => r) },
      onTile: undefined,
      lengths: new Map(),
    };
  }

  /** The largest arena bound so far, in bytes. */
  get arenaBytes(): number {
    return this.#arenaBytes;
  }

  /** Programs bound and models loaded so far. */
  get made(): { readonly programs: number; readonly models: number } {
    return { programs: this.#bound, models: this.#sessions.size };
  }

  /**
   * Sizes and memory for a program. Equal sizes are bound once, as long as `variant` names the same memory.
   * What is bound may go away when another program is: bind before every run.
   */
  bind(program: Program, rank: RankBinding, binding: Binding, variant = ''): BoundProgram {
    const sizes = [...rank.symbols].map(([name, size]) => `${name}=${size}`).join();
    const { sp, world } = rank;
    const key = `${program.name}/${variant}/${sp.index}of${sp.degree}/${world.index}of${world.degree}/${sizes}`;
    const known = this.#programs;
    const made = known.get(key, () => {
      this.#bound++;
      const { bound, layout } = planMemory(program, rank);
      this.#growArena(layout.bytes);
      return bindSteps(bound, layout, this.#arena, binding, (bytes) => this.#growScratch(bytes));
    });
    // A new arena has emptied the cache.
    return this.#programs === known ? made : this.#programs.get(key, () => made);
  }

  run(bound: BoundProgram, { group, firstInstruction = 0, onTile }: RunOptions): void {
    const context = this.#context;
    context.group = group;
    context.onTile = onTile;
    const { steps } = bound;
    try {
      for (let i = 0; i < steps.length; i++) {
        this.#host.setInstruction(firstInstruction + i);
        this.#host.checkAbort();
        steps[i]!(context);
      }
    } finally {
      context.onTile = undefined;
      context.lengths.clear();
    }
  }

  close(): void {
    for (const session of this.#sessions.values()) session.dispose();
    this.#sessions.clear();
  }

  #growArena(bytes: number): void {
    this.#arenaBytes = Math.max(this.#arenaBytes, bytes);
    if (bytes <= this.#arena.byteLength) return;
    // Views of the old memory would keep it.
    this.#programs = lruCache(BOUND_PROGRAMS);
    this.#arena = new ArrayBuffer(0);
    this.#arena = new ArrayBuffer(bytes);
  }

  #growScratch(bytes: number): ArrayBuffer {
    if (bytes > this.#scratch.byteLength) this.#scratch = new ArrayBuffer(bytes);
    return this.#scratch;
  }

  #session({ file, outputs }: ModelFile, read: (file: string) => Uint8Array): OrtSession {
    const known = this.#sessions.get(file);
    if (known !== undefined) return known;
    const session = this.#host.nativeSync(() => createSession(read(file)));
    // A result that the model does not have would be fetched in vain.
    const missing = outputs.find((name) => !session.outputs.includes(name));
    if (missing !== undefined)
      throw new UserError(`model ${file} of the package has no output ${missing}`, 'compile the model again');
    this.#sessions.set(file, session);
    return session;
  }
}
