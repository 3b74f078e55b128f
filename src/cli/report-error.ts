import { CommanderError } from 'commander';
import { UserError } from '../errors.js';
import { err, remark, shown } from './output.js';

/** A user's mistake; a wrong command line; a fault of ithaca's own (EX_SOFTWARE of sysexits.h). */
export const EXIT = { user: 1, usage: 2, bug: 70 } as const;

/** What a command throws after it has printed its own verdict: nothing more to say. */
export class Exit extends Error {
  override readonly name = 'Exit';

  constructor(readonly code: number) {
    super(`exit ${code}`);
  }
}

const oneLine = (text: string): string => shown(text.trim().replace(/\s*\n\s*/g, '; '));

function say(message: string, hint: string | undefined): void {
  remark(`${err.red('error:')} ${oneLine(message)}`);
  if (hint !== undefined) remark(`  ${err.cyan('hint:')} ${oneLine(hint)}`);
}

/** A rank that failed (`RankFailure`, not imported here: mistakes answer before anything heavy is loaded). */
interface RankFault extends Error {
  readonly hint?: string;
  readonly origin: { readonly name: string; readonly message: string };
}

const isRankFault = (error: unknown): error is RankFault =>
  error instanceof Error && error.name === 'RankFailure' && 'origin' in error;

/** Faults of ithaca's own, in whichever thread; a rank that was killed or ran out of memory is none. */
const isBug = ({ name, message }: { readonly name: string; readonly message: string }): boolean =>
  message.startsWith(INTERNAL) || name === 'TypeError' || name === 'ReferenceError';

const INTERNAL = 'ithaca internal error: ';

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause: unknown = error.cause;
  const own = error.stack ?? error.message;
  if (cause === undefined) return own;
  const text =
    typeof cause === 'object' && cause !== null && 'stack' in cause ? String(cause.stack) : String(cause);
  return `${own}\ncaused by: ${cause instanceof Error ? stackOf(cause) : text}`;
}

/** Prints an error for people, one line and a hint. @returns the exit code */
export function reportError(error: unknown): number {
  if (error instanceof Exit) return error.code;
  // Commander has printed its own errors, help and version by now.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage;
  const debug = (process.env['ITHACA_DEBUG'] ?? '') !== '';
  if (error instanceof UserError || (isRankFault(error) && !isBug(error.origin))) {
    say(error.message, error.hint);
    if (debug) remark(stackOf(error));
    return EXIT.user;
  }
  const message = error instanceof Error ? error.message.split('\n')[0]! : String(error);
  say(
    `${message.replace(INTERNAL, '')} (this is a bug in ithaca)`,
    'please report it with the lines below and, if you can, the model',
  );
  remark(stackOf(error));
  return EXIT.bug;
}
