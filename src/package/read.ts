import { createHash } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { z } from 'zod';
import { invariant, UserError } from '../errors.js';
import { digestFile } from '../files/atomic.js';
import { errorCode, explainReadError, statIfPresent } from '../files/fs-errors.js';
import { modelsOf } from './access.js';
import { checkProgram } from './check.js';
import { manifestSchema, type Manifest, type ParameterEntry } from './manifest.js';
import {
  isContainedPath,
  MANIFEST,
  MODEL,
  programJson,
  programText,
  resolveContained,
  WEIGHTS,
} from './paths.js';
import { programSchema, type Program } from './program.js';
import { checkStored, checkWeight, elementsOf, readWeight, type WeightFiles } from './weights.js';

/** An execution package whose every file was checked. Nothing stays open. */
export interface Package {
  /** Absolute. */
  readonly directory: string;
  readonly manifest: Manifest;
  /** sha256 of the manifest, which holds those of all files: it names the package. */
  readonly hash: string;
  /** @throws UserError when the package has no such program */
  program(name: string): Program;
  /** Absolute path of a listed file. */
  file(path: string): string;
  /** Content of a listed file, hashed again. @throws UserError when it has changed since it was opened */
  bytes(path: string): Uint8Array;
  /** @throws UserError when the package has no such parameter */
  parameter(name: string): ParameterEntry;
  /** Initial value, row-major. @throws UserError when it is absent, or too large for one array */
  readParameter(name: string): Float32Array;
  /**
   * Fills `target` (possibly in shared memory) with the elements from `firstElement` (default 0) on.
   * @throws UserError when the value is absent
   */
  readParameterInto(name: string, target: Float32Array, firstElement?: number): void;
}

export interface OpenOptions {
  /**
   * Hash of a package that another thread of this process opened at the same place: files are then not hashed
   * again, only the manifest and the programs.
   */
  readonly checked?: string;
}

const MAX_JSON_BYTES = 256 * 2 ** 20;

/**
 * Opens a package: every listed file is hashed, every program checked; files not listed are never read.
 * @throws UserError naming what is missing, changed or does not fit
 */
export async function openPackage(directory: string | URL, options: OpenOptions = {}): Promise<Package> {
  const shown = typeof directory === 'string' ? directory : path.resolve(fileURLToPath(directory));
  const opener = makeOpener(shown);
  const { manifest, hash } = readManifest(opener);
  opener.remember(manifest);
  const files = new Map(manifest.files.map((file) => [file.path, file]));
  checkFileList(opener, manifest, files);
  const programs = new Map<string, Program>();
  for (const file of manifest.files) checkSize(opener, file);
  for (const name of manifest.programs) programs.set(name, readProgram(opener, name, manifest, files));
  if (options.checked !== hash) for (const file of manifest.files) await checkHash(opener, file);
  checkTrainPrograms(opener, manifest, programs);
  return makePackage(opener, manifest, hash, files, programs);
}

type FileEntry = Manifest['files'][number];
type Files = ReadonlyMap<string, FileEntry>;

/** A package being opened: its place, and how to complain about it. */
interface Opener {
  readonly shown: string;
  /** Real path of the directory. */
  readonly root: string;
  /** Source model, once known, for the hint. */
  remember(manifest: Manifest): void;
  error(message: string, cause?: unknown): UserError;
  /** Real path of a file of the package. @throws UserError when it is missing or a link leads out */
  locate(file: string): string;
}

function makeOpener(shown: string): Opener {
  const root = packageRoot(shown);
  let source = 'model.onnx';
  const error = (message: string, cause?: unknown): UserError =>
    new UserError(
      `package ${shown}: ${message}`,
      `compile it again: ithaca compile ${source} -o ${shown}`,
      cause === undefined ? undefined : { cause },
    );
  const locate = (file: string): string => {
    if (!isContainedPath(file)) throw error(`${JSON.stringify(file)} is not a path inside the package`);
    let real: string | undefined;
    try {
      real = resolveContained(root, file);
    } catch (cause) {
      const code = errorCode(cause);
      if (code === 'ENOENT' || code === 'ENOTDIR') throw error(`${file} is missing`, cause);
      throw explainReadError(cause, path.join(shown, file));
    }
    if (real === undefined) throw error(`${file} is a link that leads out of the package`);
    return real;
  };
  const remember = ({ source: { file } }: Manifest): void => {
    source = file;
  };
  return { shown, root, remember, error, locate };
}

