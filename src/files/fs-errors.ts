import { statSync, type Stats } from 'node:fs';
import path from 'node:path';
import { UserError } from '../errors.js';

/** What a file system refuses, in words a user can act on. */
const WRITE_ERRORS: ReadonlyMap<string, readonly [problem: string, hint: string]> = new Map([
  ['ENOSPC', ['the disk is full', 'free some space or write to another disk; nothing was left behind']],
  [
    'EDQUOT',
    ['the disk quota is used up', 'free some space or write to another disk; nothing was left behind'],
  ],
  [
    'EFBIG',
    ['the file is larger than the disk allows', 'raise the limit (ulimit -f) or write to another disk'],
  ],
  ['EROFS', ['the disk is read-only', 'write to another folder']],
  ['EACCES', ['permission denied', 'write to a folder that you own, or change its permissions']],
  ['EPERM', ['operation not permitted', 'write to a folder that you own, or change its permissions']],
  ['ENOTDIR', ['a part of the path is a file, not a folder', 'choose another path']],
  ['ENOENT', ['the folder does not exist', 'create it first']],
  ['EISDIR', ['it is a folder', 'name a file']],
  ['ENAMETOOLONG', ['the name is too long', 'choose a shorter path']],
]);
/** Only ever caused by writing, so ours whatever path they carry. */
const WRITE_ONLY = new Set(['ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS']);

/**
 * What to throw when writing `target` failed: a UserError for what a user can mend, the error itself otherwise.
 * An error about a path outside `target` and `within` is another file's and stays as it is.
 */
export function explainWriteError(error: unknown, target: string, within: readonly string[] = []): unknown {
  const code = errorCode(error);
  const known = code === undefined ? undefined : WRITE_ERRORS.get(code);
  if (code === undefined || known === undefined) return error;
  const where = (error as NodeJS.ErrnoException).path;
  const folder = path.dirname(path.resolve(target));
  const ours = where === undefined || [folder, target, ...within].some((own) => contains(own, where));
  if (!ours && !WRITE_ONLY.has(code)) return error;
  return new UserError(`cannot write ${target}: ${known[0]}`, known[1], { cause: error });
}

/** As {@link explainWriteError}, for reading `file`. */
export function explainReadError(error: unknown, file: string): unknown {
  switch (errorCode(error)) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new UserError(`${file} does not exist`, 'check the path', { cause: error });
    case 'EACCES':
    case 'EPERM':
      return new UserError(`cannot read ${file}: permission denied`, 'change its permissions', {
        cause: error,
      });
    case 'EISDIR':
      return new UserError(`cannot read ${file}: it is a folder`, 'name a file', { cause: error });
    default:
      return error;
  }
}

/** What is at `file`; undefined when nothing is. @throws UserError when it may not be looked at */
export function statIfPresent(file: string): Stats | undefined {
  try {
    return statSync(file);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw explainReadError(error, file);
  }
}

/** The code of a system error; undefined for anything else. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || error instanceof UserError) return undefined;
  return (error as NodeJS.ErrnoException).code;
}

function contains(folder: string, file: string): boolean {
  const relative = path.relative(path.resolve(folder), path.resolve(file));
  return relative.split(path.sep)[0] !== '..' && !path.isAbsolute(relative);
}
