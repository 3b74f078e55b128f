/** The process that compiles fuzz cases, one after the other; started by pool.ts, which watches it. */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Outcome, Task } from './outcome.js';

const repository = process.argv[2]!;
const opened: string[] = [];
const { readFileSync } = fs;
hook();

const { compileCase } = await import('./compile.js');

/** Records every path given to a function that opens a file, before the compiler is loaded. */
function hook(): void {
  const watched = [
    'openSync',
    'open',
    'readFileSync',
    'readFile',
    'createReadStream',
    'opendirSync',
    'readdirSync',
  ];
  const table = fs as unknown as Record<string, (...args: unknown[]) => unknown>;
  const promises = fs.promises as unknown as Record<string, (...args: unknown[]) => unknown>;
  for (const [owner, names] of [
    [table, watched],
    [promises, ['open', 'readFile', 'readdir']],
  ] as const)
    for (const name of names) {
      const original = owner[name]!;
      owner[name] = function (this: unknown, ...args: unknown[]) {
        if (typeof args[0] !== 'number')
          opened.push(args[0] instanceof URL ? fileURLToPath(args[0]) : String(args[0]));
        return original.apply(this, args);
      };
    }
  syncBuiltinESMExports();
}

/** Opened files that are neither in the folders of the case nor the program itself. */
function strangers(task: Task): string[] {
  const real = (file: string): string => {
    try {
      return fs.realpathSync(file);
    } catch {
      return path.resolve(file);
    }
  };
  const own = [task.folder, task.out].map((folder) => fs.realpathSync(folder));
  const inside = (file: string): boolean =>
    own.some((folder) => file === folder || file.startsWith(folder + path.sep));
  const program = [path.join(repository, 'dist'), fs.realpathSync(path.join(repository, 'node_modules'))];
  const outside = opened
    .map(real)
    .filter((file) => !inside(file))
    .filter((file) => !program.some((folderOfProgram) => file.startsWith(folderOfProgram + path.sep)));
  opened.length = 0;
  return outside;
}

const kilobytes = (key: string): number =>
  Number(new RegExp(`${key}:\\s*(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0);

process.on('message', (task: Task) => {
  void (async () => {
    // 5 resets the peak of the resident set.
    fs.writeFileSync('/proc/self/clear_refs', '5');
    const before = kilobytes('VmRSS');
    opened.length = 0;
    const outcome = await compileCase(task, (stage) => process.send!({ stage }));
    const grown = (kilobytes('VmHWM') - before) * 1024;
    process.send!({
      outcome: { ...outcome, strangers: strangers(task), grownBytes: grown } satisfies Outcome,
    });
  })();
});
process.send!({ ready: true });
