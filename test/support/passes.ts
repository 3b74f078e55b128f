import type { Graph } from '../../src/ir/graph.js';
import { autodiff } from '../../src/passes/autodiff.js';
import { checkpoint } from '../../src/passes/checkpoint.js';
import { fuseTiled } from '../../src/passes/fuse-tiled.js';
import { loss } from '../../src/passes/loss.js';
import { recognize } from '../../src/passes/recognize.js';
import { schedule } from '../../src/passes/schedule.js';
import { simplify } from '../../src/passes/simplify.js';
import { tidy } from '../../src/passes/tidy.js';
import { ulysses } from '../../src/passes/ulysses.js';
import { zero } from '../../src/passes/zero.js';
import type { PassContext } from '../../src/passes/pass.js';

export interface GoldenPass {
  /** `options`: JSON after the pass's name in the RUN line. */
  readonly run: (graph: Graph, options: unknown, context: PassContext) => Graph;
  /** Whether both graphs have the same outputs, so that evaluating them can be compared. */
  readonly keepsOutputs: boolean;
}

interface Runnable<Options> {
  readonly options: { parse(given: unknown): Options };
  run(graph: Graph, options: Options, context: PassContext): Graph;
}

const golden = <Options>(pass: Runnable<Options>, keepsOutputs: boolean): GoldenPass => ({
  run: (graph, options, context) => pass.run(graph, pass.options.parse(options), context),
  keepsOutputs,
});

/** Passes that golden files may run, by name; the folder of a golden file is its pass. */
export const GOLDEN_PASSES: ReadonlyMap<string, GoldenPass> = new Map([
  ['simplify', golden(simplify, true)],
  ['recognize', golden(recognize, true)],
  ['loss', golden(loss, false)],
  ['ulysses', golden(ulysses, true)],
  ['zero', golden(zero, true)],
  ['autodiff', golden(autodiff, false)],
  ['fuse-tiled', golden(fuseTiled, true)],
  ['tidy', golden(tidy, true)],
  ['checkpoint', golden(checkpoint, true)],
  ['schedule', golden(schedule, true)],
]);