function packageRoot(shown: string): string {
  const hint = 'give the directory that ithaca compile wrote';
  if (shown.includes('\0')) throw new UserError(`${JSON.stringify(shown)} is not a path`, hint);
  const stats = statIfPresent(shown);
  if (stats === undefined) throw new UserError(`${shown} does not exist`, 'check the path');
  if (!stats.isDirectory()) throw new UserError(`${shown} is not a package: it is no directory`, hint);
  if (statIfPresent(path.join(shown, MANIFEST)) === undefined)
    throw new UserError(`${shown} is not a package: it has no ${MANIFEST}`, hint);
  return realpathSync(shown);
}

function readManifest(opener: Opener): { manifest: Manifest; hash: string } {
  const bytes = readSmall(opener, MANIFEST);
  const json = parseJson(opener, MANIFEST, bytes);
  const { format, version } = (typeof json === 'object' && json !== null ? json : {}) as Record<
    string,
    unknown
  >;
  if (format !== 'ithaca-package')
    throw new UserError(
      `${opener.shown} is not a package: its ${MANIFEST} says format ${JSON.stringify(format) ?? 'nothing'}`,
      'give the directory that ithaca compile wrote',
    );
  if (version !== 1)
    throw opener.error(`its format has version ${String(version)}, this ithaca reads version 1`);
  return { manifest: matchSchema(opener, MANIFEST, manifestSchema, json), hash: sha256(bytes) };
}

/** The list itself, and that it holds what the manifest and every package need. */
function checkFileList(opener: Opener, manifest: Manifest, files: Files): void {
  if (files.size !== manifest.files.length) throw opener.error('a file is listed twice');
  if (files.has(MANIFEST)) throw opener.error(`${MANIFEST} lists itself`);
  if (new Set(manifest.programs).size !== manifest.programs.length)
    throw opener.error('a program is listed twice');
  const model = files.get(MODEL);
  const { bytes, sha256: hash } = manifest.source;
  if (model === undefined || model.bytes !== bytes || model.sha256 !== hash)
    throw opener.error(`${MODEL} is not the source model that the manifest names`);
  const names = new Set(manifest.parameters.map((parameter) => parameter.name));
  if (names.size !== manifest.parameters.length) throw opener.error('a parameter is listed twice');
  for (const parameter of manifest.parameters) {
    inTermsOf(opener, () => checkWeight(parameter, bytes));
    if (parameter.weight.kind === 'safetensors') requireListed(opener, files, WEIGHTS);
    if (parameter.tiedTo !== undefined && !names.has(parameter.tiedTo.name))
      throw opener.error(
        `parameter ${parameter.name} is tied to ${parameter.tiedTo.name}, which is not listed`,
      );
  }
}

function requireListed(opener: Opener, files: Files, file: string): FileEntry {
  const entry = files.get(file);
  if (entry === undefined) throw opener.error(`${file} is not listed in ${MANIFEST}`);
  return entry;
}

function checkSize(opener: Opener, { path: file, bytes }: FileEntry): void {
  const stats = statIfPresent(opener.locate(file));
  if (stats === undefined || !stats.isFile()) throw opener.error(`${file} is not a regular file`);
  if (stats.size === bytes) return;
  const how = stats.size < bytes ? 'is cut short' : 'has grown';
  throw opener.error(`${file} ${how} since it was compiled: ${stats.size} bytes, expected ${bytes}`);
}

async function checkHash(opener: Opener, { path: file, sha256: expected }: FileEntry): Promise<void> {
  const { sha256: found } = await digestFile(opener.locate(file));
  if (found !== expected) throw changed(opener, file, found, expected);
}

const changed = (opener: Opener, file: string, found: string, expected: string): UserError =>
  opener.error(
    `${file} has changed since it was compiled (sha256 ${found.slice(0, 12)}…, expected ${expected.slice(0, 12)}…)`,
  );

/** Reads, hashes and checks; what was hashed is what is parsed. */
function readProgram(opener: Opener, name: string, manifest: Manifest, files: Files): Program {
  const file = programJson(name);
  const entry = requireListed(opener, files, file);
  requireListed(opener, files, programText(name));
  const bytes = readSmall(opener, file);
  const found = sha256(bytes);
  if (found !== entry.sha256) throw changed(opener, file, found, entry.sha256);
  const program = matchSchema(opener, file, programSchema, parseJson(opener, file, bytes));
  if (program.name !== name) throw opener.error(`${file} holds the program ${program.name}`);
  inTermsOf(opener, () => checkProgram(program, file));
  for (const { file } of modelsOf(program)) requireListed(opener, files, file);
  const parameters = new Set(manifest.parameters.map((parameter) => parameter.name));
  for (const input of program.inputs)
    if (input.role === 'parameter' && !parameters.has(input.name))
      throw opener.error(`${file}: input ${input.name} is no parameter of the package`);
  return program;
}

