import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, statSync, type Stats } from 'node:fs';
import { mkdir, open, readdir, realpath, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { invariant, UserError } from '../errors.js';
import { errorCode, explainWriteError } from './fs-errors.js';
import { chunksOf } from './pieces.js';

/**
 * Everything ithaca saves goes to a temporary sibling first, reaches the disk (fsync) and is then renamed: a
 * reader meets the old content or the new one, never a part. Any failure removes the temporary.
 */

/** `.name.tmp-<pid>-<random>`, hidden so that no glob or listing takes it for a result. */
const TEMPORARY = /^\..+\.(?:tmp|old)-(\d+)-[0-9a-f]+$/;
const ABANDONED_AFTER_MS = 3_600_000;

function temporaryName(finalPath: string, kind: 'tmp' | 'old'): string {
  const suffix = `${kind}-${process.pid}-${randomBytes(6).toString('hex')}`;
  return path.join(path.dirname(finalPath), `.${path.basename(finalPath)}.${suffix}`);
}

/** A file being written under a temporary name. End it with `commit` or `abort`; both may be called once. */
export class AtomicFile {
  #open = true;

  private constructor(
    readonly path: string,
    readonly temporaryPath: string,
    readonly handle: FileHandle,
  ) {}

  /** @throws UserError when the folder is missing or not writable, or `target` is no regular file */
  static async create(target: string): Promise<AtomicFile> {
    const finalPath = await writableFileTarget(target);
    const temporary = temporaryName(finalPath, 'tmp');
    try {
      return new AtomicFile(finalPath, temporary, await open(temporary, 'wx'));
    } catch (error) {
      throw explainWriteError(error, target);
    }
  }

  /** Makes the content durable and visible under its final name. */
  async commit(): Promise<void> {
    invariant(this.#open, `${this.path} is committed or aborted twice`);
    try {
      await this.handle.sync();
      await this.handle.close();
      await rename(this.temporaryPath, this.path);
      this.#open = false;
      await syncDirectory(path.dirname(this.path));
    } catch (error) {
      await this.abort();
      throw explainWriteError(error, this.path);
    }
  }

  /** Removes the temporary; harmless after `commit` or a second `abort`. */
  async abort(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.handle.close().catch(() => undefined);
    await rm(this.temporaryPath, { force: true });
  }
}

/**
 * Calls `write` with a handle on a temporary file and renames it to `target` when it is done.
 * @throws UserError for a full or read-only disk, missing permission or folder; what `write` throws otherwise
 */
export async function writeFileAtomic(
  target: string,
  write: (handle: FileHandle) => Promise<void> | void,
): Promise<void> {
  const file = await AtomicFile.create(target);
  try {
    await write(file.handle);
  } catch (error) {
    await file.abort();
    throw explainWriteError(error, target, [file.temporaryPath]);
  }
  await file.commit();
}

export interface WriteDirectoryOptions {
  /** Replace what is there, if it is empty or `isOurs` says that ithaca made it; otherwise an existing directory is refused. */
  readonly replace?: boolean;
  /** Default: {@link isIthacaDirectory}. */
  readonly isOurs?: (directory: string) => boolean;
}

/**
 * Calls `fill` with an empty temporary directory beside `target` and renames it to `target` when it is done.
 * Missing parents are made. Replacing moves the old directory aside first (no portable call exchanges two
 * directories), and puts it back if the new one cannot take its place.
 * @throws UserError as {@link writeFileAtomic}, and when `target` exists and may not be replaced
 */
export async function writeDirectoryAtomic(
  target: string,
  fill: (temporaryDirectory: string) => Promise<void> | void,
  options: WriteDirectoryOptions = {},
): Promise<void> {
  const finalPath = path.resolve(target);
  const temporary = temporaryName(finalPath, 'tmp');
  assertReplaceable(finalPath, target, options);
  try {
    await mkdir(path.dirname(finalPath), { recursive: true });
    await mkdir(temporary);
    await fill(temporary);
    await syncTree(temporary);
    assertReplaceable(finalPath, target, options);
    await putInPlace(temporary, finalPath);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw inTermsOf(target, temporary, explainWriteError(error, target, [temporary, finalPath]));
  }
}

/** Nobody should read of a temporary that is gone. */
function inTermsOf(target: string, temporary: string, error: unknown): unknown {
  if (!(error instanceof UserError) || !error.message.includes(temporary)) return error;
  return new UserError(error.message.replaceAll(temporary, target), error.hint, { cause: error });
}

/** Whether `manifest.json` in `directory` says `"format": "ithaca-…"`, as packages and checkpoints do. */
export function isIthacaDirectory(directory: string): boolean {
  try {
    const manifest: unknown = JSON.parse(readFileSync(path.join(directory, 'manifest.json'), 'utf8'));
    if (typeof manifest !== 'object' || manifest === null || !('format' in manifest)) return false;
    return typeof manifest.format === 'string' && manifest.format.startsWith('ithaca-');
  } catch {
    return false;
  }
}

/**
 * Removes a directory so that no reader meets a part of it: it disappears under its name first.
 * @throws UserError when it cannot be moved or removed
 */
export async function removeDirectoryAtomic(directory: string): Promise<void> {
  const aside = temporaryName(path.resolve(directory), 'old');
  try {
    await rename(directory, aside);
    await rm(aside, { recursive: true, force: true });
  } catch (error) {
    throw explainWriteError(error, directory);
  }
}

/**
 * Removes temporaries that a killed process left in `directory`: their process is gone and they are an hour
 * old (a process identifier says nothing about another host on a shared disk).
 */
export async function removeAbandonedTemporaries(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    const owner = TEMPORARY.exec(name)?.[1];
    if (owner === undefined || isAlive(Number(owner))) continue;
    const file = path.join(directory, name);
    const age = Date.now() - (await stat(file)).mtimeMs;
    if (age > ABANDONED_AFTER_MS) await rm(file, { recursive: true, force: true });
  }
}

export interface FileDigest {
  /** lower-case hexadecimal */
  readonly sha256: string;
  readonly bytes: number;
}

/** Hash and length of a file, read once as a stream. @throws UserError when it cannot be read */
export async function digestFile(file: string): Promise<FileDigest> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of chunksOf(file)) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { sha256: hash.digest('hex'), bytes };
}

