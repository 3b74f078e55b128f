import { invariant } from '../errors.js';
import type { Mesh } from './interpret.js';
import type { Tensor } from './op.js';
import { gatherIndices, stridesOf, tensor } from './ops/define.js';
import { localShape, positionOn, splitRange, type RankBinding } from './placement.js';
import type { Type } from './type.js';

/** Where a rank's local tensor starts inside the whole, per dim. */
export const localOffsets = (type: Type, whole: readonly number[], rank: RankBinding): number[] =>
  type.dims.map((d, i) =>
    d.split === undefined ? 0 : splitRange(whole[i]!, d.split, positionOn(d.split.axis, rank)).start,
  );

/** Flat indices into the whole of the elements a rank holds, in its local row-major order. */
export function localIndices(type: Type, whole: readonly number[], rank: RankBinding): Int32Array {
  const strides = stridesOf(whole);
  const base = localOffsets(type, whole, rank).reduce((sum, o, i) => sum + o * strides[i]!, 0);
  return gatherIndices(localShape(type, rank), strides).map((i) => i + base);
}

/** The part of a whole tensor that a rank holds under a placement. */
export const shardTensor = (whole: Tensor, type: Type, rank: RankBinding): Tensor => ({
  shape: localShape(type, rank),
  data: Float64Array.from(localIndices(type, whole.shape, rank), (i) => whole.data[i]!),
});

/**
 * The whole of what the ranks `members` hold: pending sums are added up, shards put together, copies
 * (which must agree) taken once.
 */
export function unshardTensor(
  parts: readonly Tensor[],
  type: Type,
  shape: readonly number[],
  members: readonly RankBinding[],
): Tensor {
  const whole = tensor(shape);
  const seen = new Uint8Array(whole.data.length);
  members.forEach((rank, m) => {
    const indices = localIndices(type, shape, rank);
    parts[m]!.data.forEach((value, i) => {
      const at = indices[i]!;
      if (type.pending !== undefined) whole.data[at]! += value;
      else {
        invariant(
          seen[at] === 0 ||
            Object.is(whole.data[at], value) ||
            Math.abs(whole.data[at]! - value) <= 1e-9 * Math.max(1, Math.abs(value)),
          'ranks disagree about a value they should share',
        );
        whole.data[at] = value;
      }
      seen[at] = 1;
    });
  });
  invariant(
    seen.every((s) => s === 1),
    'the ranks hold only a part of the whole',
  );
  return whole;
}

/** Ranks of one lane, in order. */
export const laneMembers = (mesh: Mesh, lane: number): number[] =>
  mesh.lanes.flatMap((l, rank) => (l === lane ? [rank] : []));
