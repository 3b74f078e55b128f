/** The folder a case is compiled in, with files around it that nothing may read. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export interface FuzzFolder {
  /** Where `model.onnx` lies; everything in it may be read. */
  readonly model: string;
  /** Where packages are written. */
  readonly out: string;
  /** Working directory of the compiling process: relative paths of native code would be resolved here. */
  readonly cwd: string;
  /** Makes reads of the canaries visible in their access times. */
  arm(): void;
  /** Canaries read since `arm`, by their access times. */
  touched(): readonly string[];
}

const LONG_AGO = new Date('2001-01-01T00:00:00Z');
const LATER = new Date('2002-01-01T00:00:00Z');

export function fuzzFolder(root: string): FuzzFolder {
  rmSync(root, { recursive: true, force: true });
  const [model, out, cwd] = ['model', 'out', 'cwd'].map((name) => path.join(root, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(path.join(model, 'subdir'), { recursive: true });
  mkdirSync(out, { recursive: true });
  mkdirSync(cwd, { recursive: true });
  const secret = new Uint8Array(1 << 16).fill(42);
  const canaries = [
    path.join(root, 'canary.bin'),
    ...['weights.bin', 'cwd.bin', 'link.bin'].map((name) => path.join(cwd, name)),
  ];
  for (const file of canaries) writeFileSync(file, secret);
  writeFileSync(path.join(model, 'weights.bin'), secret);
  symlinkSync('../canary.bin', path.join(model, 'link.bin'));
  symlinkSync('..', path.join(model, 'linkdir'));
  symlinkSync('/dev/zero', path.join(model, 'zero.bin'));
  symlinkSync('circle.bin', path.join(model, 'circle.bin'));
  // A pipe that nobody writes to: opening it would never return.
  execFileSync('mkfifo', [path.join(model, 'pipe')]);
  return {
    model,
    out,
    cwd,
    // Under `relatime` a read updates an access time that is not after the last change.
    arm: () => canaries.forEach((file) => utimesSync(file, LONG_AGO, LATER)),
    touched: () => canaries.filter((file) => statSync(file).atimeMs !== LONG_AGO.getTime()),
  };
}
