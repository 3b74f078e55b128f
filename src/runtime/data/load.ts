import { statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { glob } from 'tinyglobby';
import { UserError } from '../../errors.js';
import { explainReadError, statIfPresent } from '../../files/fs-errors.js';
import type { LossEntry } from '../../package/manifest.js';
import {
  createCorpusBuilder,
  limitLength,
  type CorpusBuilder,
  type Extra,
  type LongPolicy,
} from './corpus.js';
import type { Corpus } from './document.js';
import { checkIds, numbers, oneLine } from './fields.js';
import { checkLabels, documentLabel } from './labels.js';
import { readLines } from './lines.js';
import { maskDocument } from './mask.js';
import { teacherReader, type TeacherReader } from './teacher.js';
import { loadTokenizer, type Tokenizer } from './tokenizer.js';

export interface LongOptions {
  readonly policy: LongPolicy;
  readonly maximumTokens: number;
}

export interface LoadOptions {
  /** Ids must be below it: the model's embedding rows. */
  readonly vocabulary: number;
  /** What labels mean, below which number they are, and how to make them; default: next tokens. */
  readonly loss?: LossEntry;
  /** What the documents are for: an evaluation needs no teacher. Default: training. */
  readonly purpose?: 'train' | 'eval';
  /** `bytes`, or a Hugging Face `tokenizer.json` or its folder. Needed for text, not for `input_ids`. */
  readonly tokenizer?: string;
  /** What to do with documents of more than `maximumTokens`; see `limitLength`. */
  readonly long?: LongOptions;
  /** Patterns are relative to it; default: the working directory. */
  readonly cwd?: string;
}

const MAX_TEXT_BYTES = 1 << 28;
const JSONL = new Set(['.jsonl', '.ndjson']);

/**
 * Loads the documents of all files that `patterns` (paths or globs) match, files in order of their paths.
 *
 * - `*.jsonl`: a document a line: `{"input_ids": […], "labels": […]?, "token_type_ids": […]?}` or `{"text": "…"}`. Labels are as in
 *   Hugging Face, aligned with the tokens, −100 where nothing is predicted. For next-token losses they are shifted
 *   here, and are the ids by default; a masked-LM loss with `mlm` masks documents without labels.
 *   Document classification takes `label`, a class; regression takes `label`, a number or a list of them. Distillation
 *   takes `teacher`, see `teacherReader`. `attention_mask` must be all ones; other keys are passed over.
 * - any other file: one document of text.
 *
 * @throws UserError, naming file and line, for anything that is not such a document
 */
export async function loadCorpus(patterns: readonly string[], options: LoadOptions): Promise<Corpus> {
  const files = await matchFiles(patterns, options.cwd ?? process.cwd());
  const tokenizer = options.tokenizer === undefined ? undefined : await loadTokenizer(options.tokenizer);
  const builder = createCorpusBuilder();
  const { vocabulary, loss = { kind: 'next-token', classes: vocabulary } } = options;
  const teacher =
    loss.distillation === undefined || options.purpose === 'eval' ? undefined : teacherReader(loss);
  const context: Context = { builder, tokenizer, vocabulary, loss, teacher };
  try {
    for (const file of files) {
      const before = builder.count;
      if (JSONL.has(path.extname(file).toLowerCase())) await loadLines(file, context);
      else await loadText(file, context);
      if (builder.count === before) throw new UserError(`${file} holds no document`, 'remove it or fill it');
    }
  } finally {
    teacher?.close();
  }
  const corpus = builder.finish();
  if (options.long !== undefined) refuseCuts(corpus, loss, options.long);
  return options.long === undefined
    ? corpus
    : limitLength(corpus, options.long.policy, options.long.maximumTokens);
}

/** A document that is classified has one label, which a piece of it may not have. */
function refuseCuts(corpus: Corpus, { pool }: LossEntry, { policy, maximumTokens }: LongOptions): void {
  const atStart = pool?.kind === 'first' || pool?.kind === 'mean';
  if (pool === undefined || policy === 'error' || (policy === 'truncate' && atStart)) return;
  for (let index = 0; index < corpus.count; index++)
    if (corpus.length(index) > maximumTokens)
      throw new UserError(
        `${corpus.document(index).origin}: the document has ${corpus.length(index)} tokens, the limit is ${maximumTokens}, and --long ${policy} would part it from its label`,
        atStart ? 'use --long truncate' : 'cut it before it is tokenized',
      );
}

interface Context {
  readonly builder: CorpusBuilder;
  readonly tokenizer: Tokenizer | undefined;
  readonly vocabulary: number;
  readonly loss: LossEntry;
  readonly teacher: TeacherReader | undefined;
}

/** Paths as the user would write them, relative to the working directory where they are below `cwd`. */
async function matchFiles(patterns: readonly string[], cwd: string): Promise<string[]> {
  const files = new Set<string>();
  for (const pattern of patterns) {
    const found = await matchPattern(pattern, cwd);
    if (found.length === 0) {
      throw new UserError(
        `no file matches ${pattern}`,
        `patterns are relative to ${cwd}; quote them so that the shell leaves them alone`,
      );
    }
    for (const file of found) files.add(path.resolve(cwd, file));
  }
  return [...files].sort().map((file) => {
    const relative = path.relative(process.cwd(), file);
    return relative.startsWith('..') ? file : relative;
  });
}

async function matchPattern(pattern: string, cwd: string): Promise<readonly string[]> {
  // A file of that very name wins: brackets in names are no pattern then.
  const stats = statIfPresent(path.resolve(cwd, pattern));
  if (stats?.isFile() === true) return [pattern];
  if (stats !== undefined) {
    throw new UserError(
      `${pattern} is ${stats.isDirectory() ? 'a folder' : 'no regular file'}`,
      `name its files, for instance '${path.join(pattern, '**', '*.txt')}'`,
    );
  }
  return glob(pattern, { cwd, expandDirectories: false, onlyFiles: true });
}

async function loadText(file: string, context: Context): Promise<void> {
  const { tokenizer, vocabulary } = context;
  if (tokenizer === undefined) throw needsTokenizer(file);
  const bytes = await readSmallFile(file);
  if (bytes.length === 0) throw new UserError(`${file} is empty`, 'remove it or fill it');
  const ids = encode(tokenizer, bytes, file);
  if (ids.length === 0) return;
  checkIds(ids, { at: file, key: tokenizer.name === 'bytes' ? 'byte' : 'token', vocabulary });
  addDocument(file, 0, ids, undefined, undefined, context);
}

async function readSmallFile(file: string): Promise<Uint8Array> {
  try {
    const { size } = statSync(file);
    if (size <= MAX_TEXT_BYTES) return await readFile(file);
    throw new UserError(
      `${file} has ${size} bytes, too many for one document`,
      'split it, or turn it into JSONL with a {"text": …} line for each document',
    );
  } catch (error) {
    throw explainReadError(error, file);
  }
}

async function loadLines(file: string, context: Context): Promise<void> {
  for await (const { line, text } of readLines(file)) {
    const at = `${file}:${line}`;
    const json = parseObject(text, at);
    if (Object.hasOwn(json, 'input_ids')) addIds(file, line, json, context);
    else if (Object.hasOwn(json, 'text')) addTextLine(file, line, json, context);
    else {
      throw new UserError(
        `${at}: neither "input_ids" nor "text"`,
        'each line is {"input_ids": […], "labels": […]?} or {"text": "…"}',
      );
    }
  }
}

function parseObject(text: string, at: string): Record<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new UserError(
      `${at}: not JSON: ${error instanceof Error ? oneLine(error.message) : String(error)}`,
      'a JSONL file has one JSON object a line',
      { cause: error },
    );
  }
  if (typeof json === 'object' && json !== null && !Array.isArray(json))
    return json as Record<string, unknown>;
  throw new UserError(`${at}: not a JSON object`, 'a JSONL file has one JSON object a line');
}

