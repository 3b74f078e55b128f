import { readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { invariant, UserError } from '../errors.js';
import {
  digestFile,
  removeAbandonedTemporaries,
  removeDirectoryAtomic,
  writeDirectoryAtomic,
  type FileDigest,
} from '../files/atomic.js';
import { explainReadError, explainWriteError, statIfPresent } from '../files/fs-errors.js';
import { SafetensorsReader, writeSafetensors, type SafetensorsEntry } from '../files/safetensors.js';

/**
 *     run/checkpoints/step-000050/
 *       weights.safetensors     every parameter, float32
 *       optimizer.safetensors   `m/<parameter>` and `v/<parameter>`, float32
 *       state.json              {@link CheckpointState}
 *       manifest.json           sha256 and size of the three
 *
 * Tensors are whole, whatever the ZeRO stage: any number of ranks can resume. The directory is filled under a
 * temporary name, hashed and renamed, so one that has its name and its manifest is complete.
 */

const FORMAT = 'ithaca-checkpoint';
const FORMAT_VERSION = 1;
const STEP_DIRECTORY = /^step-(\d{6,})$/;
const MAX_JSON_BYTES = 1 << 24;

const count = z.int().nonnegative();
const hash = z.string().regex(/^[0-9a-f]{64}$/);

const stateSchema = z.strictObject({
  version: z.literal(FORMAT_VERSION),
  /** updates done */
  step: count,
  seed: z.int(),
  /** sha256 of the package's manifest */
  packageHash: hash,
  data: z.strictObject({
    epoch: count,
    index: count,
    /** `Corpus.fingerprint` */
    fingerprint: hash,
  }),
  optimizer: z.strictObject({
    kind: z.literal('adamw'),
    beta1: z.number(),
    beta2: z.number(),
    epsilon: z.number(),
    weightDecay: z.number(),
    /** largest global gradient norm; null: no clipping */
    clipNorm: z.number().nullable(),
    schedule: z.strictObject({
      kind: z.enum(['cosine', 'linear', 'constant']),
      peak: z.number(),
      warmupSteps: count,
      totalSteps: count,
      minRatio: z.number(),
    }),
  }),
});

const fileSchema = z.strictObject({ sha256: hash, bytes: count });
const manifestSchema = z.strictObject({
  format: z.literal(FORMAT),
  version: z.literal(FORMAT_VERSION),
  files: z.strictObject({
    'weights.safetensors': fileSchema,
    'optimizer.safetensors': fileSchema,
    'state.json': fileSchema,
  }),
});
type Manifest = z.infer<typeof manifestSchema>;
const FILES = Object.keys(manifestSchema.shape.files.shape) as (keyof Manifest['files'])[];

/** All that a run needs to go on, apart from tensors. */
export type CheckpointState = Readonly<Omit<z.infer<typeof stateSchema>, 'version'>>;

type Source = SafetensorsEntry['data'];

/** A trained parameter, row-major and whole; a function is called when its turn to be written has come, and may give pieces. */
export interface ParameterState {
  readonly name: string;
  readonly shape: readonly number[];
  readonly weight: Source;
  /** first and second moment of AdamW; absent for a frozen parameter */
  readonly m?: Source;
  readonly v?: Source;
}

export interface SaveOptions {
  /** How many checkpoints stay, this one included; default 2. */
  readonly keep?: number;
}

/**
 * Saves `run/checkpoints/step-<step>` and removes the oldest beyond `keep`. Checkpoints of later steps, left by a
 * run that was resumed from an earlier one, are not touched until the run reaches them.
 * @returns the checkpoint's directory
 * @throws UserError when the disk is full or not writable: nothing of it stays, older checkpoints are as they were
 */
export async function saveCheckpoint(
  run: string,
  state: CheckpointState,
  parameters: Iterable<ParameterState>,
  { keep = 2 }: SaveOptions = {},
): Promise<string> {
  invariant(keep >= 1, `keep ${keep} checkpoints`);
  const all = [...parameters];
  const parent = path.join(run, 'checkpoints');
  const directory = path.join(parent, `step-${String(state.step).padStart(6, '0')}`);
  await makeDirectory(parent);
  await removeAbandonedTemporaries(parent);
  await writeDirectoryAtomic(directory, (temporary) => fill(temporary, state, all), {
    replace: true,
    isOurs: holdsOurFilesOnly,
  });
  const older = listCheckpoints(run).filter(({ step }) => step <= state.step);
  for (const old of older.slice(0, -keep)) await removeDirectoryAtomic(old.directory);
  return directory;
}

export interface CheckpointEntry {
  readonly step: number;
  readonly directory: string;
}

/** The complete checkpoints of a run, by rising step; none when there is no such run. */
export function listCheckpoints(run: string): readonly CheckpointEntry[] {
  const parent = path.join(run, 'checkpoints');
  if (statIfPresent(parent)?.isDirectory() !== true) return [];
  const found: CheckpointEntry[] = [];
  for (const name of readdirSync(parent)) {
    const digits = STEP_DIRECTORY.exec(name)?.[1];
    const directory = path.join(parent, name);
    const manifest = statIfPresent(path.join(directory, 'manifest.json'));
    if (digits !== undefined && manifest?.isFile() === true) found.push({ step: Number(digits), directory });
  }
  return found.sort((a, b) => a.step - b.step);
}

/** A checkpoint whose files were checked. Close it when its tensors are read. */
export interface Checkpoint {
  readonly directory: string;
  readonly state: CheckpointState;
  /** by parameter name */
  readonly weights: SafetensorsReader;
  /** `m/<parameter>` and `v/<parameter>` */
  readonly optimizer: SafetensorsReader;
  close(): void;
}

/**
 * Opens a checkpoint, or the latest one of a run.
 * @param target `run/` or `run/checkpoints/step-000050`
 * @throws UserError when there is none, or a file of it is cut short, altered or of another version; the hint
 *   names the checkpoint before it, if there is one
 */
export async function loadCheckpoint(target: string): Promise<Checkpoint> {
  const directory = findCheckpoint(target);
  try {
    return await open(directory);
  } catch (error) {
    if (error instanceof UserError) throw new UserError(error.message, recovery(directory), { cause: error });
    throw error;
  }
}

/** A checkpoint of the same step is replaced even when it is damaged. */
function holdsOurFilesOnly(directory: string): boolean {
  const ours: readonly string[] = [...FILES, 'manifest.json'];
  return readdirSync(directory).every((name) => ours.includes(name));
}

async function makeDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true });
  } catch (error) {
    throw explainWriteError(error, directory);
  }
}

