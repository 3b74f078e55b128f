/** The folder a case is compiled in, with files around it that nothing may read. */
import { mkdirSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';

export interface FuzzFolder {
  /** Where `model.onnx` lies; everything in it may be read. */
  readonly model: string;
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
  const [model, cwd] = [path.join(root, 'model'), path.join(root, 'cwd')];
  mkdirSync(path.join(model, 'subdir'), { recursive: true });
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
  return {
    model,
    cwd,
    // Under `relatime` a read updates an access time that is not after the last change.
    arm: () => canaries.forEach((file) => utimesSync(file, LONG_AGO, LATER)),
    touched: () => canaries.filter((file) => statSync(file).atimeMs !== LONG_AGO.getTime()),
  };
}