function addIds(file: string, line: number, json: Record<string, unknown>, context: Context): void {
  const at = `${file}:${line}`;
  const { vocabulary } = context;
  const ids = numbers(json['input_ids'], at, 'input_ids');
  if (ids.length === 0) throw new UserError(`${at}: input_ids is empty`, 'remove the line');
  checkIds(ids, { at, key: 'input_ids', vocabulary });
  if (Object.hasOwn(json, 'attention_mask')) {
    const mask = numbers(json['attention_mask'], at, 'attention_mask');
    if (mask.length !== ids.length || mask.some((value) => value !== 1)) {
      throw new UserError(
        `${at}: attention_mask hides tokens, which ithaca cannot do`,
        'leave padding out: documents may have any length',
      );
    }
  }
  const own = documentLabel(json, at, ids, context.loss);
  let labels: ArrayLike<number> | undefined = own?.labels;
  if (own === undefined && Object.hasOwn(json, 'labels')) {
    const given = numbers(json['labels'], at, 'labels');
    labels = given;
    if (given.length !== ids.length) {
      throw new UserError(
        `${at}: ${given.length} labels for ${ids.length} input_ids`,
        'labels are aligned with input_ids: one each, −100 where nothing is predicted, not shifted',
      );
    }
    checkLabels(given, at, context.loss);
  }
  const teacher = context.teacher?.read(json, file, at, ids.length);
  const extra = { targets: own?.targets, teacher };
  addDocument(file, line, ids, labels, tokenTypes(json, at, ids.length), context, extra);
}

