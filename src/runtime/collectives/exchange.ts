import { invariant } from '../../errors.js';
import { pack, packAdding, transfer, unpack, type Stream } from './blocks.js';
import { addElements, copyElements, viewMemory, type Memory } from './copy.js';
import { collectiveKinds, type CollectiveKind } from './engine.js';
import {
  describeOperation,
  operationBase,
  pairBase,
  pairField,
  readOperation,
  sameOperation,
  slotField,
  slotWords,
  writeOperation,
  type MeshView,
  type Operation,
} from './mesh.js';
import { publishWord, refuse, waitForWord } from './wait.js';

/*
 * The protocol of local collectives.
 *
 * Each rank owns an outbox of two halves. An operation runs in rounds; in each a rank
 *   publishes: waits until all receivers of what this half held before have taken it, packs, writes for each
 *              receiver a header and raises the pair's `posted` counter;
 *   receives:  for each peer, waits for its counter, checks the header, copies, raises the pair's `taken` counter.
 * Round 0 goes to every peer, even without payload (that is the synchronisation, and where disagreement is
 * found); round k goes from a to b as long as a has elements left for b, which b knows, since totals agree.
 * Counters belong to pairs, so groups may change from call to call and disjoint ones do not see each other:
 * a pair's counters count only the operations the pair has in common, and both count the same ones.
 *
 * No overwriting. A rank's publication n uses half n mod 2 after n − 2 was taken. The m-th message of a pair uses
 * header slot m mod 2; its predecessor in that slot belongs to a publication at least two earlier, so it was
 * taken. A rank may leave an operation before its messages are taken: they stay in the outbox until then.
 *
 * Visibility. Payload and headers are plain writes before the atomic store of `posted`, and plain reads after the
 * atomic load that sees it; the same for `taken`.
 *
 * No deadlock, if the ranks' sequences of operations fit one total order (the schedule's invariant). Take a rank
 * that is earliest in (operation, round, publish before receive). Publishing, it waits for messages to be taken that
 * it sent at an earlier position, which their receivers have passed. Receiving, it waits for publications at its own
 * operation and round, which their senders, being no earlier, have done. So it moves on. Ranks whose sequences
 * fit no order find out: by a header that is not theirs, or by a circle of waits (wait.ts).
 */

/**
 * How a round shares half an outbox.
 *
 * - `per-peer`: a region for each peer
 * - `ordered`: regions of one size for all members, so that in each round peers deliver the same range of their
 *   payloads, which are then added in group order
 * - `aligned`: the same, by a rule all members evaluate alike: in each round all contribute the same range of a shard
 * - `shared`: one region that all peers read
 */
const stagings = ['per-peer', 'ordered', 'aligned', 'shared'] as const;
export type Staging = (typeof stagings)[number];

export interface Exchange {
  readonly op: Operation;
  readonly staging: Staging;
  /** By index in the group; a single one when shared. */
  readonly sends: readonly Stream[];
  /** By index in the group; empty when aligned. */
  readonly recvs: readonly Stream[];
  /** Where the sum of everyone's contributions to this rank's shard goes; aligned only. */
  readonly sum?: Stream;
  /** The element counts that this rank and peer i must agree on. */
  readonly layout: (peer: number, side: 'send' | 'receive') => readonly number[];
  /** The second half of an operation that is counted already. */
  readonly resumed?: boolean;
}

interface MutableKind {
  exchanges: number;
  bytesSent: number;
}

export interface MutableCounters extends MutableKind {
  readonly kinds: Record<CollectiveKind, MutableKind>;
  waitMs: number;
}

export function makeCounters(): MutableCounters {
  const zero = (): MutableKind => ({ exchanges: 0, bytesSent: 0 });
  const kinds = Object.fromEntries(collectiveKinds.map((kind) => [kind, zero()]));
  return { ...zero(), waitMs: 0, kinds: kinds as Record<CollectiveKind, MutableKind> };
}

/**
 * Elements packed for one peer before the next one's turn: peers' blocks lie side by side in the same rows, and
 * taking turns reads each page of them once (measured: up to twice as fast). Even, to keep alignment.
 */
const stretch = 4096;

/** A message in flight: half an outbox is free once all of its messages are taken. */
interface Sent {
  readonly peer: number;
  readonly number: number;
}

