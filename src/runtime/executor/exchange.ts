import { invariant, unreachable } from '../../errors.js';
import { positionOn, shardRange, splitRange, type AxisPosition, type Range } from '../../ir/placement.js';
import type { Axis, Split, Type } from '../../ir/type.js';
import type { Instruction } from '../../package/program.js';
import type { AllToAllPart, Block, Group } from '../collectives/engine.js';
import type { RunContext } from './host.js';
import { rowElements, type Views } from './views.js';

/** Collectives of a program as calls of the engine. Geometry follows from types; only the group's ranks vary. */

type Collective = Extract<Instruction, { kind: 'collective' }>;
type Shard = Extract<Instruction, { kind: 'shard' }>;
type Step = (context: RunContext) => void;

const groupOf = (axis: Axis, context: RunContext): Group => (axis === 'sp' ? context.group : context.world);

export function collectiveStep(instruction: Collective, views: Views): Step {
  switch (instruction.op) {
    case 'all_to_all':
      return allToAllStep(instruction, views);
    case 'all_reduce':
      return allReduceStep(instruction, views);
    case 'reduce_scatter':
    case 'all_gather':
      return shardsStep(instruction, views);
    default:
      return unreachable(instruction.op);
  }
}

/** One rank keeps everything: values change their type, not their elements. */
function keepStep({ operands, results }: Collective, views: Views): Step {
  const copies = operands.map((from, i) => [views.array(from), views.array(results[i]!)] as const);
  return () => {
    for (const [from, to] of copies) to.set(from);
  };
}

function allToAllStep(instruction: Collective, views: Views): Step {
  const { sp } = views.bound.rank;
  invariant(instruction.axis === 'sp', 'an all-to-all trades tokens for heads over sp');
  if (sp.degree === 1) return keepStep(instruction, views);
  const parts = instruction.operands.map((from, i) => {
    const to = instruction.results[i]!;
    return allToAllPart(
      {
        type: views.typeOf(from),
        source: views.shapeOf(from),
        target: views.shapeOf(to),
        arrival: views.typeOf(to),
      },
      { from: instruction.from!, to: instruction.to! },
      sp,
      views.floats(from),
      views.floats(to),
    );
  });
  return (context) => {
    for (const part of parts) if (part.accumulate) part.dst.fill(0);
    context.host.collectives.allToAll(context.group, parts);
  };
}

interface Exchanged {
  readonly type: Type;
  readonly arrival: Type;
  /** Local shapes. */
  readonly source: readonly number[];
  readonly target: readonly number[];
}

/**
 * What every rank sends and receives of one tensor: a rank holds a range of dim `from` and all of dim `to`,
 * then all of `from` and a range of `to`. Ranges may overlap. On dim `to` every holder gets a copy. On dim
 * `from` (K/V heads that several ranks hold) a pending sum is added up by the receiver; of copies the first
 * holder sends.
 */
export function allToAllPart(
  { type, arrival, source, target }: Exchanged,
  dims: { readonly from: number; readonly to: number },
  position: AxisPosition,
  src: Float32Array,
  dst: Float32Array,
): AllToAllPart {
  const { from, to } = dims;
  const leaving = type.dims[from]?.split;
  const arriving = arrival.dims[to]?.split;
  invariant(leaving !== undefined && arriving !== undefined, 'an all-to-all of a whole dim');
  const accumulate = type.pending !== undefined;
  const held = heldRanges(target[from]!, leaving, position.degree, accumulate);
  const wanted = heldRanges(source[to]!, arriving, position.degree, true);
  const mine = held[position.index]!;
  const start = splitRange(target[from]!, leaving, position).start;
  return {
    src,
    dst,
    accumulate,
    sends: wanted.map((range) =>
      boxBlocks(source, [
        [from, { start: mine.start - start, end: mine.end - start }],
        [to, range],
      ]),
    ),
    recvs: held.map((range) => boxBlocks(target, [[from, range]])),
  };
}

/** What each rank holds of a split dim; unless `overlapping`, less what a rank before it holds. */
function heldRanges(size: number, split: Split, degree: number, overlapping: boolean): Range[] {
  let taken = 0;
  return Array.from({ length: degree }, (_, index) => {
    const { start, end } = splitRange(size, split, { index, degree });
    if (overlapping) return { start, end };
    const first = Math.min(Math.max(start, taken), end);
    taken = Math.max(taken, end);
    return { start: first, end };
  });
}

/** A box of a row-major tensor as blocks, in row-major order: `ranges` of some dims, all of the others. */
export function boxBlocks(shape: readonly number[], ranges: readonly (readonly [number, Range])[]): Block[] {
  const sorted = ranges.toSorted(([a], [b]) => a - b);
  const product = (start: number, end: number): number =>
    shape.slice(start, end).reduce((total, n) => total * n, 1);
  const [low, lowRange] = sorted[0]!;
  const [high, highRange] = sorted.at(-1)!;
  const inner = product(high + 1, shape.length);
  const stride = shape[high]! * inner;
  // Rows are indices of the dims before `high`; `between` of them belong to one index of `low`.
  const between = low === high ? 1 : product(low + 1, high);
  const lowSize = low === high ? 1 : shape[low]!;
  const rows = low === high ? { start: 0, end: 1 } : lowRange;
  const count = (rows.end - rows.start) * between;
  const cols = (highRange.end - highRange.start) * inner;
  if (count === 0 || cols === 0) return [];
  return Array.from({ length: product(0, low) }, (_, outer) => ({
    offset: (outer * lowSize + rows.start) * between * stride + highRange.start * inner,
    rows: count,
    rowStride: stride,
    cols,
  }));
}

function allReduceStep(instruction: Collective, views: Views): Step {
  const { axis, operands, results } = instruction;
  const keep = keepStep(instruction, views);
  if (positionOn(axis, views.bound.rank).degree === 1) return keep;
  const sums = [...new Set(results)].map(views.floats);
  invariant(sums.length === operands.length, 'an all-reduce with a result of two operands');
  return (context) => {
    keep(context);
    context.host.collectives.allReduce(groupOf(axis, context), sums);
  };
}

/** Reduce-scatter and all-gather: shards of dim 0. */
function shardsStep(instruction: Collective, views: Views): Step {
  const { axis, op, operands, results } = instruction;
  const { degree } = positionOn(axis, views.bound.rank);
  if (degree === 1) return keepStep(instruction, views);
  const parts = operands.map((from, i) => {
    const whole = views.shapeOf(op === 'all_gather' ? results[i]! : from);
    const counts = Array.from({ length: degree }, (_, index) => {
      const { start, end } = shardRange(whole[0]!, degree, index);
      return (end - start) * rowElements(whole);
    });
    return { src: views.floats(from), dst: views.floats(results[i]!), counts };
  });
  return (context) => {
    const { collectives } = context.host;
    if (op === 'all_gather') collectives.allGather(groupOf(axis, context), parts);
    else collectives.reduceScatter(groupOf(axis, context), parts);
  };
}

export function shardStep({ axis, operand, result }: Shard, views: Views): Step {
  const { degree, index } = positionOn(axis, views.bound.rank);
  const shape = views.shapeOf(operand);
  const row = rowElements(shape);
  const { start, end } = shardRange(shape[0]!, degree, index);
  const source = views.array(operand).subarray(start * row, end * row);
  const target = views.array(result);
  return () => target.set(source);
}
