import type { MessagePort } from 'node:worker_threads';
import type { KindCounter } from '../collectives/engine.js';
import type { CollectiveKind } from '../collectives/engine.js';
import type { RankShare } from './plan.js';

/** What a rank is born with (`context.data`). */
export interface RankData {
  /** The package, which the main thread has opened and checked. */
  readonly directory: string;
  readonly hash: string;
  /** Where parameters start: the package's values, or zero until they are written. */
  readonly weights: 'package' | 'zero';
  readonly fault?: Fault;
}

/** A failure made on purpose: a test sees what a run does when a rank dies at any instruction. */
export interface Fault {
  readonly rank: number;
  /** Number of the instruction, counted over the programs as {@link instructionBases} does. */
  readonly instruction: number;
  /** `hang`: the rank goes on and on without taking part any more. */
  readonly how: 'throw' | 'exit' | 'hang';
}

export type RankMessage =
  | { readonly type: 'load' }
  | {
      readonly type: 'step';
      readonly microBatches: readonly RankShare[];
      readonly lr: number;
      /** Updates done before this one. */
      readonly step: number;
    }
  /** Leaves the gradients of the mean loss in `grad/…`, whole, on rank 0. */
  | { readonly type: 'gradients'; readonly microBatches: readonly RankShare[] }
  | {
      readonly type: 'evaluate';
      readonly microBatches: readonly RankShare[];
      /** Absent: only the loss is wanted. */
      readonly stream?: LogitStream;
    }
  /**
   * A copy of elements `start … end` of this rank's memory: a parameter, `grad/…`, `m/…` or `v/…` (its own share under
   * ZeRO).
   */
  | { readonly type: 'read'; readonly name: string; readonly start: number; readonly end: number }
  | { readonly type: 'write'; readonly name: string; readonly start: number; readonly data: Float32Array }
  /** Sets m and v to zero. */
  | { readonly type: 'reset' };

/** A way for tiles of logits to leave a rank while it runs, and for the main thread to hold it back. */
export interface LogitStream {
  readonly port: MessagePort;
  /** int32[1]: tiles that the main thread has taken. */
  readonly taken: SharedArrayBuffer;
}

/** Tiles in flight before a rank waits. */
export const STREAM_WINDOW = 4;

export interface LogitTile {
  readonly microBatch: number;
  /** Row of the lane's packed row. */
  readonly row: number;
  readonly data: Float32Array;
}

/** Losses of this rank's tokens (step, evaluate), or of all (gradients). */
export interface RankReply {
  /** float64 sum of token losses over all ranks and micro-batches. */
  readonly lossSum: number;
  /** Tokens that counted, over all ranks and micro-batches. */
  readonly count: number;
  /** Those of them whose label had the largest logit; of evaluations. */
  readonly correct: number;
  readonly gradNorm: number;
  /** What this rank sent while it worked on the message. */
  readonly counters: RankCounters;
  /** Largest arena in use, in bytes. */
  readonly arenaBytes: number;
  /** By output or memory name. */
  readonly tensors: ReadonlyMap<string, Float32Array>;
  /** Tiles posted to the stream. */
  readonly tiles: number;
  readonly microBatches: readonly MicroBatchTime[];
  readonly made: Made;
}

export interface MicroBatchTime {
  /** From this rank's begin to its end, waits for the ranks of its group included. */
  readonly ms: number;
  /** On a core; undefined where the system does not say. */
  readonly cpuMs: number | undefined;
}

/** What a rank has set up so far: a plan whose groups and sizes it has seen sets up nothing. */
export interface Made {
  /** Handles of groups. */
  readonly groups: number;
  /** Programs bound to sizes. */
  readonly programs: number;
  /** Models loaded. */
  readonly models: number;
}

export interface RankCounters extends KindCounter {
  readonly kinds: Readonly<Record<CollectiveKind, KindCounter>>;
  readonly waitMs: number;
}
