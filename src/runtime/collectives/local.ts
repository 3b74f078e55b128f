import { invariant } from '../../errors.js';
import { throwIfAborted } from './abort.js';
import { flatBlock, makePiece, makeStream, type Piece, type Stream } from './blocks.js';
import { evenShards, type AllGatherPart, type AllToAllPart, type Collectives } from './engine.js';
import { type Counters, type Elements, type Group, type ReduceScatterPart } from './engine.js';
import { makeCounters, makeExchanger, type Exchange } from './exchange.js';
import { viewMesh, type SharedMesh } from './mesh.js';

/** Collectives among the worker threads of one machine. One instance a rank, for the life of its thread. */
export function localCollectives(mesh: SharedMesh, rank: number): Collectives {
  const view = viewMesh(mesh);
  const counters = makeCounters();
  const exchange = makeExchanger(view, rank, counters);

  function run(call: Exchange): void {
    throwIfAborted(view);
    exchange(call);
  }

  /** @returns this rank's index in the group */
  function indexIn(group: Group): number {
    const { ranks } = group;
    const index = ranks.indexOf(rank);
    invariant(
      index >= 0 && ranks.every((r, i) => Number.isInteger(r) && r < mesh.world && r > (ranks[i - 1] ?? -1)),
      `rank ${rank} of ${mesh.world} called a collective on the group [${ranks.join(', ')}]`,
    );
    return index;
  }

  return {
    rank,
    world: mesh.world,
    counters: counters satisfies Counters,

    allToAll: (group, parts) => run(allToAllExchange(group, indexIn(group), parts)),

    allReduce(group, buffers) {
      const me = indexIn(group);
      if (group.ranks.length === 1) return throwIfAborted(view);
      const spans = evenSpans(buffers, group.ranks.length);
      const op = { kind: 'all-reduce', group } as const;
      const layout = buffers.map((buffer) => buffer.length);
      const sends = spans.map((shard) => makeStream(shard));
      run({
        op,
        staging: 'aligned',
        sends,
        recvs: [],
        sum: makeStream(spans[me] ?? []),
        layout: () => layout,
      });
      // Own shard is in place: nothing to move for oneself.
      const recvs = spans.map((shard, i) => makeStream(i === me ? [] : shard));
      run({
        op,
        staging: 'shared',
        sends: [makeStream(spans[me] ?? [])],
        recvs,
        layout: () => layout,
        resumed: true,
      });
    },

    reduceScatter: (group, parts) => run(reduceScatterExchange(group, indexIn(group), parts)),
    allGather: (group, parts) => run(allGatherExchange(group, indexIn(group), parts)),

    barrier(group) {
      indexIn(group);
      const empty = group.ranks.map(() => makeStream([]));
      run({
        op: { kind: 'barrier', group },
        staging: 'per-peer',
        sends: empty,
        recvs: empty,
        layout: () => [],
      });
    },
  };
}

function allToAllExchange(group: Group, me: number, given: readonly AllToAllPart[]): Exchange {
  // Sums travel first: their order is then not disturbed by other parts of uneven sizes.
  const parts = given.toSorted((a, b) => Number(b.accumulate) - Number(a.accumulate));
  const { ranks } = group;
  for (const part of parts) {
    invariant(
      part.sends.length === ranks.length && part.recvs.length === ranks.length,
      `all-to-all of ${ranks.length} ranks was given ${part.sends.length} sends and ${part.recvs.length} receives`,
    );
    invariant(!part.accumulate || part.src instanceof Float32Array, 'only float32 elements can be added');
  }
  const sends = parts.map((part) =>
    part.sends.map((blocks) => makeStream(blocks.map((block) => makePiece(part.src, block, false)))),
  );
  const recvs = parts.map((part) =>
    part.recvs.map((blocks) =>
      makeStream(blocks.map((block) => makePiece(part.dst, block, part.accumulate))),
    ),
  );
  sends.forEach((part, k) =>
    invariant(
      part[me]?.total === recvs[k]?.[me]?.total,
      `part ${k} keeps fewer or more elements than it sends itself`,
    ),
  );
  const peer = (streams: readonly (readonly Stream[])[], i: number): Stream =>
    makeStream(streams.flatMap((part) => part[i]?.pieces ?? []));
  return {
    op: { kind: 'all-to-all', group },
    staging: parts.some((part) => part.accumulate) ? 'ordered' : 'per-peer',
    sends: ranks.map((_, i) => peer(sends, i)),
    recvs: ranks.map((_, i) => peer(recvs, i)),
    layout: (i, side) => (side === 'send' ? sends : recvs).map((part) => part[i]?.total ?? 0),
  };
}

function reduceScatterExchange(group: Group, me: number, parts: readonly ReduceScatterPart[]): Exchange {
  const layout = checkCounts(
    group,
    parts.map((part) => ({ ...part, whole: part.src, own: part.dst })),
    me,
  );
  return {
    op: { kind: 'reduce-scatter', group },
    staging: 'aligned',
    sends: group.ranks.map((_, i) => makeStream(parts.map((part) => shardPiece(part.src, part.counts, i)))),
    recvs: [],
    sum: makeStream(parts.map((part) => makePiece(part.dst, flatBlock(0, part.counts[me] ?? 0), false))),
    layout: () => layout,
  };
}

function allGatherExchange(group: Group, me: number, parts: readonly AllGatherPart[]): Exchange {
  const layout = checkCounts(
    group,
    parts.map((part) => ({ ...part, whole: part.dst, own: part.src })),
    me,
  );
  return {
    op: { kind: 'all-gather', group },
    staging: 'shared',
    sends: [makeStream(parts.map((part) => makePiece(part.src, flatBlock(0, part.counts[me] ?? 0), false)))],
    recvs: group.ranks.map((_, i) => makeStream(parts.map((part) => shardPiece(part.dst, part.counts, i)))),
    layout: () => layout,
  };
}

interface Sharded {
  readonly whole: Elements;
  readonly own: Elements;
  readonly counts: readonly number[];
}

/** All counts of all parts: what every member must agree on. */
function checkCounts(group: Group, parts: readonly Sharded[], me: number): number[] {
  for (const { counts, whole, own } of parts) {
    const total = counts.reduce((sum, count) => sum + count, 0);
    invariant(
      counts.length === group.ranks.length && total === whole.length && (counts[me] ?? 0) <= own.length,
      `shards of [${counts.join(', ')}] elements for ${group.ranks.length} ranks, ` +
        `a whole of ${whole.length} and an own shard of ${own.length}`,
    );
  }
  return parts.flatMap((part) => part.counts);
}

function shardPiece(whole: Elements, counts: readonly number[], i: number): Piece {
  const offset = counts.slice(0, i).reduce((sum, count) => sum + count, 0);
  return makePiece(whole, flatBlock(offset, counts[i] ?? 0), false);
}

/** The pieces of each of P even shards of all buffers laid end to end. */
function evenSpans(buffers: readonly Float32Array[], parts: number): Piece[][] {
  const total = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
  let buffer = 0;
  let at = 0;
  return evenShards(total, parts).map((size) => {
    const pieces: Piece[] = [];
    for (let left = size; left > 0;) {
      const array = buffers[buffer];
      invariant(array !== undefined, 'shards exceed the buffers');
      const run = Math.min(left, array.length - at);
      if (run > 0) pieces.push(makePiece(array, flatBlock(at, run), false));
      left -= run;
      at += run;
      if (at === array.length) {
        buffer++;
        at = 0;
      }
    }
    return pieces;
  });
}
