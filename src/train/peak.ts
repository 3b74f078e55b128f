import { BYTES_PER_ELEMENT, type RankBinding } from '../ir/placement.js';
import type { Program } from '../package/program.js';
import type { Package } from '../package/read.js';
import { queryRows } from '../runtime/executor/tiles.js';
import { bindProgram } from '../runtime/memory/bind.js';
import { planPeak, temporariesOf, type PeakOptions, type PeakPlan } from '../runtime/memory/peak.js';
import { momentSizes } from '../runtime/session/memory.js';
import type { MicroBatchPlan } from '../runtime/session/plan.js';

/** A rank of a group of `degree` (rank `index`) that holds `tokens`, in a world where it stands at `world`. */
export const bindingOf = (
  tokens: number,
  sp: { readonly index: number; readonly degree: number },
  world: { readonly index: number; readonly degree: number } = sp,
): RankBinding => ({ sp, world, symbols: new Map([['S', tokens]]) });

/** How the `ort` executor runs attention: in tiles of query rows of one document, results written in place. */
function executorOptions(program: Program, { sp }: RankBinding, longestDocument: number): PeakOptions {
  const rows = program.kernels.map((kernel) =>
    queryRows(kernel, Math.ceil(kernel.heads / sp.degree), Math.max(1, longestDocument)),
  );
  return { longestDocument, queryRows: Math.max(1, ...rows) };
}

/** Planned peak of a rank that runs a program, optimizer state apart. */
export const programPeak = (program: Program, rank: RankBinding, longestDocument: number): PeakPlan =>
  planPeak(program, rank, executorOptions(program, rank, longestDocument));

/** Bytes of AdamW's moments on a rank: all of them, or its share under ZeRO. */
export function momentBytes(pkg: Package, rank: number, world: number): number {
  let elements = 0;
  for (const { own } of momentSizes(pkg.program('update'), rank, world).values()) elements += own;
  return elements * BYTES_PER_ELEMENT;
}

/**
 * Most bytes a rank needs for the micro-batches of a step: the arena as it was, and beside it parameters, inputs,
 * gradients, moments and what the largest instruction needs inside. The first rank of a lane holds most.
 * @param arenaBytes largest arena of any rank, as measured
 */
export function stepPeak(pkg: Package, plans: readonly MicroBatchPlan[], arenaBytes: number): number {
  let most = 0;
  for (const { lanes } of plans) {
    const world = lanes.reduce((sum, { ranks }) => sum + ranks.length, 0);
    for (const { ranks, documents, program: name = 'train' } of lanes) {
      const program = pkg.program(name);
      const lengths = documents.map(({ ids }) => ids.length);
      const tokens = lengths.reduce((sum, n) => sum + n, 0);
      const rank = bindingOf(tokens, { index: 0, degree: ranks.length }, { index: ranks[0]!, degree: world });
      const bound = bindProgram(program, rank);
      const inside = temporariesOf(bound, executorOptions(program, rank, Math.max(0, ...lengths)));
      const persistent = program.buffers.reduce(
        (sum, { kind }, i) => sum + (kind === 'arena' ? 0 : bound.bytes[i]!),
        0,
      );
      most = Math.max(most, persistent + inside.reduce((a, b) => Math.max(a, b), 0));
    }
  }
  const world = plans[0]?.lanes.reduce((sum, { ranks }) => sum + ranks.length, 0) ?? 1;
  return most + arenaBytes + momentBytes(pkg, 0, world);
}
