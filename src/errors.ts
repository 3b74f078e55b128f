/**
 * A mistake of the user's (or of a file they brought): shown as one line plus a hint, without a stack
 * trace, with a non-zero exit code. Everything else that is thrown is a bug of ithaca's.
 */
export class UserError extends Error {
  override readonly name = 'UserError';

  /**
   * @param message what is wrong and what was expected, naming the ONNX node, file or key
   * @param hint what would fix it: an export flag, a config key, the next command
   */
  constructor(
    message: string,
    readonly hint?: string,
    options?: { cause?: unknown },
  ) {
    super(oneLine(message), options);
  }
}

const MAX_MESSAGE = 2000;

/** Names in files may hold line breaks and terminal commands: escaped, and no longer than a screen. */
function oneLine(message: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  const printable = message.replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
  return printable.length > MAX_MESSAGE ? `${printable.slice(0, MAX_MESSAGE)}…` : printable;
}

/** Throws an internal error: an invariant of ithaca's own code does not hold. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`ithaca internal error: ${message}`);
}

/** Closes a `switch` over a discriminated union: does not compile while a case is missing. */
export function unreachable(value: never): never {
  throw new Error(`ithaca internal error: unreachable case ${JSON.stringify(value)}`);
}
