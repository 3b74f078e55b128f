/** Writes a trained model: the source file's own bytes, with the weights replaced. */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { UserError } from '../../errors.js';
import { PIECE_BYTES, rangesOf } from '../../files/pieces.js';
import { attempt, fileError, openFileRanges } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { openedModel, readOnnxModel } from './decode.js';
import type { OpenedModel } from './decode.js';
import { isFloat } from './dtype.js';
import type { OnnxInitializer } from './model.js';
import { patch, withLengths, withoutDuplicates, writePatched } from './patch.js';
import type { Edit, Patch } from './patch.js';
import type { ScannedTensor } from './scan.js';
import { encodeFloats } from './tensor.js';
import { concat, encodeField, encodeString, encodeVarint } from './wire.js';

/** New values of a parameter, in the initializer's own shape and layout; read once or twice, when written. */
export interface WeightValues {
  readonly elements: number;
  /** Fills `target` with the row-major elements from `start` on. */
  read(start: number, target: Float32Array): void;
}

/** Values at hand. */
export const weightValues = (values: Float32Array): WeightValues => ({
  elements: values.length,
  read: (start, target) => target.set(values.subarray(start, start + target.length)),
});

/**
 * Copies the model to `outPath` with new weights; bytes outside the weights stay the same. External data goes
 * to files of the same relative names beside the output, or, where one of these exists already, to
 * `<output>.data`, with the model's `location` entries changed. The files appear all at once, or not at all.
 * @param weights by initializer name, or output name of a Constant node; others keep their values
 * @throws UserError for an unknown or non-floating weight, a wrong length, an output that would overwrite the
 *   source, or a full disk
 * @param pieceBytes how much of a weight is in memory at a time
 */
export function writeTrainedModel(
  sourcePath: string,
  outPath: string,
  weights: ReadonlyMap<string, WeightValues>,
  pieceBytes: number = PIECE_BYTES,
): void {
  const opened = openedModel(readOnnxModel(sourcePath, { weights: true }));
  const folder = attempt(outPath, 'folder of the output', () => realpathSync(dirname(resolve(outPath))));
  const out = join(folder, basename(outPath));
  if (existsSync(out) && statSync(out).isDirectory()) {
    throw new UserError(`${outPath}: is a folder`, 'give the path of the model file to write');
  }
  if (existsSync(out) && realpathSync(out) === realpathSync(sourcePath)) {
    throw new UserError(`${outPath}: is the source model itself`, 'choose another output path');
  }
  const targets = dataTargets(opened, out);
  const edits: Edit[] = [];
  const dataPatches = new Map<string, Patch[]>([...targets.keys()].map((file) => [file, []]));
  for (const [name, values] of weights) {
    addWeight(stored(opened, name), values, { edits, dataPatches, pieceBytes });
  }
  edits.push(...locationEdits(opened, targets, weights));
  const files: OutputFile[] = [...targets].map(([file, { path }]) => ({
    path,
    source: openFileRanges(file, 'external data'),
    patches: withoutDuplicates(file, dataPatches.get(file) ?? []),
  }));
  files.push({ path: out, source: opened.source, patches: withLengths(opened.source, edits) });
  writeTogether(files);
}

/** An initializer, or a constant, with its place in the file. */
interface StoredWeight {
  readonly name: string;
  readonly tensor: OnnxInitializer;
  readonly scanned: ScannedTensor;
}

function stored(opened: OpenedModel, name: string): StoredWeight {
  const { model, tensors } = opened;
  const constant = model.nodes.find((node) => node.opType === 'Constant' && node.outputs[0] === name);
  const attribute = constant?.attributes.get('value');
  const tensor = model.initializers.get(name) ?? (attribute?.kind === 'tensor' ? attribute.value : undefined);
  const scanned = tensor === undefined ? undefined : tensors.get(tensor);
  if (tensor === undefined || scanned === undefined) {
    throw new UserError(
      `${model.path}: has no initializer or constant tensor '${name}'`,
      'export to the model that the run was compiled from',
    );
  }
  if (!isFloat(tensor.dtype)) {
    throw new UserError(
      `${model.path}: '${name}' has element type ${tensor.dtype}, expected a floating type`,
    );
  }
  return { name, tensor, scanned };
}

/** Where the changes of a weight go, and how they are made. */
interface Changes {
  readonly edits: Edit[];
  readonly dataPatches: ReadonlyMap<string, Patch[]>;
  readonly pieceBytes: number;
}

