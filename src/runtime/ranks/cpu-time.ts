import { readFileSync } from 'node:fs';

/** Linux accounts for threads one by one; its first figure is nanoseconds on a core. */
const STATISTICS = '/proc/thread-self/schedstat';
let isThere = process.platform === 'linux';

/**
 * Milliseconds that this thread has run on a core, waiting left out; undefined where the system does not say. As fine
 * as the scheduler's tick, 1–4 ms. A rank computes on its own thread, so this is all of its work.
 */
export function threadCpuMs(): number | undefined {
  if (!isThere) return undefined;
  try {
    const ns = Number(readFileSync(STATISTICS, 'latin1').split(' ')[0]);
    if (Number.isFinite(ns)) return ns / 1e6;
  } catch {
    // Kernels without CONFIG_SCHED_INFO have no such file.
  }
  isThere = false;
  return undefined;
}
