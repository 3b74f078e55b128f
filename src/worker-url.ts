import { existsSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { invariant } from './errors.js';

/**
 * The compiled file of a worker. Worker threads run JavaScript: a TypeScript source (tests run on sources)
 * stands for its counterpart in the package's `dist`.
 */
export function resolveWorker(entry: string | URL): URL {
  const url = new URL(entry);
  url.search = '';
  if (!url.pathname.endsWith('.ts')) return url;
  const source = fileURLToPath(url);
  const root = packageRoot(source);
  const compiled = join(root, 'dist', relative(root, source).replace(/\.ts$/, '.js'));
  invariant(existsSync(compiled), `${compiled} is missing: run npm run build`);
  return pathToFileURL(compiled);
}

/** The folder of the package that a file is in. */
export function packageRoot(file: string): string {
  let root = dirname(file);
  while (!existsSync(join(root, 'package.json'))) {
    invariant(root !== dirname(root), `${file} is in no package`);
    root = dirname(root);
  }
  return root;
}