function addWeight(
  { name, tensor, scanned }: StoredWeight,
  values: WeightValues,
  { edits, dataPatches, pieceBytes }: Changes,
): void {
  const what = `'${name}'`;
  if (values.elements !== tensor.elementCount) {
    throw new UserError(
      `the trained weight ${what} has ${values.elements} elements, the model's has ${tensor.elementCount}`,
      'export to the model that the run was compiled from',
    );
  }
  function* produce(): Generator<Uint8Array> {
    const piece = new Float32Array(Math.min(values.elements, Math.max(1, Math.floor(pieceBytes / 4))));
    for (const { start, end } of rangesOf(values.elements, piece.length)) {
      const part = piece.subarray(0, end - start);
      values.read(start, part);
      yield encodeFloats(name, tensor.dtype, part);
    }
  }
  const { location, bytes } = tensor;
  if (bytes === 0) return;
  switch (location.kind) {
    case 'inline': {
      const { offset, length } = location;
      edits.push({ message: scanned.message, start: offset, end: offset + length, length, what, produce });
      return;
    }
    case 'external': {
      const { offset, length } = location;
      const list = dataPatches.get(realpathSync(location.file));
      list?.push({ start: offset, end: offset + length, length, what, produce });
      return;
    }
    case 'fields':
      edits.push(...rawDataEdits(scanned, bytes, what, produce));
  }
}

/** Replaces typed fields by one `raw_data` field. */
function rawDataEdits(
  { message, data }: ScannedTensor,
  bytes: number,
  what: string,
  produce: () => Iterable<Uint8Array>,
): Edit[] {
  const header = concat([encodeVarint(9 * 8 + 2), encodeVarint(bytes)]);
  function* field(): Generator<Uint8Array> {
    yield header;
    yield* produce();
  }
  return data.map((span, index) => ({
    message,
    start: span.tagAt,
    end: span.end,
    length: index === 0 ? header.length + bytes : 0,
    what,
    produce: index === 0 ? field : () => [],
  }));
}

interface DataTarget {
  /** Absolute path to write. */
  readonly path: string;
  /** The new `location`, undefined where it stays as it is. */
  readonly location: string | undefined;
}

/** Where each data file of the source goes, by its real path. */
function dataTargets({ model, tensors }: OpenedModel, out: string): ReadonlyMap<string, DataTarget> {
  const spelled = new Map<string, string>();
  for (const { location } of tensors.keys()) {
    if (location.kind === 'external') spelled.set(realpathSync(location.file), location.relativePath);
  }
  const folder = dirname(out);
  const names = [...spelled.values()];
  if (names.every((name) => !existsSync(join(folder, name)) && join(folder, name) !== out)) {
    const kept = [...spelled].map(
      ([file, name]) => [file, { path: join(folder, name), location: undefined }] as const,
    );
    return new Map(kept);
  }
  const renamed = [...spelled.keys()].map((file, index) => {
    const location = `${basename(out)}.data${index === 0 ? '' : index}`;
    const path = join(folder, location);
    if (existsSync(path) && spelled.has(realpathSync(path))) {
      throw new UserError(
        `${path}: holds the weights of the source model ${model.path}`,
        'choose an output of another name, or in another folder',
      );
    }
    return [file, { path, location }] as const;
  });
  return new Map(renamed);
}

/** Changes `location` entries, and drops checksums of data that changes. */
function locationEdits(
  { tensors }: OpenedModel,
  targets: ReadonlyMap<string, DataTarget>,
  weights: ReadonlyMap<string, WeightValues>,
): Edit[] {
  const edits: Edit[] = [];
  for (const [{ location }, { message, external }] of tensors) {
    if (location.kind !== 'external') continue;
    const renamed = targets.get(realpathSync(location.file))?.location;
    for (const { key, tagAt, end } of external) {
      const entry =
        key === 'location' && renamed !== undefined
          ? encodeField(13, concat([encodeString(1, key), encodeString(2, renamed)]))
          : key === 'checksum' && weights.size > 0
            ? new Uint8Array(0)
            : undefined;
      if (entry !== undefined) edits.push({ message, ...patch(tagAt, end, entry, key) });
    }
  }
  return edits;
}

interface OutputFile {
  readonly path: string;
  readonly source: ByteSource;
  readonly patches: readonly Patch[];
}

/** Writes each file under a temporary name, then renames them, the last one last; a failure leaves nothing. */
function writeTogether(files: readonly OutputFile[]): void {
  const suffix = `.tmp-${process.pid}-${randomBytes(4).toString('hex')}`;
  const created: string[] = [];
  try {
    for (const { path, source, patches } of files) {
      const folder = mkdirSync(dirname(path), { recursive: true });
      if (folder !== undefined) created.push(folder);
      created.push(path + suffix);
      const fd = openSync(path + suffix, 'wx');
      try {
        writePatched(source, fd, patches);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
    }
    for (const { path } of files) renameSync(path + suffix, path);
  } catch (error) {
    for (const path of created) rmSync(path, { recursive: true, force: true });
    if (error instanceof Error && 'syscall' in error) {
      throw fileError(files.at(-1)?.path ?? '', 'output', error);
    }
    throw error;
  }
}
