/** The CLI, with its cost as the last line of its output; started by compile.ts in a process of its own. */
import { readFileSync } from 'node:fs';

process.on('exit', () => {
  const peakKibibytes = Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]);
  const { userCPUTime, systemCPUTime } = process.resourceUsage();
  const cost = { cpuSeconds: (userCPUTime + systemCPUTime) / 1e6, peakBytes: peakKibibytes * 1024 };
  process.stdout.write(`\n${JSON.stringify(cost)}\n`);
});
await import('../../src/cli/main.js');
