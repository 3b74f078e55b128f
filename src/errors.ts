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
    super(message, options);
  }
}

/** Throws an internal error: an invariant of ithaca's own code does not hold. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`ithaca internal error: ${message}`);
}

/** Closes a `switch` over a discriminated union: does not compile while a case is missing. */
export function unreachable(value: never): never {
  throw new Error(`ithaca internal error: unreachable case ${JSON.stringify(value)}`);
}
