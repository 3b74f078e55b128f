import { availableParallelism, cpus, totalmem } from 'node:os';
import { readLimits } from './cgroup.js';
import type { Cluster } from './cluster.js';

/** What local ranks run on. */
export interface Machine {
  readonly cpu: string;
  /** Threads that run at a time: affinity and quota of a container respected. */
  readonly cores: number;
  /** What this process may use: the memory of the machine, or its container's limit. */
  readonly memoryGib: number;
  readonly platform: string;
  readonly node: string;
}

const GIB = 2 ** 30;

/** @param root of the files that say what a container may use */
export function describeMachine(root = '/'): Machine {
  const limits = readLimits(root);
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: Math.min(availableParallelism(), limits.cores),
    memoryGib: Math.min(totalmem(), limits.memoryBytes) / GIB,
    platform: `${process.platform} ${process.arch}`,
    node: process.version,
  };
}

/** Of what the process may use, the part that ranks may fill: the rest is for the main thread, code and files. */
export const MEMORY_SHARE = 0.8;
/** What a core does to float32 in ONNX Runtime, and a copy between threads, within a factor of two or so. */
const TERAFLOPS_PER_CORE = 0.05;
const GIB_PER_SECOND_PER_CORE = 4;
const LATENCY_US = 15;

/**
 * This machine as a cluster of one node: ranks are threads that share its memory, and its cores where there are
 * fewer of them. Memory is known; rates are guesses, and those of all ranks at once.
 */
export function localCluster(ranks: number, machine: Machine = describeMachine()): Cluster {
  const cores = Math.min(1, machine.cores / ranks);
  const link = { gibPerSecond: GIB_PER_SECOND_PER_CORE * cores, latencyUs: LATENCY_US / cores };
  return {
    name: 'local',
    nodes: 1,
    ranksPerNode: ranks,
    memoryGibPerRank: (MEMORY_SHARE * machine.memoryGib) / ranks,
    teraflopsPerRank: TERAFLOPS_PER_CORE * cores,
    launchUs: 0,
    collectiveUs: 0,
    links: { node: link, network: link },
  };
}
