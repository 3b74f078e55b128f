import { UserError } from '../../../errors.js';

/** Names under which files hold the number of tokens of a sequence, and those that hold the tokens themselves. */
const LENGTH_NAMES = ['length', 'lengths', 'num_tokens', 'n_tokens'] as const;
const TOKEN_NAMES = ['input_ids', 'tokens', 'token_ids'] as const;

export const COLUMN_HINT = `name it with --column; known are ${[...LENGTH_NAMES, ...TOKEN_NAMES].join(', ')}`;

/** A column as a reader finds it. */
export interface Column {
  readonly name: string;
  /** Whole numbers, lists of them, or neither. */
  readonly kind: 'integer' | 'list' | 'other';
  /** What it holds, in the words of its format. */
  readonly type: string;
}

/**
 * The column that tells lengths: the one that is named, or the first integer column with a known name, or the first
 * list of tokens with a known name.
 * @throws UserError listing what there is
 */
export function chooseColumn<T extends Column>(file: string, columns: readonly T[], wanted?: string): T {
  if (wanted !== undefined) {
    const named = columns.filter(({ name }) => name === wanted);
    if (named.length > 1) throw new UserError(`${file}: ${named.length} columns are named ${quoted(wanted)}`);
    const [column] = named;
    if (column === undefined)
      throw new UserError(`${file}: no column ${quoted(wanted)}`, `there are ${listed(columns)}`);
    if (column.kind === 'other')
      throw new UserError(
        `${file}: column ${quoted(wanted)} holds ${column.type}, not lengths`,
        'choose a column of whole numbers or of lists of tokens',
      );
    return column;
  }
  const first = (names: readonly string[], kind: Column['kind']): T | undefined =>
    names
      .map((name) => columns.find((column) => column.name === name && column.kind === kind))
      .find((column) => column !== undefined);
  const found = first(LENGTH_NAMES, 'integer') ?? first(TOKEN_NAMES, 'list');
  if (found !== undefined) return found;
  throw new UserError(`${file}: no column tells lengths; there are ${listed(columns)}`, COLUMN_HINT);
}

const MOST_LISTED = 12;

function listed(columns: readonly Column[]): string {
  const names = columns.slice(0, MOST_LISTED).map(({ name, type }) => `${quoted(name)} (${type})`);
  const more = columns.length > MOST_LISTED ? `, and ${columns.length - MOST_LISTED} more` : '';
  return names.length === 0 ? 'no columns' : names.join(', ') + more;
}

const quoted = (name: string): string => JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);