async function fill(directory: string, state: CheckpointState, parameters: readonly ParameterState[]) {
  const tensor = (name: string, shape: readonly number[], data: Source) =>
    ({ name, dtype: 'F32', shape, data }) as const;
  await writeSafetensors(
    path.join(directory, 'weights.safetensors'),
    parameters.map(({ name, shape, weight }) => tensor(name, shape, weight)),
  );
  await writeSafetensors(
    path.join(directory, 'optimizer.safetensors'),
    parameters.flatMap(({ name, shape, m, v }) => [
      ...(m === undefined ? [] : [tensor(`m/${name}`, shape, m)]),
      ...(v === undefined ? [] : [tensor(`v/${name}`, shape, v)]),
    ]),
  );
  await writeJson(
    path.join(directory, 'state.json'),
    stateSchema.parse({ version: FORMAT_VERSION, ...state }),
  );
  const files: [string, FileDigest][] = [];
  for (const file of FILES) files.push([file, await digestFile(path.join(directory, file))]);
  const manifest = { format: FORMAT, version: FORMAT_VERSION, files: Object.fromEntries(files) };
  await writeJson(path.join(directory, 'manifest.json'), manifestSchema.parse(manifest));
}

async function writeJson(file: string, value: object): Promise<void> {
  await writeFile(file, `${JSON.stringify(value, null, 2)}\n`);
}

function findCheckpoint(target: string): string {
  const latest = listCheckpoints(target).at(-1);
  if (latest !== undefined) return latest.directory;
  if (statIfPresent(path.join(target, 'manifest.json'))?.isFile() === true) return target;
  if (statIfPresent(target) === undefined) {
    throw new UserError(
      `${target} does not exist`,
      'give the folder of a run (train --out) or of a checkpoint',
    );
  }
  throw new UserError(
    `${target} holds no complete checkpoint`,
    'expected checkpoints/step-…/manifest.json in it, as train --out makes them',
  );
}

async function open(directory: string): Promise<Checkpoint> {
  const manifest = readJson(path.join(directory, 'manifest.json'), manifestSchema);
  for (const file of FILES) checkSize(path.join(directory, file), manifest.files[file].bytes);
  for (const file of FILES) await checkHash(path.join(directory, file), manifest.files[file]);
  const { version: _, ...state } = readJson(path.join(directory, 'state.json'), stateSchema);
  const weights = SafetensorsReader.open(path.join(directory, 'weights.safetensors'));
  try {
    const optimizer = SafetensorsReader.open(path.join(directory, 'optimizer.safetensors'));
    const close = (): void => {
      weights.close();
      optimizer.close();
    };
    return { directory, state, weights, optimizer, close };
  } catch (error) {
    weights.close();
    throw error;
  }
}

/** Sizes first: a file cut short is named without reading gigabytes. */
function checkSize(file: string, bytes: number): void {
  const stats = statIfPresent(file);
  if (stats === undefined) throw new UserError(`${file} is missing`);
  if (!stats.isFile()) throw new UserError(`${file} is not a regular file`);
  if (stats.size < bytes) throw new UserError(`${file} is cut short: ${stats.size} of ${bytes} bytes`);
  if (stats.size > bytes) throw new UserError(`${file} was altered: ${stats.size} bytes, expected ${bytes}`);
}

async function checkHash(file: string, expected: FileDigest): Promise<void> {
  const { sha256 } = await digestFile(file);
  if (sha256 !== expected.sha256)
    throw new UserError(`${file} was altered: its sha256 is not the manifest's`);
}

function readJson<Schema extends z.ZodType>(file: string, schema: Schema): z.infer<Schema> {
  let json: unknown;
  try {
    const { size } = statSync(file);
    if (size > MAX_JSON_BYTES) throw new UserError(`${file} has ${size} bytes, too many`);
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new UserError(`${file} is cut short or altered: it is not JSON`, undefined, { cause: error });
    }
    throw explainReadError(error, file);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const key = issue === undefined || issue.path.length === 0 ? '' : `${issue.path.join('.')}: `;
  throw new UserError(`${file} does not fit this version of ithaca: ${key}${issue?.message ?? 'invalid'}`);
}

/** What to do about a damaged checkpoint: the one before it, in the same run. */
function recovery(directory: string): string {
  const run = path.dirname(path.dirname(path.resolve(directory)));
  const step = Number(STEP_DIRECTORY.exec(path.basename(directory))?.[1] ?? 0);
  const before = listCheckpoints(run).findLast((entry) => entry.step < step);
  if (before === undefined) return 'there is no earlier checkpoint in this run: start it again';
  return `resume from the one before: --resume ${path.relative('', before.directory) || before.directory}`;
}
