import { readFileSync } from 'node:fs';
import path from 'node:path';

/** What a container or a job may use; Infinity where nothing limits it. */
export interface Limits {
  readonly cores: number;
  readonly memoryBytes: number;
}

/** The tightest limits of the control groups that this process is in, version 1 and 2 (Linux). @param root of files */
export function readLimits(root = '/'): Limits {
  const read = (...parts: readonly string[]): string | undefined => {
    try {
      return readFileSync(path.join(root, ...parts), 'latin1').trim();
    } catch {
      return undefined;
    }
  };
  let [cores, memoryBytes] = [Infinity, Infinity];
  for (const line of (read('proc/self/cgroup') ?? '').split('\n')) {
    const [, controllers, group] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || group === undefined) continue;
    const kinds = controllers.split(',');
    for (const above of ancestors(group)) {
      if (controllers === '') {
        const base = ['sys/fs/cgroup', above] as const;
        cores = Math.min(
          cores,
          quota(...((read(...base, 'cpu.max') ?? 'max').split(' ') as [string, string?])),
        );
        memoryBytes = Math.min(memoryBytes, bytes(read(...base, 'memory.max')));
      }
      if (kinds.includes('cpu')) {
        const file = (name: string): string | undefined =>
          read('sys/fs/cgroup', controllers, above, name) ?? read('sys/fs/cgroup/cpu', above, name);
        cores = Math.min(cores, quota(file('cpu.cfs_quota_us') ?? 'max', file('cpu.cfs_period_us')));
      }
      if (kinds.includes('memory'))
        memoryBytes = Math.min(
          memoryBytes,
          bytes(read('sys/fs/cgroup/memory', above, 'memory.limit_in_bytes')),
        );
    }
  }
  return { cores, memoryBytes };
}

/** `/a/b`, `/a` and `/`: a group is held to the limits of those above it. */
function ancestors(group: string): string[] {
  const found: string[] = [];
  for (let at = path.posix.normalize(group); ; at = path.posix.dirname(at)) {
    found.push(at);
    if (at === '/' || at === '.') return found;
  }
}

/** Microseconds on a core in each period; `max` or −1: no limit. */
function quota(text: string, period = '100000'): number {
  const [us, of] = [Number(text), Number(period)];
  return us > 0 && of > 0 ? us / of : Infinity;
}

/** Version 1 says "no limit" by a number near 2⁶³. */
function bytes(text: string | undefined): number {
  const value = Number(text);
  return value > 0 && value < 2 ** 60 ? value : Infinity;
}
