import path from 'node:path';
import { invariant, UserError } from '../errors.js';
import { digestFile } from '../files/atomic.js';
import { statIfPresent } from '../files/fs-errors.js';
import { PIECE_BYTES, rangesOf, tilesOf } from '../files/pieces.js';
import { SafetensorsStreamWriter, type SafetensorsReader } from '../files/safetensors.js';
import { writeTrainedModel, type WeightValues } from '../ir/onnx/write.js';
import type { ParameterEntry } from '../package/manifest.js';
import { MODEL } from '../package/paths.js';
import type { Package } from '../package/read.js';
import { listCheckpoints } from '../runtime/checkpoint.js';

/** Directory of the checkpoint of a step, or the run itself for its latest. @throws UserError when there is none */
export function checkpointOf(run: string, step: number | undefined): string {
  if (step === undefined) return run;
  const all = listCheckpoints(run);
  const found = all.find((entry) => entry.step === step);
  if (found !== undefined) return found.directory;
  throw new UserError(
    `${run} holds no checkpoint of step ${step}`,
    all.length === 0
      ? 'it holds none at all'
      : `it holds those of steps ${all.map((entry) => entry.step).join(', ')}`,
  );
}

/**
 * Writes the source model with the trained weights in place of its own.
 * @param model the source model, if its external data is no longer where the package says
 */
export async function exportOnnx(
  pkg: Package,
  weights: SafetensorsReader,
  out: string,
  { model, pieceBytes }: { readonly model?: string; readonly pieceBytes?: number } = {},
): Promise<void> {
  const values = new Map<string, WeightValues>();
  for (const parameter of pkg.manifest.parameters) {
    if (!parameter.trainable) continue;
    checkWeight(parameter, weights);
    const { name } = parameter;
    values.set(name, {
      elements: weights.info(name).elements,
      read: (start, target) => weights.readRange(name, start, target),
    });
  }
  writeTrainedModel(await sourceModel(pkg, model), out, values, pieceBytes);
}

/**
 * The model file that weights are written into. The package's own copy will do, unless weights are in external
 * data: that is found relative to the original, so the original is looked for beside it and above.
 * @throws UserError when it is not there any more
 */
async function sourceModel(pkg: Package, given: string | undefined): Promise<string> {
  const { file, sha256 } = pkg.manifest.source;
  if (given !== undefined) {
    if ((await digestFile(given)).sha256 === sha256) return given;
    throw new UserError(`${given} is not the model that the package was compiled from`, `expected ${file}`);
  }
  const external = pkg.manifest.parameters.flatMap(({ weight }) =>
    weight.kind === 'external' ? [weight.file] : [],
  );
  const [first] = external;
  if (first === undefined) return pkg.file(MODEL);
  for (let folder = path.dirname(first); ; folder = path.dirname(folder)) {
    const candidate = path.join(folder, file);
    if (statIfPresent(candidate)?.isFile() === true && (await digestFile(candidate)).sha256 === sha256)
      return candidate;
    if (folder === path.dirname(folder)) break;
  }
  throw new UserError(
    `the model ${file}, whose weights are in ${first}, is no longer beside them`,
    `name it: --model path/to/${file}`,
  );
}

/**
 * Writes every parameter under its torch name and in torch's layout, where they are known, else under the
 * initialiser's name. A tied copy is written if torch has another name for it, as its state dict does.
 * @returns names of parameters without a known torch name
 */
export async function exportSafetensors(
  pkg: Package,
  weights: SafetensorsReader,
  out: string,
  pieceBytes: number = PIECE_BYTES,
): Promise<readonly string[]> {
  const entries = new Map<string, StoredParameter>();
  const unnamed: string[] = [];
  const { parameters } = pkg.manifest;
  const primaries = parameters.filter((p) => p.tiedTo === undefined);
  const copies = parameters.filter((p) => p.tiedTo !== undefined);
  for (const parameter of [...primaries, ...copies]) {
    checkWeight(parameter, weights);
    const { torchName } = parameter;
    if (parameter.tiedTo !== undefined && (torchName === undefined || entries.has(torchName))) continue;
    const free = torchName !== undefined && !entries.has(torchName);
    const name = free ? torchName : parameter.name;
    if (!free) unnamed.push(parameter.name);
    invariant(!entries.has(name), `two parameters are called ${name}`);
    const transposed = free && parameter.torchLayout === 'transposed';
    entries.set(name, { parameter, transposed });
  }
  const declared = [...entries].map(([name, { parameter, transposed }]) => ({
    name,
    dtype: 'F32' as const,
    shape: transposed ? [...parameter.shape].reverse() : parameter.shape,
  }));
  const writer = await SafetensorsStreamWriter.create(out, declared, new Map([['format', 'pt']]));
  try {
    for (const [name, { parameter, transposed }] of entries)
      (transposed ? copyTransposed : copy)(weights, parameter, writer, name, pieceBytes);
  } catch (error) {
    await writer.abort();
    throw error;
  }
  await writer.commit();
  return unnamed;
}

/** A parameter on its way into a file. */
interface StoredParameter {
  readonly parameter: ParameterEntry;
  readonly transposed: boolean;
}

type Copy = (
  weights: SafetensorsReader,
  parameter: ParameterEntry,
  writer: SafetensorsStreamWriter,
  name: string,
  pieceBytes: number,
) => void;

const copy: Copy = (weights, parameter, writer, name, pieceBytes) => {
  const { elements } = weights.info(parameter.name);
  const piece = new Float32Array(Math.min(elements, Math.max(1, Math.floor(pieceBytes / 4))));
  for (const { start, end } of rangesOf(elements, piece.length)) {
    const part = piece.subarray(0, end - start);
    weights.readRange(parameter.name, start, part);
    writer.writeAt(name, start, part);
  }
};

/** Of a matrix, tile by tile; torch keeps the weights of a linear layer as [out, in]. */
const copyTransposed: Copy = (weights, parameter, writer, name, pieceBytes) => {
  const [rows, columns] = parameter.shape;
  invariant(
    parameter.shape.length === 2 && rows !== undefined && columns !== undefined,
    `${parameter.name} is no matrix`,
  );
  const elements = Math.max(1, Math.floor(pieceBytes / 8));
  const [from, to] = [new Float32Array(elements), new Float32Array(elements)];
  for (const tile of tilesOf(rows, columns, elements)) {
    for (let r = 0; r < tile.rows; r++) {
      const line = from.subarray(r * tile.columns, (r + 1) * tile.columns);
      weights.readRange(parameter.name, (tile.row + r) * columns + tile.column, line);
    }
    for (let r = 0; r < tile.rows; r++)
      for (let c = 0; c < tile.columns; c++) to[c * tile.rows + r] = from[r * tile.columns + c]!;
    for (let c = 0; c < tile.columns; c++)
      writer.writeAt(
        name,
        (tile.column + c) * rows + tile.row,
        to.subarray(c * tile.rows, (c + 1) * tile.rows),
      );
  }
};

function checkWeight({ name, shape }: ParameterEntry, weights: SafetensorsReader): void {
  const info = weights.info(name);
  if (info.shape.join() !== shape.join())
    throw new UserError(
      `${weights.path}: ${name} has shape [${info.shape.join(', ')}], the package has [${shape.join(', ')}]`,
      'export with the package that the run was made with',
    );
}
