import { existsSync, realpathSync } from 'node:fs';
import { dirname, posix, resolve, sep, win32 } from 'node:path';
import { UserError } from '../../errors.js';
import { attempt, openFileRanges } from './bytes.js';
import type { ByteSource } from './bytes.js';
import type { OnnxLocation } from './model.js';

/** The files beside a model that hold its tensors, each checked to lie inside the model's folder. */
export interface ExternalFiles {
  /**
   * Checks an `external_data` record. @param bytes size of the tensor
   * @throws UserError when the path escapes, a number is malformed, or the file is absent (unless allowed) or
   *   too short
   */
  locate(
    tensor: string,
    entries: ReadonlyMap<string, string>,
    bytes: number,
  ): Extract<OnnxLocation, { kind: 'external' }>;
  /** The opened file of a location. @throws UserError when it is absent */
  open(tensor: string, location: Extract<OnnxLocation, { kind: 'external' }>): ByteSource;
}

/** @param required whether a missing file is an error when a tensor is located, not only when it is read */
export function externalFiles(modelPath: string, required: boolean): ExternalFiles {
  const folder = attempt(modelPath, 'ONNX model', () => realpathSync(dirname(resolve(modelPath))));
  const opened = new Map<string, ByteSource>();

  const openFile = (tensor: string, file: string): ByteSource => {
    const known = opened.get(file);
    if (known !== undefined) return known;
    const source = openFileRanges(file, `file with the external data of '${tensor}'`);
    opened.set(file, source);
    return source;
  };

  return {
    locate: (tensor, entries, bytes) => {
      const relativePath = entries.get('location') ?? '';
      const what = `${modelPath}: external data of '${tensor}'`;
      const lexical = resolve(folder, checkRelative(what, relativePath));
      const offset = parseCount(what, 'offset', entries.get('offset') ?? '0');
      const length = parseCount(what, 'length', entries.get('length') ?? String(bytes));
      if (length !== bytes) {
        throw new UserError(
          `${what} has length ${length}, its shape and type need ${bytes} bytes`,
          'the file is damaged: export the model again',
        );
      }
      if (!existsSync(lexical)) {
        if (required) throw missing(what, relativePath);
        return { kind: 'external', relativePath, file: lexical, offset, length };
      }
      const file = contained(what, folder, lexical, relativePath);
      const { size } = openFile(tensor, file);
      if (offset + length > size) {
        throw new UserError(
          `${what}: ${relativePath} has ${size} bytes, bytes ${offset} to ${offset + length} are needed`,
          'the file is truncated: download or export it again',
        );
      }
      return { kind: 'external', relativePath, file, offset, length };
    },
    open: (tensor, location) => {
      const what = `${modelPath}: external data of '${tensor}'`;
      if (!existsSync(location.file)) throw missing(what, location.relativePath);
      const source = openFile(tensor, contained(what, folder, location.file, location.relativePath));
      if (location.offset + location.length > source.size) {
        throw new UserError(
          `${what}: ${location.relativePath} is too short (${source.size} bytes)`,
          'the file is truncated: download or export it again',
        );
      }
      return source;
    },
  };
}

function missing(what: string, relativePath: string): UserError {
  return new UserError(
    `${what}: the file ${relativePath} is missing`,
    `put ${relativePath} beside the model, or compile with --no-weights`,
  );
}

/** Refuses whatever could leave the model's folder, on any operating system. */
function checkRelative(what: string, relativePath: string): string {
  const segments = relativePath.split(/[\\/]/);
  const shown = JSON.stringify(relativePath);
  const hint = 'external data must lie in the folder of the model, under a relative path';
  if (relativePath === '' || relativePath.includes('\0')) {
    throw new UserError(`${what} has no valid location (${shown})`, hint);
  }
  if (posix.isAbsolute(relativePath) || win32.isAbsolute(relativePath) || /^[A-Za-z]:/.test(relativePath)) {
    throw new UserError(`${what} has an absolute location (${shown})`, hint);
  }
  if (segments.includes('..')) {
    throw new UserError(`${what} escapes the model's folder (${shown})`, hint);
  }
  return relativePath;
}

/** Follows links; the real file must still lie in the model's real folder. */
function contained(what: string, folder: string, file: string, relativePath: string): string {
  const real = attempt(file, what, () => realpathSync(file));
  if (!real.startsWith(folder.endsWith(sep) ? folder : folder + sep)) {
    throw new UserError(
      `${what} escapes the model's folder: ${relativePath} is a link to a file outside`,
      'copy the file itself beside the model',
    );
  }
  return real;
}

function parseCount(what: string, key: string, text: string): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(value)) {
    throw new UserError(
      `${what}: ${key} is ${JSON.stringify(text)}, expected a byte count`,
      'the file is damaged: export the model again',
    );
  }
  return value;
}
