/** What another model gave the tokens of a document, for distillation: a few logits a token are kept. */
import { realpathSync } from 'node:fs';
import path from 'node:path';
import { UserError } from '../../errors.js';
import { explainReadError } from '../../files/fs-errors.js';
import { SafetensorsReader } from '../../files/safetensors.js';
import { NO_ID } from '../../ir/ops/distillation.js';
import type { LossEntry } from '../../package/manifest.js';
import type { Teacher } from './document.js';
import { shown } from './fields.js';

type Line = Readonly<Record<string, unknown>>;

export interface TeacherReader {
  /**
   * The `teacher` of a line: `{"ids": [[…], …], "logits": [[…], …]}`, a list of both for each token, or
   * `{"file": "t.safetensors", "logits": "logits.0"}`, a float tensor of [tokens, vocabulary], with
   * `"ids": "ids.0"`, an integer tensor beside it, where both are [tokens, k]. Files lie in the folder of the data.
   * Rows of more than K logits keep the largest K.
   * @param tokens of the document
   * @returns undefined when the line has none
   * @throws UserError naming the line
   */
  read(json: Line, file: string, at: string, tokens: number): Teacher | undefined;
  /** Frees the files. */
  close(): void;
}

const HINT =
  'a teacher is {"ids": [[…], …], "logits": [[…], …]}, or {"file": "….safetensors", "logits": "name"}';

export function teacherReader(loss: LossEntry): TeacherReader {
  const files = new Map<string, SafetensorsReader>();
  const open = (file: string, at: string, name: unknown): SafetensorsReader => {
    const real = insideFolder(path.dirname(file), name, at);
    const known = files.get(real) ?? SafetensorsReader.open(real);
    files.set(real, known);
    return known;
  };
  return {
    read: (json, file, at, tokens) => {
      if (!Object.hasOwn(json, 'teacher')) return undefined;
      const given = json['teacher'];
      if (typeof given !== 'object' || given === null || Array.isArray(given))
        throw new UserError(`${at}: teacher is ${shown(given)}`, HINT);
      const { file: name, ids, logits } = given as Line;
      const rows =
        name === undefined ? inlineRows(ids, logits, at) : storedRows(open(file, at, name), ids, logits, at);
      if (rows.count !== tokens)
        throw new UserError(
          `${at}: the teacher has logits for ${rows.count} tokens, the document has ${tokens}`,
          'give the logits of the same tokens, the first included',
        );
      return keepLargest(rows, tokens, loss, at);
    },
    close: () => {
      for (const file of files.values()) file.close();
    },
  };
}

/** @throws UserError when the name leaves the folder */
function insideFolder(folder: string, name: unknown, at: string): string {
  if (typeof name !== 'string' || name === '' || name.includes('\0') || path.isAbsolute(name))
    throw new UserError(`${at}: teacher.file is ${shown(name)}, expected a relative path`, HINT);
  let real: string;
  let root: string;
  try {
    [root, real] = [realpathSync(folder), realpathSync(path.resolve(folder, name))];
  } catch (error) {
    throw explainReadError(error, path.join(folder, name));
  }
  if (!real.startsWith(root.endsWith(path.sep) ? root : root + path.sep))
    throw new UserError(
      `${at}: teacher.file ${shown(name)} lies outside the folder of the data`,
      'put the teacher beside the data',
    );
  return real;
}

/** Rows of logits, one a token; ids are absent where a row has a logit for every id. */
interface Rows {
  readonly count: number;
  row(token: number): {
    readonly ids: ArrayLike<number | bigint> | undefined;
    readonly logits: ArrayLike<number>;
  };
}

function inlineRows(ids: unknown, logits: unknown, at: string): Rows {
  const [idRows, logitRows] = [
    ids === undefined ? undefined : listOf(ids, 'ids', at),
    listOf(logits, 'logits', at),
  ];
  if (idRows !== undefined && idRows.length !== logitRows.length)
    throw new UserError(
      `${at}: teacher has ${idRows.length} rows of ids, ${logitRows.length} of logits`,
      HINT,
    );
  const numbers = (row: unknown, key: string, token: number): readonly number[] => {
    if (!Array.isArray(row) || !row.every((x) => typeof x === 'number'))
      throw new UserError(
        `${at}: teacher.${key}[${token}] is ${shown(row)}, expected a list of numbers`,
        HINT,
      );
    return row;
  };
  return {
    count: logitRows.length,
    row: (token) => ({
      ids: idRows && numbers(idRows[token], 'ids', token),
      logits: numbers(logitRows[token], 'logits', token),
    }),
  };
}

function listOf(value: unknown, key: string, at: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw new UserError(`${at}: teacher.${key} is ${shown(value)}, expected a list for each token`, HINT);
}

