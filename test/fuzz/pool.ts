/** A long-lived child that compiles cases, watched from outside and replaced when it dies. */
import { fork, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Message, Outcome, Task } from './outcome.js';
import { straceArguments } from './strace.js';

/** How a case ended, death of the process included. */
export type Verdict =
  | { readonly kind: 'ended'; readonly outcome: Outcome; readonly ms: number }
  | { readonly kind: 'died'; readonly reason: string; readonly stage: string; readonly ms: number };

export interface Target {
  run(task: Task): Promise<Verdict>;
  stop(): void;
}

export const MAX_GROWTH_BYTES = 2 ** 30;
export const MAX_CPU_MS = 10_000;
/** For hangs that wait instead of compute; generous, since the machine may be busy. */
const MAX_WALL_MS = 300_000;
const POLL_MS = 50;
/** A child is replaced now and then: native memory is not returned. */
const MAX_RUNS = 1000;
const CLOCK_TICK_MS = 10;

interface Usage {
  readonly residentBytes: number;
  readonly cpuMs: number;
}

function usageOf(pid: number): Usage | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const cpuMs = (Number(fields[11]) + Number(fields[12])) * CLOCK_TICK_MS;
    return { cpuMs, residentBytes: Number(fields[21]) * 4096 };
  } catch {
    return undefined;
  }
}

async function start(cwd: string, log: string | undefined): Promise<ChildProcess> {
  const node = ['--max-old-space-size=700'];
  const child = fork(fileURLToPath(new URL('target.js', import.meta.url)), [path.resolve('.')], {
    cwd,
    ...(log === undefined
      ? { execArgv: node }
      : { execPath: 'strace', execArgv: [...straceArguments(log), process.execPath, ...node] }),
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  await new Promise<void>((resolve, reject) => {
    child.once('message', () => resolve());
    child.once('exit', (code) => reject(new Error(`the target exits with ${code} when it starts`)));
  });
  child.removeAllListeners('exit');
  return child;
}

export interface TargetOptions {
  /** An existing folder, from where relative paths of the child would be resolved. */
  readonly cwd: string;
  /** Logs of what each child opened go into this folder. */
  readonly traces?: string;
  /** Called with the log of a child that has ended. */
  readonly onTrace?: (log: string) => void;
}

export function targetIn({ cwd, traces, onTrace }: TargetOptions): Target {
  let child: ChildProcess | undefined;
  let runs = 0;
  let children = 0;
  let log: string | undefined;
  const stop = (): void => {
    child?.removeAllListeners();
    child?.kill('SIGKILL');
    child = undefined;
    runs = 0;
    if (log !== undefined) onTrace?.(log);
    log = undefined;
  };
  return {
    stop,
    run: async (task) => {
      if (runs++ >= MAX_RUNS) stop();
      if (child === undefined) {
        log = traces === undefined ? undefined : path.join(traces, `child-${children++}.log`);
        child = await start(cwd, log);
      }
      const verdict = await watch(child, task);
      if (verdict.kind === 'died') stop();
      return verdict;
    },
  };
}

function watch(child: ChildProcess, task: Task): Promise<Verdict> {
  const began = performance.now();
  const first = usageOf(child.pid!);
  let stage = 'start';
  let noise = '';
  return new Promise((resolve) => {
    const settle = (verdict: Verdict): void => {
      clearInterval(timer);
      child.removeAllListeners('message');
      child.removeAllListeners('exit');
      child.stderr!.removeAllListeners('data');
      resolve(verdict);
    };
    const ms = (): number => Math.round(performance.now() - began);
    const died = (reason: string): void => settle({ kind: 'died', reason, stage, ms: ms() });
    child.on('message', (message: Message) => {
      if ('stage' in message) stage = message.stage;
      if ('outcome' in message) settle({ kind: 'ended', outcome: message.outcome, ms: ms() });
    });
    child.on('exit', (code, signal) => died(`exit ${signal ?? code} ${noise.slice(0, 500)}`));
    child.stderr!.on('data', (data: Buffer) => (noise += noise.length < 4000 ? data.toString() : ''));
    const timer = setInterval(() => {
      const now = usageOf(child.pid!);
      if (now === undefined || first === undefined) return;
      if (now.cpuMs - first.cpuMs > MAX_CPU_MS) died(`more than ${MAX_CPU_MS} ms of CPU`);
      else if (ms() > MAX_WALL_MS) died(`more than ${MAX_WALL_MS} ms`);
      else if (now.residentBytes - first.residentBytes > MAX_GROWTH_BYTES)
        died(`more than ${MAX_GROWTH_BYTES >> 20} MiB of memory`);
    }, POLL_MS);
    child.send(task);
  });
}
