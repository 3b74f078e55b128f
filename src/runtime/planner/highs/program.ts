/** A mixed-integer linear programme to minimise, rows as sparse lists. Plain data: it travels to a worker. */
export interface LinearProgram {
  readonly cost: readonly number[];
  readonly lower: readonly number[];
  readonly upper: readonly number[];
  readonly integer: readonly boolean[];
  readonly rowLower: readonly number[];
  readonly rowUpper: readonly number[];
  /** Compressed rows: entries of row r are at starts[r] … starts[r + 1] − 1. */
  readonly starts: readonly number[];
  readonly indices: readonly number[];
  readonly values: readonly number[];
}

export type Term = readonly [column: number, coefficient: number];

export interface ProgramBuilder {
  /** Adds a variable and returns its column. */
  column(options: {
    readonly cost?: number;
    readonly lower?: number;
    readonly upper?: number;
    readonly integer?: boolean;
  }): number;
  /** Adds lower ≤ Σ terms ≤ upper; each column at most once. */
  row(lower: number, upper: number, terms: readonly Term[]): void;
  build(): LinearProgram;
}

export function buildProgram(): ProgramBuilder {
  const program = {
    cost: [] as number[],
    lower: [] as number[],
    upper: [] as number[],
    integer: [] as boolean[],
    rowLower: [] as number[],
    rowUpper: [] as number[],
    starts: [0],
    indices: [] as number[],
    values: [] as number[],
  };
  return {
    column({ cost = 0, lower = 0, upper = Infinity, integer = false }) {
      program.cost.push(cost);
      program.lower.push(lower);
      program.upper.push(upper);
      program.integer.push(integer);
      return program.cost.length - 1;
    },
    row(lower, upper, terms) {
      for (const [column, value] of terms) {
        if (value === 0) continue;
        program.indices.push(column);
        program.values.push(value);
      }
      program.rowLower.push(lower);
      program.rowUpper.push(upper);
      program.starts.push(program.indices.length);
    },
    build: () => program,
  };
}

export interface ProgramOptions {
  readonly limitMs: number;
  /** Relative gap at which the solver may stop. */
  readonly gap?: number;
  /** A first solution, one value a column. */
  readonly start?: readonly number[];
  readonly seed?: number;
}

export interface ProgramResult {
  readonly status: 'optimal' | 'infeasible' | 'limit' | 'other';
  /** No solution costs less: −∞ if nothing is known. */
  readonly bound: number;
  /** The best solution and its cost, if there is one. */
  readonly objective: number | undefined;
  readonly values: readonly number[];
}
