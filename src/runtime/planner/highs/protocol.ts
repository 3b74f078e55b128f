import type { LinearProgram, ProgramOptions, ProgramResult } from './program.js';

export interface ToSolver {
  readonly id: number;
  readonly program: LinearProgram;
  readonly options: ProgramOptions;
}

export type FromSolver =
  { readonly id: number; readonly result: ProgramResult } | { readonly id: number; readonly error: string };
