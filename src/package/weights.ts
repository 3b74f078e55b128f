import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import path from 'node:path';
import { invariant, unreachable, UserError } from '../errors.js';
import { floatBytes, readFloats, type StoredFloat } from '../files/floats.js';
import { errorCode, explainReadError } from '../files/fs-errors.js';
import { readFully } from '../files/pieces.js';
import { SafetensorsReader } from '../files/safetensors.js';
import type { ParameterEntry, WeightLocation } from './manifest.js';

/** Elements of a parameter. @throws UserError above 2^50 (more than any disk) */
export function elementsOf({ name, shape }: ParameterEntry): number {
  let elements = 1;
  for (const size of shape) {
    elements *= size;
    if (elements > 2 ** 50)
      throw new UserError(`parameter ${name} has an absurd shape [${shape.join(', ')}]`);
  }
  return elements;
}

/**
 * Refuses a location whose length is not that of the parameter's shape, or that lies outside the model.
 * @param modelBytes size of the package's copy of the model
 * @throws UserError
 */
export function checkWeight(parameter: ParameterEntry, modelBytes: number): void {
  const { name, weight } = parameter;
  const elements = elementsOf(parameter);
  if (weight.kind !== 'model' && weight.kind !== 'external') return;
  const width = floatBytes(weight.dtype);
  if (width === undefined) throw new UserError(`parameter ${name} has element type ${weight.dtype}`);
  if (weight.bytes !== elements * width)
    throw new UserError(`parameter ${name} has ${weight.bytes} bytes, its shape needs ${elements * width}`);
  const end = weight.offset + weight.bytes;
  if (weight.kind === 'model' && end > modelBytes)
    throw new UserError(`parameter ${name} ends at byte ${end} of a model of ${modelBytes} bytes`);
  if (weight.kind === 'external' && (!path.isAbsolute(weight.file) || weight.file.includes('\0')))
    throw new UserError(`parameter ${name} is in ${JSON.stringify(weight.file)}, expected an absolute path`);
}

/** Files of an open package that weights are read from. */
export interface WeightFiles {
  /** Absolute paths. */
  readonly model: string;
  readonly safetensors: string;
  /** How the package is called in messages. */
  readonly what: string;
}

/**
 * Refuses a parameter whose value is not there in full, before memory is allocated for it.
 * @throws UserError
 */
export function checkStored(files: WeightFiles, parameter: ParameterEntry): void {
  withStored(files, parameter, () => undefined);
}

/**
 * Fills `target` with the row-major elements `first … first + target.length` of a parameter, as float32 (f16
 * and bf16 exactly, f64 rounded).
 * @throws UserError when the data is absent or too short
 */
export function readWeight(
  files: WeightFiles,
  parameter: ParameterEntry,
  target: Float32Array,
  first: number,
): void {
  invariant(
    first >= 0 && first + target.length <= elementsOf(parameter),
    `range outside parameter ${parameter.name}`,
  );
  withStored(files, parameter, (stored) => stored.read(target, first));
}

/** A parameter's bytes, known to be there. */
interface Stored {
  read(target: Float32Array, first: number): void;
}

function withStored(files: WeightFiles, parameter: ParameterEntry, use: (stored: Stored) => void): void {
  const { name, weight } = parameter;
  const what = `${files.what}: parameter ${name}`;
  switch (weight.kind) {
    case 'model':
      return withRange(files.model, what, weight, use);
    case 'external':
      return withRange(weight.file, what, weight, use);
    case 'safetensors':
      return withSafetensors(files.safetensors, parameter, use);
    case 'absent':
      throw new UserError(
        `${files.what} was compiled without weights: parameter ${name} has no initial value`,
        'compile the model again without --no-weights, or resume from a checkpoint',
      );
    default:
      unreachable(weight);
  }
}

function withSafetensors(file: string, { name, shape }: ParameterEntry, use: (stored: Stored) => void): void {
  const reader = SafetensorsReader.open(file);
  try {
    const found = reader.info(name).shape;
    if (found.join() !== shape.join())
      throw new UserError(
        `${file}: ${name} has shape [${found.join(', ')}], expected [${shape.join(', ')}]`,
        'compile the model again',
      );
    use({ read: (target, first) => reader.readRange(name, first, target) });
  } finally {
    reader.close();
  }
}

type StoredRange = Extract<WeightLocation, { kind: 'model' | 'external' }>;

function withRange(file: string, what: string, at: StoredRange, use: (stored: Stored) => void): void {
  const width = floatBytes(at.dtype);
  invariant(width !== undefined, `${what} was not checked`);
  const descriptor = openFile(file, what);
  try {
    const stats = fstatSync(descriptor);
    if (!stats.isFile())
      throw new UserError(`${what}: ${file} is not a regular file`, 'compile the model again');
    if (at.offset + at.bytes > stats.size)
      throw new UserError(
        `${what}: ${file} is too short (${stats.size} bytes, ${at.offset + at.bytes} are needed)`,
        'the file is truncated or was replaced: compile the model again',
      );
    const read = (target: Float32Array, first: number): void => {
      const position = at.offset + first * width;
      const fill = (bytes: Uint8Array, offset: number): void => {
        const count = readFully(descriptor, bytes, position + offset);
        if (count < bytes.length)
          throw new UserError(`${file} ends at byte ${position + offset + count}`, 'the file is truncated');
      };
      readFloats(at.dtype as StoredFloat, target, fill);
    };
    use({ read });
  } finally {
    closeSync(descriptor);
  }
}

function openFile(file: string, what: string): number {
  try {
    // A pipe would block the open itself.
    return openSync(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw explainReadError(error, file);
    throw new UserError(
      `${what}: its file ${file} is missing`,
      'put the file back, or compile the model again where it lies now',
      { cause: error },
    );
  }
}
