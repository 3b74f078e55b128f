/** Fields of a line of JSONL, checked. `at` names the line in messages. */
import { UserError } from '../../errors.js';

export function numbers(value: unknown, at: string, key: string): readonly number[] {
  if (!Array.isArray(value)) throw new UserError(`${at}: ${key} is no list`, `expected "${key}": [1, 2, 3]`);
  const wrong = value.findIndex((item) => !Number.isInteger(item));
  if (wrong >= 0) {
    throw new UserError(
      `${at}: ${key}[${wrong}] is ${shown(value[wrong])}, expected an integer`,
      'token ids are integers',
    );
  }
  return value as readonly number[];
}

export interface IdCheck {
  readonly at: string;
  readonly key: string;
  readonly vocabulary: number;
  readonly ignored?: number;
}

export function checkIds(ids: ArrayLike<number>, { at, key, vocabulary, ignored }: IdCheck): void {
  for (let index = 0; index < ids.length; index++) {
    const id = ids[index]!;
    if ((id >= 0 && id < vocabulary) || id === ignored) continue;
    throw new UserError(
      `${at}: ${key}[${index}] is ${id}, outside the model's vocabulary of ${vocabulary}` +
        ` (0 to ${vocabulary - 1}${ignored === undefined ? '' : `, or ${ignored}`})`,
      'use the tokenizer that belongs to the model',
    );
  }
}

/** A value as JSON, on one line that is not too long. */
export const shown = (value: unknown): string => oneLine(JSON.stringify(value) ?? 'undefined');

export function oneLine(text: string): string {
  const line = text.replace(/\s+/g, ' ');
  return line.length > 120 ? `${line.slice(0, 117)}…` : line;
}