export function makeExchanger(
  mesh: MeshView,
  rank: number,
  counters: MutableCounters,
): (call: Exchange) => void {
  const { words, capacity } = mesh;
  const posted = new Int32Array(mesh.world);
  const taken = new Int32Array(mesh.world);
  const inFlight: [Sent[], Sent[]] = [[], []];
  const boxes = mesh.outboxes.map((box) => viewMemory(new Float32Array(box.buffer)));
  let half: 0 | 1 = 0;
  let partial = viewMemory(new Float32Array(0));

  function wait(peer: number, index: number, target: number): void {
    counters.waitMs += waitForWord(mesh, rank, peer, index, target);
  }

  /** Waits until the other half of the outbox is free, and makes it the one to fill. */
  function turnHalf(): void {
    half = half === 0 ? 1 : 0;
    for (const { peer, number } of inFlight[half])
      wait(peer, pairBase(mesh, rank, peer) + pairField.taken, number);
    inFlight[half] = [];
  }

  function post(call: Exchange, i: number, offset: number, count: number, round: number): void {
    const peer = call.op.group.ranks[i] ?? -1;
    const stream = sendStream(call, i);
    const pair = pairBase(mesh, rank, peer);
    const number = ((posted[peer] ?? 0) + 1) | 0;
    const slot = pair + pairField.slots + (number & 1) * slotWords;
    words[slot + slotField.half] = half;
    words[slot + slotField.offset] = offset;
    words[slot + slotField.count] = count;
    words[slot + slotField.totalLow] = stream.total | 0;
    words[slot + slotField.totalHigh] = Math.floor(stream.total / 2 ** 32);
    words[slot + slotField.layout] = round === 0 ? hashCounts(call.staging, call.layout(i, 'send')) : 0;
    words[slot + slotField.round] = round;
    posted[peer] = number;
    inFlight[half].push({ peer, number });
    publishWord(mesh, pair + pairField.posted, number, peer);
    counters.bytesSent += 4 * count;
    counters.kinds[call.op.kind].bytesSent += 4 * count;
  }

  /** Packs and posts one round. @param quotas elements for each member in this round */
  function publish(call: Exchange, me: number, quotas: readonly number[], round: number): void {
    const open = (i: number): boolean => i !== me && (round === 0 || (quotas[i] ?? 0) > 0);
    if (!quotas.some((_, i) => open(i))) return;
    turnHalf();
    writeOperation(mesh, operationBase(mesh, rank, half), call.op);
    const offsets = packRound(call, quotas, open);
    quotas.forEach((count, i) => open(i) && post(call, i, offsets[i] ?? 0, count, round));
  }

  /** Fills the half in use. @returns where each member's region begins */
  function packRound(call: Exchange, quotas: readonly number[], open: (i: number) => boolean): number[] {
    const box = boxes[rank] ?? partial;
    let at = half * capacity;
    if (call.staging === 'shared') {
      pack(sendStream(call, 0), box, at, Math.max(...quotas));
      return quotas.map(() => at);
    }
    const counts = quotas.map((count, i) => (open(i) ? count : 0));
    const offsets = counts.map((count) => {
      const offset = at;
      at += count + (count & 1);
      return offset;
    });
    for (let done = 0; counts.some((count) => count > done); done += stretch) {
      counts.forEach((count, i) => {
        if (count > done)
          pack(sendStream(call, i), box, (offsets[i] ?? 0) + done, Math.min(stretch, count - done));
      });
    }
    return offsets;
  }

  /** Waits for the next message of peer i, checks it against what this rank expects, and hands it over. */
  function receive(call: Exchange, i: number, expected: Stream, round: number, take: Take): void {
    const peer = call.op.group.ranks[i] ?? -1;
    const pair = pairBase(mesh, peer, rank);
    const number = ((taken[peer] ?? 0) + 1) | 0;
    wait(peer, pair + pairField.posted, number);
    const slot = pair + pairField.slots + (number & 1) * slotWords;
    const count = words[slot + slotField.count] ?? 0;
    const sentHalf = words[slot + slotField.half] === 1 ? 1 : 0;
    const total =
      (words[slot + slotField.totalHigh] ?? 0) * 2 ** 32 + ((words[slot + slotField.totalLow] ?? 0) >>> 0);
    const operation = operationBase(mesh, peer, sentHalf);
    const agreed =
      sameOperation(mesh, operation, call.op) &&
      total === expected.total &&
      (round > 0 || words[slot + slotField.layout] === hashCounts(call.staging, call.layout(i, 'receive'))) &&
      words[slot + slotField.round] === round &&
      count <= expected.left;
    if (!agreed) {
      const theirs = describeOperation(readOperation(mesh, operation));
      refuse(
        mesh,
        rank,
        `ranks ${peer} and ${rank} disagree: rank ${peer} is in ${theirs} and sends rank ${rank} ${4 * total} bytes; ` +
          `rank ${rank} is in ${describeOperation(call.op)} and expects ${4 * expected.total} bytes from rank ${peer}` +
          (total === expected.total ? ', in parts of other sizes' : ''),
      );
    }
    const box = boxes[peer];
    invariant(box !== undefined, `rank ${peer} has no outbox`);
    take(box, words[slot + slotField.offset] ?? 0, count);
    taken[peer] = number;
    publishWord(mesh, pair + pairField.taken, number, peer);
  }

  /** Adds one round of everyone's contributions in group order, then stores the sum. */
  function sumRound(call: Exchange, sum: Stream, me: number, count: number, round: number): void {
    if (partial.words.length < count) partial = viewMemory(new Float32Array(count));
    call.op.group.ranks.forEach((_, i) => {
      if (i === me) {
        if (i === 0) pack(sendStream(call, me), partial, 0, count);
        else packAdding(sendStream(call, me), partial, 0, count);
        return;
      }
      receive(call, i, sum, round, (box, at, length) => {
        invariant(length === count, `rank ${i} of the group sent ${length} of ${count} elements of a sum`);
        if (i === 0) copyElements(box, at, partial, 0, count);
        else addElements(box, at, partial, 0, count);
      });
    });
    unpack(sum, partial, 0, count);
  }

  function copyRound(call: Exchange, me: number, own: number, round: number): void {
    const { length } = call.op.group.ranks;
    // Start behind oneself, so that ranks do not all read the same outbox first.
    for (let k = 0; k < length; k++) {
      const i = call.staging === 'ordered' ? k : (me + k) % length;
      const stream = call.recvs[i];
      invariant(stream !== undefined, `no destination for rank ${i} of the group`);
      if (i === me) {
        if (call.staging === 'ordered') transfer(sendStream(call, me), stream, own);
        else if (round === 0 && stream.total > 0) transfer(ownStream(call, me), stream, stream.total);
      } else if (round === 0 || stream.left > 0) {
        receive(call, i, stream, round, (box, at, count) => unpack(stream, box, at, count));
      }
    }
  }

  return (call) => {
    const { group, kind } = call.op;
    const me = group.ranks.indexOf(rank);
    if (group.ranks.length === 1) return keepAll(call);
    if (call.resumed !== true) {
      counters.exchanges++;
      counters.kinds[kind].exchanges++;
    }
    writeOperation(mesh, operationBase(mesh, rank, 2), call.op);
    for (let round = 0; ; round++) {
      const quotas = shareOut(call, me, capacity);
      const more = quotas.some((count) => count > 0) || call.recvs.some((stream) => stream.left > 0);
      if (round > 0 && !more) return;
      publish(call, me, quotas, round);
      if (call.sum === undefined) copyRound(call, me, quotas[me] ?? 0, round);
      else if (round === 0 || call.sum.left > 0) sumRound(call, call.sum, me, quotas[me] ?? 0, round);
    }
  };
}