/** Programs that a group may choose from take and give the same: gradients end up in one memory. */
function checkTrainPrograms(
  opener: Opener,
  { checkpoint }: Manifest,
  programs: ReadonlyMap<string, Program>,
): void {
  if (checkpoint === undefined) return;
  if (checkpoint[0]!.program !== 'train')
    throw opener.error('the first checkpointing policy is not of train');
  const signatures = checkpoint.map(({ program: name }) => {
    const program = programs.get(name);
    if (program === undefined || !name.startsWith('train'))
      throw opener.error(`${name}, a program of a checkpointing policy, is not listed as a train program`);
    return signatureOf(program);
  });
  const other = signatures.findIndex((signature) => signature !== signatures[0]);
  if (other >= 0)
    throw opener.error(`program ${checkpoint[other]!.program} takes or gives other values than train`);
}

/** Inputs and outputs by name, with their types; outputs that share memory share it in all programs. */
function signatureOf({ inputs, outputs, buffers }: Program): string {
  const type = (buffer: number): string => buffers[buffer]?.type ?? '';
  const first = new Map(outputs.map(({ name, buffer }) => [buffer, name] as const).toReversed());
  return JSON.stringify([
    inputs.map(({ name, role, buffer }) => [name, role, type(buffer)]).sort(),
    outputs.map(({ name, buffer }) => [name, type(buffer), first.get(buffer)]),
  ]);
}

function readSmall(opener: Opener, file: string): Buffer {
  const real = opener.locate(file);
  const stats = statIfPresent(real);
  if (stats === undefined || !stats.isFile()) throw opener.error(`${file} is not a regular file`);
  if (stats.size > MAX_JSON_BYTES)
    throw opener.error(`${file} has ${stats.size} bytes, more than the ${MAX_JSON_BYTES} allowed`);
  return readWhole(real);
}

function readWhole(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw explainReadError(error, file);
  }
}

function parseJson(opener: Opener, file: string, bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw opener.error(`${file} is cut short or altered: it is not JSON`, cause);
  }
}

function matchSchema<Schema extends z.ZodType>(
  opener: Opener,
  file: string,
  schema: Schema,
  json: unknown,
): z.infer<Schema> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const key = issue === undefined || issue.path.length === 0 ? '' : `${issue.path.join('.')}: `;
  throw opener.error(`${file} is not valid: ${key}${issue?.message ?? 'wrong'}`);
}

function inTermsOf<T>(opener: Opener, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw error instanceof UserError ? opener.error(error.message, error) : error;
  }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

function makePackage(
  opener: Opener,
  manifest: Manifest,
  hash: string,
  files: Files,
  programs: ReadonlyMap<string, Program>,
): Package {
  const parameters = new Map(manifest.parameters.map((parameter) => [parameter.name, parameter]));
  const weightFiles: WeightFiles = {
    model: path.join(opener.root, MODEL),
    safetensors: path.join(opener.root, WEIGHTS),
    what: `package ${opener.shown}`,
  };
  const listed = (file: string): FileEntry => {
    const entry = files.get(file);
    invariant(entry !== undefined, `the package has no file ${file}`);
    return entry;
  };
  const parameter = (name: string): ParameterEntry => {
    const entry = parameters.get(name);
    if (entry === undefined)
      throw new UserError(
        `package ${opener.shown} has no parameter ${JSON.stringify(name)}`,
        `list them: ithaca inspect ${opener.shown}`,
      );
    return entry;
  };
  return {
    directory: opener.root,
    manifest,
    hash,
    program: (name) => {
      const program = programs.get(name);
      if (program === undefined)
        throw opener.error(`it has no program ${JSON.stringify(name)}, only ${manifest.programs.join(', ')}`);
      return program;
    },
    file: (file) => opener.locate(listed(file).path),
    bytes: (file) => {
      const { sha256: expected } = listed(file);
      const bytes = readWhole(opener.locate(file));
      const found = sha256(bytes);
      if (found !== expected) throw changed(opener, file, found, expected);
      return bytes;
    },
    parameter,
    readParameter: (name) => {
      const entry = parameter(name);
      checkStored(weightFiles, entry);
      const target = allocate(opener, entry);
      readWeight(weightFiles, entry, target, 0);
      return target;
    },
    readParameterInto: (name, target, firstElement = 0) =>
      readWeight(weightFiles, parameter(name), target, firstElement),
  };
}

/** For an entry whose bytes are known to be there: a shape alone allocates nothing. */
function allocate(opener: Opener, entry: ParameterEntry): Float32Array {
  const elements = elementsOf(entry);
  try {
    return new Float32Array(elements);
  } catch (cause) {
    throw opener.error(`parameter ${entry.name} has ${elements} elements, more than one array holds`, cause);
  }
}
