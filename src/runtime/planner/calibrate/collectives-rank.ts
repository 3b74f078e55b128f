/** Worker entry of a rank that does nothing but collectives, to be timed. */
import { evenShards, type CollectiveKind, type Group } from '../../collectives/engine.js';
import { flatBlock } from '../../collectives/blocks.js';
import { threadCpuMs } from '../../ranks/cpu-time.js';
import { serveRank, type RankContext } from '../../ranks/worker.js';
import { unreachable } from '../../../errors.js';

export interface TimeCollective {
  readonly kind: CollectiveKind;
  /** World ranks of each group; ranks in none of them have nothing to do. */
  readonly groups: readonly (readonly number[])[];
  /** What a rank holds: of all-to-all its share, of others the whole. */
  readonly elements: number;
  readonly calls: number;
}

export interface CollectiveTime {
  /** Of one call. */
  readonly ms: number;
  readonly cpuMs: number | undefined;
  /** Bytes this rank sent in one call. */
  readonly bytesSent: number;
}

const WARM_CALLS = 2;

serveRank<TimeCollective, CollectiveTime>((message, context) => {
  const ranks = message.groups.find((group) => group.includes(context.rank));
  if (ranks === undefined) return { ms: 0, cpuMs: 0, bytesSent: 0 };
  const call = callOf(message, { ranks }, context);
  for (let i = 0; i < WARM_CALLS; i++) call();
  const { counters } = context.collectives;
  const [from, cpuFrom, sent] = [performance.now(), threadCpuMs(), counters.bytesSent];
  for (let i = 0; i < message.calls; i++) call();
  const cpuMs = cpuFrom === undefined ? undefined : (threadCpuMs()! - cpuFrom) / message.calls;
  return {
    ms: (performance.now() - from) / message.calls,
    cpuMs,
    bytesSent: (counters.bytesSent - sent) / message.calls,
  };
});

function callOf({ kind, elements }: TimeCollective, group: Group, context: RankContext): () => void {
  const { collectives, rank } = context;
  const counts = evenShards(elements, group.ranks.length);
  const own = counts[group.ranks.indexOf(rank)]!;
  const whole = new Float32Array(elements);
  const shard = new Float32Array(own);
  switch (kind) {
    case 'all-to-all': {
      const starts = counts.map((_, i) => counts.slice(0, i).reduce((sum, count) => sum + count, 0));
      const sends = counts.map((count, i) => [flatBlock(starts[i]!, count)]);
      // What arrives of each rank is as long as this rank's own part.
      const recvs = counts.map((_, i) => [flatBlock(i * own, own)]);
      const dst = new Float32Array(own * counts.length);
      return () => collectives.allToAll(group, [{ src: whole, dst, sends, recvs, accumulate: false }]);
    }
    case 'all-reduce':
      return () => collectives.allReduce(group, [whole]);
    case 'reduce-scatter':
      return () => collectives.reduceScatter(group, [{ src: whole, dst: shard, counts }]);
    case 'all-gather':
      return () => collectives.allGather(group, [{ src: shard, dst: whole, counts }]);
    case 'barrier':
      return () => collectives.barrier(group);
    default:
      return unreachable(kind);
  }
}
