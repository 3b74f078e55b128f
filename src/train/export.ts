import path from 'node:path';
import { invariant, UserError } from '../errors.js';
import { digestFile } from '../files/atomic.js';
import { statIfPresent } from '../files/fs-errors.js';
import { writeSafetensors, type SafetensorsEntry, type SafetensorsReader } from '../files/safetensors.js';
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
  model?: string,
): Promise<void> {
  const values = new Map<string, WeightValues>();
  for (const parameter of pkg.manifest.parameters) {
    if (!parameter.trainable) continue;
    checkWeight(parameter, weights);
    values.set(parameter.name, { read: () => readFloats(weights, parameter) });
  }
  writeTrainedModel(await sourceModel(pkg, model), out, values);
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
): Promise<readonly string[]> {
  const entries = new Map<string, SafetensorsEntry>();
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
    entries.set(name, {
      name,
      dtype: 'F32',
      shape: transposed ? [...parameter.shape].reverse() : parameter.shape,
      data: () =>
        transposed ? transpose(readFloats(weights, parameter), parameter) : readFloats(weights, parameter),
    });
  }
  await writeSafetensors(out, entries.values(), new Map([['format', 'pt']]));
  return unnamed;
}

function checkWeight({ name, shape }: ParameterEntry, weights: SafetensorsReader): void {
  const info = weights.info(name);
  if (info.shape.join() !== shape.join())
    throw new UserError(
      `${weights.path}: ${name} has shape [${info.shape.join(', ')}], the package has [${shape.join(', ')}]`,
      'export with the package that the run was made with',
    );
}

function readFloats(weights: SafetensorsReader, { name }: ParameterEntry): Float32Array {
  const target = new Float32Array(weights.info(name).elements);
  weights.readInto(name, target);
  return target;
}

/** Of a matrix; torch keeps the weights of a linear layer as [out, in]. */
function transpose(data: Float32Array, { name, shape }: ParameterEntry): Float32Array {
  const [rows, columns] = shape;
  invariant(shape.length === 2 && rows !== undefined && columns !== undefined, `${name} is no matrix`);
  const out = new Float32Array(data.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c]!;
  return out;
}
