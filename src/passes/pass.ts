import type { z } from 'zod';
import type { Graph } from '../ir/graph.js';

/**
 * Named facts about a graph. A pass requires some, ensures some and, unless listed in `destroys`, keeps
 * the rest; the manager holds it to them. Those with a check in `invariants.ts` are checked after the pass.
 */
export type Invariant =
  | 'unplaced' //        no split dims, no pending sums
  | 'simplified' //      no unit batch dims, constants folded
  | 'recognized' //      attention is one op, no mask inputs, no softmax over tokens
  | 'lossy' //           outputs are loss_sum and count; logits exist only in tiles
  | 'placed' //          token dims are split over sp, attention is wrapped in all-to-alls
  | 'differentiated' //  there is a gradient output for every trainable parameter
  | 'checkpointed' //    equal nodes may be wanted twice: nothing shares them any more
  | 'scheduled'; //      the order is total

export interface PassContext {
  /** A remark for the user, kept in the package and shown by `inspect`. */
  readonly note: (message: string) => void;
  /** Counts what was recognised, by kind. */
  readonly count: (kind: string) => void;
}

/** Frozen plan of one transformation, `Graph → Graph`. */
export interface Pass<Options = unknown> {
  /** File name, CLI name and golden folder. */
  readonly name: string;
  readonly doc: string;
  readonly requires: readonly Invariant[];
  readonly ensures: readonly Invariant[];
  readonly destroys?: readonly Invariant[];
  /** Facts under which the pass must not run. */
  readonly refuses?: readonly Invariant[];
  /** Whether results stay bit-equal, or sums may be reordered. */
  readonly numerics: 'exact' | 'reordered';
  readonly options: z.ZodType<Options>;
  readonly run: (graph: Graph, options: Options, context: PassContext) => Graph;
}

export const definePass = <Options>(pass: Pass<Options>): Pass<Options> => pass;