function storedRows(reader: SafetensorsReader, ids: unknown, logits: unknown, at: string): Rows {
  const matrix = (name: unknown, key: string): readonly [string, number, number] => {
    if (typeof name !== 'string')
      throw new UserError(`${at}: teacher.${key} is ${shown(name)}, expected the name of a tensor`, HINT);
    if (!reader.tensors.has(name))
      throw new UserError(
        `${at}: ${reader.path} holds no tensor ${shown(name)}`,
        `its tensors are called like ${[...reader.tensors.keys()].slice(0, 3).join(', ')}`,
      );
    const { shape } = reader.info(name);
    const [rows, width, ...more] = shape;
    if (rows === undefined || width === undefined || more.length > 0)
      throw new UserError(
        `${at}: tensor ${shown(name)} of ${reader.path} has shape [${shape.join(', ')}], expected [tokens, logits]`,
        HINT,
      );
    return [name, rows, width];
  };
  const [name, count, width] = matrix(logits, 'logits');
  const own = ids === undefined ? undefined : matrix(ids, 'ids');
  if (own !== undefined && (own[1] !== count || own[2] !== width))
    throw new UserError(
      `${at}: the teacher's ids are [${own[1]}, ${own[2]}], its logits [${count}, ${width}]`,
      HINT,
    );
  const all = own && reader.read(own[0]);
  if (all instanceof Float32Array || all instanceof Float64Array)
    throw new UserError(`${at}: tensor ${shown(own![0])} holds floats, expected ids`, HINT);
  const target = new Float32Array(width);
  return {
    count,
    row: (token) => {
      reader.readRange(name, token * width, target);
      return { ids: all?.subarray(token * width, (token + 1) * width), logits: target };
    },
  };
}

/** The K largest logits of each row, largest first, and their ids; −1 where a row has fewer. */
function keepLargest(rows: Rows, tokens: number, { classes, distillation }: LossEntry, at: string): Teacher {
  const width = distillation!.topK;
  const kept = { ids: new Int32Array(tokens * width).fill(NO_ID), logits: new Float32Array(tokens * width) };
  for (let token = 0; token < tokens; token++) {
    const { ids, logits } = rows.row(token);
    const row = checkedRow(ids, logits, token, classes, at);
    const order = largest(logits, width);
    order.forEach((from, i) => {
      kept.ids[token * width + i] = row[from]!;
      kept.logits[token * width + i] = logits[from]!;
    });
  }
  return kept;
}

/** Ids of a row. @throws UserError for what is no distribution over ids of the vocabulary */
function checkedRow(
  ids: ArrayLike<number | bigint> | undefined,
  logits: ArrayLike<number>,
  token: number,
  classes: number,
  at: string,
): Int32Array {
  const fail = (what: string): never => {
    throw new UserError(`${at}: the teacher of token ${token} ${what}`, HINT);
  };
  if (logits.length === 0) fail('has no logits');
  if (ids === undefined && logits.length !== classes)
    fail(`has ${logits.length} logits without ids, the model has ${classes}`);
  if (ids !== undefined && ids.length !== logits.length)
    fail(`has ${ids.length} ids and ${logits.length} logits`);
  for (let i = 0; i < logits.length; i++)
    if (!Number.isFinite(Math.fround(logits[i]!))) fail(`has the logit ${logits[i]}`);
  const row = Int32Array.from({ length: logits.length }, (_, i) => (ids === undefined ? i : Number(ids[i])));
  row.forEach((id, i) => {
    const given = ids === undefined ? id : Number(ids[i]);
    if (given !== id || id < 0 || id >= classes)
      fail(`has the id ${given}, outside the vocabulary of ${classes}`);
  });
  if (ids !== undefined && new Set(row).size !== row.length) fail('has an id twice');
  return row;
}

/** Indices of the `k` largest elements, largest first, ties in order: a heap of k is enough. */
function largest(row: ArrayLike<number>, k: number): readonly number[] {
  const before = (a: number, b: number): boolean => row[a]! > row[b]! || (row[a] === row[b] && a < b);
  const heap: number[] = [];
  const sink = (): void => {
    for (let at = 0; ;) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2])
        if (child < heap.length && before(heap[least]!, heap[child]!)) least = child;
      if (least === at) return;
      [heap[at], heap[least]] = [heap[least]!, heap[at]!];
      at = least;
    }
  };
  for (let i = 0; i < row.length; i++) {
    if (heap.length < k) {
      heap.push(i);
      for (let at = heap.length - 1; at > 0;) {
        const parent = (at - 1) >> 1;
        if (!before(heap[parent]!, heap[at]!)) break;
        [heap[at], heap[parent]] = [heap[parent]!, heap[at]!];
        at = parent;
      }
    } else if (before(i, heap[0]!)) {
      heap[0] = i;
      sink();
    }
  }
  return heap.sort((a, b) => (before(a, b) ? -1 : 1));
}
