/** What a process really opened, native code included, from strace's log of it. */
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import path from 'node:path';

/** Puts a process under strace and leaves it its process id. Only the traced calls are slowed. */
export const straceArguments = (log: string): readonly string[] => [
  '-D',
  '-f',
  '-qq',
  '--seccomp-bpf',
  '-e',
  'trace=open,openat,openat2,creat',
  '-o',
  log,
];

/** Where Node, the C library and onnxruntime look for themselves and for what the machine is. */
const SYSTEM = ['/usr/', '/lib', '/sys/', '/proc/', '/etc/ld.so', '/etc/ssl/', '/dev/null', '/dev/urandom'];
const NEVER = ['/proc/self/mem'];

const CALL = /^\d+ +(?:open|openat|openat2|creat)\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)*)"/;
const FAILED = /\) += -1 E[A-Z]+ \([^)]*\)$/;

/** Files opened, by their real path, that are neither the system's nor in `folders`. */
export function strangersIn(log: string, cwd: string, folders: readonly string[]): readonly string[] {
  if (!existsSync(log)) return ['strace wrote no log'];
  const own = folders.map((folder) => realpathSync(folder));
  const found = new Set<string>();
  for (const line of readFileSync(log, 'latin1').split('\n')) {
    const opened = CALL.exec(line)?.[1];
    if (opened === undefined || FAILED.test(line)) continue;
    const file = real(path.resolve(cwd, opened));
    const isSystem = SYSTEM.some((prefix) => file.startsWith(prefix)) && !NEVER.includes(file);
    if (!isSystem && !own.some((folder) => file === folder || file.startsWith(folder + path.sep)))
      found.add(file);
  }
  return [...found];
}

/** Links are followed; files that are gone stay as they are called. */
function real(file: string): string {
  try {
    return realpathSync(file);
  } catch {
    return file;
  }
}