type Take = (box: Memory, at: number, count: number) => void;

function sendStream(call: Exchange, i: number): Stream {
  const stream = call.sends[call.staging === 'shared' ? 0 : i];
  invariant(stream !== undefined, `nothing to send to rank ${i} of the group`);
  return stream;
}

/** What this rank keeps: the shared payload is still being sent, so it is read by a cursor of its own. */
function ownStream(call: Exchange, me: number): Stream {
  const stream = sendStream(call, me);
  return call.staging === 'shared' ? { ...stream, left: stream.total, piece: 0, row: 0, col: 0 } : stream;
}

/** A group of one: no synchronisation. */
function keepAll(call: Exchange): void {
  const target = call.sum ?? call.recvs[0];
  if (target !== undefined && target.total > 0) transfer(sendStream(call, 0), target, target.total);
}

/**
 * How many elements each member gets in a round: everything if it fits, else equal shares, where what small payloads
 * leave goes to the bigger ones. Whoever has elements left gets some, as the protocol demands. Shares are even and a
 * place a member is kept free, for the alignment of regions.
 */
function shareOut(call: Exchange, me: number, capacity: number): number[] {
  const members = call.op.group.ranks.map((_, i) => i);
  if (call.staging === 'shared') return members.map(() => Math.min(capacity, sendStream(call, 0).left));
  let free = capacity - members.length;
  if (call.staging === 'ordered') {
    const share = evenPart(free / members.length);
    return members.map((i) => Math.min(share, sendStream(call, i).left));
  }
  const lefts = members.map((i) => (i === me && call.staging === 'per-peer' ? 0 : sendStream(call, i).left));
  const quotas = [...lefts];
  let waiting = lefts.length;
  for (const i of members.toSorted((a, b) => (lefts[a] ?? 0) - (lefts[b] ?? 0) || a - b)) {
    const quota = Math.min(lefts[i] ?? 0, evenPart(free / waiting));
    quotas[i] = quota;
    free -= quota;
    waiting--;
  }
  return quotas;
}

function evenPart(size: number): number {
  return 2 * Math.floor(size / 2);
}

/** FNV-1a of a list of counts and of the phase they belong to. */
function hashCounts(staging: Staging, counts: readonly number[]): number {
  let hash = 0x811c9dc5 ^ stagings.indexOf(staging);
  const mix = (value: number): void => {
    hash = Math.imul(hash ^ value, 0x01000193);
  };
  for (const count of counts) {
    mix(count | 0);
    mix(Math.floor(count / 2 ** 32));
  }
  mix(counts.length);
  return hash;
}
