/** Calls of collectives as data: a rank executes them, `expected` computes the same without any exchange. */
import type {
  AllGatherPart,
  AllToAllPart,
  Block,
  Collectives,
  CollectiveKind,
} from '../../../src/runtime/collectives/engine.js';
import type { Elements, Group, ReduceScatterPart } from '../../../src/runtime/collectives/engine.js';

export type Call =
  | { readonly kind: 'all-to-all'; readonly group: Group; readonly parts: readonly AllToAllPart[] }
  | {
      readonly kind: 'all-reduce';
      readonly group: Group;
      readonly parts: readonly { readonly dst: Float32Array }[];
    }
  | { readonly kind: 'reduce-scatter'; readonly group: Group; readonly parts: readonly ReduceScatterPart[] }
  | { readonly kind: 'all-gather'; readonly group: Group; readonly parts: readonly AllGatherPart[] }
  | { readonly kind: 'barrier'; readonly group: Group; readonly parts: readonly [] };

export function execute(collectives: Collectives, call: Call): void {
  switch (call.kind) {
    case 'all-to-all':
      return collectives.allToAll(call.group, call.parts);
    case 'all-reduce':
      return collectives.allReduce(
        call.group,
        call.parts.map((part) => part.dst),
      );
    case 'reduce-scatter':
      return collectives.reduceScatter(call.group, call.parts);
    case 'all-gather':
      return collectives.allGather(call.group, call.parts);
    case 'barrier':
      return collectives.barrier(call.group);
  }
}

export interface Outcome {
  readonly results: readonly Elements[];
  readonly bytesSent: number;
}

/** What each member's destinations hold afterwards. @param calls one a member, in group order */
export function expected(calls: readonly Call[]): Outcome[] {
  return calls.map((call, me) => {
    const results = call.parts.map((part) => part.dst.slice());
    const sent = results.map((dst, k) => {
      switch (call.kind) {
        case 'all-to-all':
          return expectAllToAll(calls as (Call & { kind: 'all-to-all' })[], me, k, dst);
        case 'all-reduce':
          calls.forEach((other, i) => addInto(dst as Float32Array, other.parts[k]?.dst as Float32Array, i));
          return 0;
        case 'reduce-scatter':
          return expectReduceScatter(
            calls as (Call & { kind: 'reduce-scatter' })[],
            me,
            k,
            dst as Float32Array,
          );
        case 'all-gather':
          return expectAllGather(calls as (Call & { kind: 'all-gather' })[], me, k, dst);
        case 'barrier':
          return 0;
      }
    });
    const bytesSent =
      call.kind === 'all-reduce' ? allReduceBytes(call, me) : sent.reduce((sum, n) => sum + n, 0);
    return { results, bytesSent };
  });
}

function addInto(dst: Float32Array, src: Float32Array, position: number): void {
  if (position === 0) dst.set(src);
  else dst.forEach((value, e) => (dst[e] = value + (src[e] ?? NaN)));
}

/** Reduce-scatter over even shards sends all but one's own; the all-gather sends one's own to the others. */
function allReduceBytes(call: Call, me: number): number {
  const degree = call.group.ranks.length;
  const total = call.parts.reduce((sum, part) => sum + part.dst.length, 0);
  const own = Math.floor(total / degree) + (me < total % degree ? 1 : 0);
  return 4 * (total - own + own * (degree - 1));
}

export function indices(blocks: readonly Block[]): number[] {
  return blocks.flatMap((block) =>
    Array.from({ length: block.rows * block.cols }, (_, e) => {
      const row = Math.floor(e / block.cols);
      return block.offset + row * block.rowStride + (e % block.cols);
    }),
  );
}

function expectAllToAll(
  calls: readonly (Call & { kind: 'all-to-all' })[],
  me: number,
  k: number,
  dst: Elements,
): number {
  calls.forEach((other, i) => {
    const from = indices(other.parts[k]?.sends[me] ?? []);
    const to = indices(calls[me]?.parts[k]?.recvs[i] ?? []);
    from.forEach((index, e) => {
      const at = to[e] ?? -1;
      const value = other.parts[k]?.src[index] ?? NaN;
      dst[at] = calls[me]?.parts[k]?.accumulate === true ? (dst[at] ?? NaN) + value : value;
    });
  });
  const sends = calls[me]?.parts[k]?.sends ?? [];
  return 4 * sends.reduce((sum, blocks, i) => sum + (i === me ? 0 : indices(blocks).length), 0);
}

function expectReduceScatter(
  calls: readonly (Call & { kind: 'reduce-scatter' })[],
  me: number,
  k: number,
  dst: Float32Array,
): number {
  const counts = calls[me]?.parts[k]?.counts ?? [];
  const start = counts.slice(0, me).reduce((sum, n) => sum + n, 0);
  const own = counts[me] ?? 0;
  calls.forEach((other, i) => {
    const shard = other.parts[k]?.src.subarray(start, start + own) ?? new Float32Array();
    addInto(dst.subarray(0, own), shard, i);
  });
  return calls.length === 1 ? 0 : 4 * (counts.reduce((sum, n) => sum + n, 0) - own);
}

function expectAllGather(
  calls: readonly (Call & { kind: 'all-gather' })[],
  me: number,
  k: number,
  dst: Elements,
): number {
  let at = 0;
  calls.forEach((other, i) => {
    const part = other.parts[k];
    const count = part?.counts[i] ?? 0;
    if (part !== undefined) dst.set(part.src.subarray(0, count), at);
    at += count;
  });
  return 4 * (calls[me]?.parts[k]?.counts[me] ?? 0) * (calls.length - 1);
}

export type { CollectiveKind };
