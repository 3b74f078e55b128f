import { UserError } from '../../../errors.js';
import { readLines } from '../lines.js';
import { chooseColumn, type Column } from './column.js';
import { createLengthList } from './list.js';

const HINT =
  'each line is a whole number of tokens, or a JSON object such as {"input_ids": […]} or {"length": 12}';

/**
 * Text: a length a line; or JSONL, each line an object with a number or a list of tokens.
 * @throws UserError naming the line that is neither
 */
export async function readTextLengths(
  file: string,
  most: number,
  column?: string,
): Promise<readonly number[]> {
  let at = 1;
  const list = createLengthList(file, most, () => `line ${at}`);
  for await (const { line, text } of readLines(file)) {
    if (list.full) break;
    at = line;
    list.add(lengthOf(text.trim(), `${file}:${line}`, column));
  }
  return list.lengths;
}

function lengthOf(text: string, at: string, column: string | undefined): number {
  if (!text.startsWith('{')) {
    if (column !== undefined)
      throw new UserError(`${at}: not a JSON object with ${JSON.stringify(column)}`, HINT);
    if (!/^\d+$/.test(text)) throw new UserError(`${at}: ${text.slice(0, 40)} is not a length`, HINT);
    return Number(text);
  }
  const value = valueOf(text, at, column);
  return typeof value === 'number' ? value : value.length;
}

/** The member that tells the length; its choice may differ from line to line, as its members may. */
function valueOf(text: string, at: string, column: string | undefined): number | readonly unknown[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${at}: not JSON (${String(cause)})`, HINT, { cause });
  }
  const members: (Column & { readonly value: unknown })[] = Object.entries(json as object).map(
    ([name, value]: [string, unknown]) => ({ name, value, ...kindOf(value) }),
  );
  return chooseColumn(at, members, column).value as number | readonly unknown[];
}

function kindOf(value: unknown): Pick<Column, 'kind' | 'type'> {
  if (Array.isArray(value)) return { kind: 'list', type: 'a list' };
  if (typeof value === 'number') return { kind: 'integer', type: 'a number' };
  return { kind: 'other', type: value === null ? 'null' : typeof value };
}