/** See {@link digestFile}. */
export async function sha256File(file: string): Promise<string> {
  return (await digestFile(file)).sha256;
}

/** The path to rename to: a link is followed, so that the file it names is replaced and the link stays. */
async function writableFileTarget(target: string): Promise<string> {
  const found = statOrUndefined(target, target);
  if (found === undefined) return path.resolve(target);
  if (!found.isFile()) {
    throw new UserError(`cannot write ${target}: it is not a regular file`, 'choose another path');
  }
  return realpath(target);
}

function assertReplaceable(finalPath: string, target: string, options: WriteDirectoryOptions): void {
  const found = statOrUndefined(finalPath, target);
  if (found === undefined) return;
  if (!found.isDirectory()) {
    throw new UserError(
      `cannot write ${target}: a file of that name exists`,
      'remove it or choose another path',
    );
  }
  if (options.replace !== true) {
    throw new UserError(`cannot write ${target}: it exists already`, 'remove it or choose another path');
  }
  const isOurs = options.isOurs ?? isIthacaDirectory;
  if (!isOurs(finalPath) && !isEmptyDirectory(finalPath)) {
    throw new UserError(
      `cannot replace ${target}: it was not made by ithaca`,
      'choose another path, or remove it yourself if it may go',
    );
  }
}

function statOrUndefined(finalPath: string, target: string): Stats | undefined {
  try {
    return statSync(finalPath, { throwIfNoEntry: false });
  } catch (error) {
    throw explainWriteError(error, target);
  }
}

function isEmptyDirectory(directory: string): boolean {
  return readdirSync(directory).length === 0;
}

async function putInPlace(temporary: string, finalPath: string): Promise<void> {
  const parent = path.dirname(finalPath);
  if (statSync(finalPath, { throwIfNoEntry: false }) === undefined) {
    await rename(temporary, finalPath);
    await syncDirectory(parent);
    return;
  }
  const aside = temporaryName(finalPath, 'old');
  await rename(finalPath, aside);
  try {
    await rename(temporary, finalPath);
  } catch (error) {
    await rename(aside, finalPath);
    throw error;
  }
  await syncDirectory(parent);
  await rm(aside, { recursive: true, force: true });
}

/** fsync of every file below `directory`, then of the directories that name them. */
async function syncTree(directory: string): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true });
  // Together: the disk takes one flush for many files, and a flush is what costs.
  await Promise.all(
    entries.map(async (entry) => {
      const child = path.join(directory, entry.name);
      if (entry.isDirectory()) await syncTree(child);
      else if (entry.isFile()) await syncPath(child, process.platform === 'win32' ? 'r+' : 'r');
    }),
  );
  await syncDirectory(directory);
}

async function syncDirectory(directory: string): Promise<void> {
  // Windows cannot open a directory; its rename is journalled.
  if (process.platform !== 'win32') await syncPath(directory, 'r');
}

async function syncPath(file: string, flags: string): Promise<void> {
  const handle = await open(file, flags);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) !== 'ESRCH';
  }
}
