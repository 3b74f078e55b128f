import { realpathSync } from 'node:fs';
import path from 'node:path';

/** Names of the files every package has, relative to its directory. */
export const MANIFEST = 'manifest.json';
export const MODEL = 'model/model.onnx';
export const WEIGHTS = 'weights/weights.safetensors';
export const INDEX = 'index.ts';
export const COST = 'cost.json';
export const REPORT = 'report.html';
export const TRACE = 'trace.json';
export const programJson = (name: string): string => `programs/${name}/program.json`;
export const programText = (name: string): string => `programs/${name}/program.ir`;

const MAX_PATH = 1024;
/** What Windows refuses or takes for a device or a stream; and control characters. */
// eslint-disable-next-line no-control-regex
const FORBIDDEN = /[\u0000-\u001f<>:"|?*\\]/;

/** Whether a path stays inside the package on any operating system: relative, `/` between plain names. */
export function isContainedPath(file: string): boolean {
  if (file.length === 0 || file.length > MAX_PATH || FORBIDDEN.test(file)) return false;
  return file.split('/').every((name) => name !== '' && name !== '.' && name !== '..');
}

/** The real path of an existing file, or undefined when a link leads out of the (real) directory. */
export function resolveContained(realDirectory: string, file: string): string | undefined {
  const real = realpathSync(path.join(realDirectory, ...file.split('/')));
  const prefix = realDirectory.endsWith(path.sep) ? realDirectory : realDirectory + path.sep;
  return real.startsWith(prefix) ? real : undefined;
}
