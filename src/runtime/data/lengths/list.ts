import { UserError } from '../../../errors.js';

/** Lengths of a file are kept as one list; a corpus with more documents is better planned from a part of it. */
export const MOST_SEQUENCES = 20_000_000;
const MOST_TOKENS = 2 ** 40;

/** The lengths found so far. */
export interface LengthList {
  readonly lengths: readonly number[];
  /** Whether as many are there as were asked for: the rest of the file need not be read. */
  readonly full: boolean;
  /** @throws UserError for what is no length, or too many of them */
  add(tokens: number): void;
  /** The same length several times. */
  repeat(tokens: number, times: number): void;
}

/** @param where the n-th length (from 0) as people find it in the file */
export function createLengthList(
  file: string,
  most: number,
  where: (index: number) => string = (index) => `row ${index}`,
): LengthList {
  const lengths: number[] = [];
  const check = (tokens: number): void => {
    if (!Number.isSafeInteger(tokens) || tokens < 0 || tokens > MOST_TOKENS)
      throw new UserError(
        `${file}: ${where(lengths.length)}: ${tokens} is not a length`,
        'lengths are whole numbers of tokens',
      );
  };
  return {
    lengths,
    get full() {
      return lengths.length >= most;
    },
    add(tokens) {
      check(tokens);
      refuseMore(file, lengths.length + 1);
      lengths.push(tokens);
    },
    repeat(tokens, times) {
      check(tokens);
      const some = Math.min(times, most - lengths.length);
      refuseMore(file, lengths.length + some);
      for (let i = 0; i < some; i++) lengths.push(tokens);
    },
  };
}

function refuseMore(file: string, count: number): void {
  if (count > MOST_SEQUENCES)
    throw new UserError(
      `${file}: more than ${MOST_SEQUENCES} sequences`,
      'give a part of the corpus; its lengths stand for the rest',
    );
}