/** Which of them a model has is known when its plan is checked. */
function tokenTypes(
  json: Record<string, unknown>,
  at: string,
  length: number,
): readonly number[] | undefined {
  if (!Object.hasOwn(json, 'token_type_ids')) return undefined;
  const types = numbers(json['token_type_ids'], at, 'token_type_ids');
  if (types.length !== length)
    throw new UserError(
      `${at}: ${types.length} token_type_ids for ${length} input_ids`,
      'token_type_ids are aligned with input_ids: one each',
    );
  const stray = types.find((type) => type < 0 || type >= 2 ** 31);
  if (stray !== undefined)
    throw new UserError(`${at}: token_type_ids has ${stray}`, 'token types are numbers from 0');
  return types;
}

function addTextLine(file: string, line: number, json: Record<string, unknown>, context: Context): void {
  const at = `${file}:${line}`;
  const { tokenizer, vocabulary } = context;
  const text = json['text'];
  if (typeof text !== 'string' || text === '') {
    throw new UserError(`${at}: "text" is ${text === '' ? 'empty' : 'no string'}`, 'give it a text');
  }
  if (tokenizer === undefined) throw needsTokenizer(at);
  if (Object.hasOwn(json, 'labels') && context.loss.pool === undefined) {
    throw new UserError(
      `${at}: labels without input_ids`,
      'labels are aligned with tokens: give input_ids, not text',
    );
  }
  const ids = encode(tokenizer, Buffer.from(text), at);
  if (ids.length === 0) throw new UserError(`${at}: the tokenizer gives no token for it`, 'remove the line');
  checkIds(ids, { at, key: tokenizer.name === 'bytes' ? 'byte' : 'token', vocabulary });
  const own = documentLabel(json, at, ids, context.loss);
  const teacher = context.teacher?.read(json, file, at, ids.length);
  addDocument(file, line, ids, own?.labels, undefined, context, { targets: own?.targets, teacher });
}

/** Adds a document whose ids and labels were checked; labels that it lacks are made, where the loss allows. */
function addDocument(
  file: string,
  line: number,
  ids: ArrayLike<number>,
  labels: ArrayLike<number> | undefined,
  types: ArrayLike<number> | undefined,
  { builder, loss, vocabulary, teacher }: Context,
  extra: Extra = {},
): void {
  if (teacher !== undefined && extra.teacher === undefined)
    throw new UserError(
      `${line === 0 ? file : `${file}:${line}`} has no teacher, which the loss distillation needs`,
      'give JSONL with a "teacher" for each document: {"ids": [[…], …], "logits": [[…], …]}, or its file',
    );
  if (loss.kind === 'next-token') return builder.add(file, line, ids, labels, types, 'shifted', extra);
  if (labels !== undefined) return builder.add(file, line, ids, labels, types, 'own', extra);
  if (loss.mlm === undefined)
    throw new UserError(
      `${line === 0 ? file : `${file}:${line}`} has no labels, which the loss ${loss.kind} needs`,
      loss.kind === 'masked-lm'
        ? "give labels, or compile with a masking rate: loss: { kind: 'masked-lm', mlm: { maskId: 103 } }"
        : loss.kind === 'regression'
          ? 'give each line "label": the number, or the list of numbers, that the model should give'
          : loss.pool !== undefined
            ? 'give each line "label": the class of the document'
            : 'give each line "labels": a class for each token, −100 where none is predicted',
    );
  const masked = maskDocument(ids, vocabulary, loss.mlm);
  builder.add(file, line, masked.ids, masked.labels, types, 'own');
}

function encode(tokenizer: Tokenizer, text: Uint8Array, at: string): ArrayLike<number> {
  try {
    return tokenizer.encode(text);
  } catch (error) {
    if (error instanceof UserError)
      throw new UserError(`${at}: ${error.message}`, error.hint, { cause: error });
    throw error;
  }
}

function needsTokenizer(at: string): UserError {
  return new UserError(
    `${at} is text, and no tokenizer was given`,
    'add --tokenizer bytes or --tokenizer path/to/tokenizer.json',
  );
}
