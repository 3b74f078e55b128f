/** What is said between the fuzzer and the process that compiles. */

export interface Task {
  /** Folder of `model.onnx`. */
  readonly folder: string;
  /** Folder to write packages into. */
  readonly out: string;
  readonly weights: boolean;
  /** Generate `index.ts` for the package of a successful compile. */
  readonly index: boolean;
  /** Compare the logits of a successful compile with onnxruntime's. */
  readonly compare: boolean;
}

export interface Result {
  readonly kind: 'compiled' | 'refused' | 'fault';
  /** The message of a refusal, the stack of a fault. */
  readonly text: string;
  /** Set by a comparison that took place: relative error of the logits. */
  readonly error?: number;
}

export interface Outcome extends Result {
  /** Files opened outside the model's folder. */
  readonly strangers: readonly string[];
  readonly grownBytes: number;
}

export type Message = { readonly ready: true } | { readonly stage: string } | { readonly outcome: Outcome };
