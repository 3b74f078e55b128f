import { readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { z } from 'zod';
import { UserError } from '../../errors.js';
import { explainReadError } from '../../files/fs-errors.js';

export interface Tokenizer {
  /** `bytes`, or the path it was loaded from */
  readonly name: string;
  /**
   * Token ids of a text; `text` as UTF-8 bytes. Ids are not checked here: the vocabulary is the model's.
   * @throws UserError when the text is not UTF-8 (not for `bytes`), or has a word that the tokenizer does not know
   */
  encode(text: Uint8Array): ArrayLike<number>;
}

const MAX_TOKENIZER_BYTES = 1 << 28;

/**
 * @param spec `bytes` (each UTF-8 byte is its own id, 0–255), or a Hugging Face `tokenizer.json`, or the folder
 *   that holds one. A `tokenizer_config.json` beside it is read too. Special tokens that the file's
 *   post-processor puts around a text (a beginning-of-text token, say) are kept, as in Hugging Face.
 * @throws UserError when the file is missing or no tokenizer
 */
export async function loadTokenizer(spec: string): Promise<Tokenizer> {
  if (spec === 'bytes') return { name: 'bytes', encode: (text) => text };
  const file = (await isDirectory(spec)) ? path.join(spec, 'tokenizer.json') : spec;
  const definition = await readJson(file);
  const config = (await readJson(path.join(path.dirname(file), 'tokenizer_config.json'), 'optional')) ?? {};
  const parsed = definitionSchema.safeParse(definition);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw unusable(file, `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'invalid'}`);
  }
  // The library reads WordLevel's unknown token from the configuration only.
  const { unk_token } = parsed.data.model;
  const unknown = typeof unk_token === 'string' ? { unk_token } : {};
  try {
    // It throws plain errors about missing parts, and TypeErrors about malformed ones.
    return huggingFace(file, new HuggingFaceTokenizer(definition as object, { ...unknown, ...config }));
  } catch (error) {
    throw unusable(file, error instanceof Error ? error.message : String(error), error);
  }
}

const definitionSchema = z.object({
  model: z.object({
    type: z.enum(['BPE', 'WordPiece', 'WordLevel', 'Unigram']).optional(),
    unk_token: z.string().nullish(),
  }),
});

function unusable(file: string, reason: string, cause?: unknown): UserError {
  return new UserError(
    `${file} is no tokenizer that ithaca can use: ${reason.replace(/\s+/g, ' ')}`,
    "expected the tokenizer.json of a Hugging Face 'fast' tokenizer, or --tokenizer bytes",
    { cause },
  );
}

interface Encoding {
  readonly ids: readonly (number | undefined)[];
  readonly tokens: readonly string[];
}

function huggingFace(name: string, tokenizer: HuggingFaceTokenizer): Tokenizer {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  return {
    name,
    encode(text) {
      // Annotated: the library's own declaration does not resolve under nodenext. An id is undefined for a word
      // outside a vocabulary that has no unknown token (BPE drops such bytes instead, as the Rust library does).
      const { ids, tokens }: Encoding = tokenizer.encode(decodeText(decoder, text));
      const unknown = ids.findIndex((id) => !Number.isInteger(id));
      if (unknown >= 0) {
        throw new UserError(
          `tokenizer ${name} does not know ${JSON.stringify(tokens[unknown])} and has no token for the unknown`,
          'use another tokenizer, or --tokenizer bytes',
        );
      }
      return ids as readonly number[];
    },
  };
}

function decodeText(decoder: { decode(bytes: Uint8Array): string }, text: Uint8Array): string {
  try {
    return decoder.decode(text);
  } catch (error) {
    throw new UserError('not UTF-8 text', 'save the file as UTF-8, or use --tokenizer bytes', {
      cause: error,
    });
  }
}

async function isDirectory(spec: string): Promise<boolean> {
  try {
    return (await stat(spec)).isDirectory();
  } catch {
    return false;
  }
}

async function readJson(file: string, presence?: 'optional'): Promise<object | undefined> {
  let text: string;
  try {
    const { size } = await stat(file);
    if (size > MAX_TOKENIZER_BYTES) {
      throw new UserError(`${file} has ${size} bytes, too many for a tokenizer`, 'check the path');
    }
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (presence === 'optional' && (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw explainReadError(error, file);
  }
  try {
    const json: unknown = JSON.parse(text);
    if (typeof json === 'object' && json !== null) return json;
  } catch (error) {
    throw new UserError(`${file} is not JSON`, 'expected a Hugging Face tokenizer.json', { cause: error });
  }
  throw new UserError(`${file} is not a JSON object`, 'expected a Hugging Face tokenizer.json');
}
