import type { SegmentInfo } from '../../package/program.js';
import type { Collectives, Group } from '../collectives/engine.js';
import type { OrtSession } from './onnx.js';

/** What an executor runs on: a rank's worker, or a test. */
export interface ExecutorHost {
  readonly collectives: Collectives;
  /** Told before every instruction, so that a failure can name it. */
  setInstruction(instruction: number): void;
  /** @throws AbortError once another rank has failed */
  checkAbort(): void;
  /** Runs native code under the guard that keeps its thread from being terminated meanwhile. */
  nativeSync<T>(call: () => T): T;
}

/** Rows `row …` of a streamed output, as its tile left the program. */
export type OnTile = (output: string, row: number, data: Float32Array) => void;

/** A model of a package: a segment or a kernel. */
export type ModelFile = Pick<SegmentInfo, 'file' | 'outputs'>;

/** What differs from run to run of a bound program. Instructions read it when they run. */
export interface RunContext {
  readonly host: ExecutorHost;
  readonly session: (model: ModelFile) => OrtSession;
  /** The ranks of this rank's lane. */
  group: Group;
  readonly world: Group;
  onTile: OnTile | undefined;
  /** Lengths of the documents in a row, by the array that holds their numbers; forgotten after each run. */
  readonly lengths: Map<Int32Array, readonly number[]>;
}
