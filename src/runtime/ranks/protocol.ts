import type { SharedMesh } from '../collectives/mesh.js';

/** What a worker thread is born with (its `workerData`). */
export interface Seat {
  readonly rank: number;
  readonly mesh: SharedMesh;
  /** The user's own data. */
  readonly data: unknown;
}

export type ToRank<Message> =
  { readonly type: 'request'; readonly id: number; readonly message: Message } | { readonly type: 'close' };

export type FromRank<Reply> =
  | { readonly type: 'ready' }
  | { readonly type: 'reply'; readonly id: number; readonly reply: Reply }
  | { readonly type: 'failed'; readonly cause: FailureCause; readonly secondary: boolean };

/** An error that survives the way between threads. */
export interface FailureCause {
  readonly name: string;
  readonly message: string;
  readonly stack?: string;
  /** What the user can do about it, if the cause was a mistake of theirs. */
  readonly hint?: string;
}

export function describeCause(error: unknown): FailureCause {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) };
  const hint = 'hint' in error && typeof error.hint === 'string' ? error.hint : undefined;
  return { name: error.name, message: error.message, stack: error.stack, hint };
}
