/**
 * What a planner knows of a machine and a model: the time and the memory of a group as functions of two sums over
 * the sequences it holds, tokens and attended pairs. Both sums change by addition, so a solver re-prices a group in
 * constant time when a sequence enters or leaves it.
 */
export interface DegreeCost extends Rates {
  /** Ranks that share every sequence of the group. */
  readonly degree: number;
  /** Most tokens a group of this degree holds in memory. */
  readonly capacity: number;
  /**
   * Where a package offers several checkpointing policies, all of them, from the fastest: a group takes the first
   * whose capacity suffices. The cost's own rates are then those of the first, its capacity that of the last.
   */
  readonly levels?: readonly Level[];
}

/** What a group takes, by its tokens and pairs. */
export interface Rates {
  /** Compute of the slowest rank. */
  readonly msPerToken: number;
  readonly msPerPair: number;
  /** Latency of all exchanges of a micro-batch, paid once by a group that holds anything. */
  readonly exchangeMs: number;
  readonly exchangeMsPerToken: number;
  /** Share of the shorter of compute and exchange that hides behind the longer one: 0 … 1. */
  readonly overlap: number;
}

/** A checkpointing policy of a degree. */
export interface Level extends Rates {
  /** The train program that has it. */
  readonly program: string;
  readonly capacity: number;
}

/** The level of a group: the fastest that holds its tokens, else the one that holds most. */
export function levelOf({ levels }: Pick<DegreeCost, 'levels'>, tokens: number): Level | undefined {
  return levels?.find(({ capacity }) => tokens <= capacity) ?? levels?.at(-1);
}

/** Times in ms, lengths in tokens. Values are frozen tables: solvers copy them into arrays. */
export interface CostModel {
  readonly name: string;
  readonly ranks: number;
  /** Ranks that share the fast links; groups of up to this many are placed inside a node. */
  readonly ranksPerNode: number;
  /** Allowed degrees, ascending, each at most `ranks`. */
  readonly degrees: readonly DegreeCost[];
  /** Paid once by every micro-batch, whatever its groups. */
  readonly microBatchMs: number;
  /** Paid once by every step: optimizer, settling of gradients. */
  readonly stepMs: number;
  /**
   * How much faster a rank is where others have nothing to do: ranks over cores, where ranks share cores. Times are
   * those of ranks that are all busy. Absent: 1.
   */
  readonly sharing?: number;
  /** Ranks end each micro-batch together, because a collective of the world is in it. Absent: only the step. */
  readonly lockstep?: boolean;
  /** Pairs of positions that one sequence attends to, in the unit of `msPerPair`; 0 for length 0. */
  pairs(length: number): number;
  /** Bytes on the fullest rank of a group. */
  memoryBytes(degree: number, tokens: number): number;
  /** Bytes a rank may use. */
  readonly memoryLimitBytes: number;
}

/** Time of a group, without what its micro-batch pays; 0 for an empty group. */
export function groupMs(cost: DegreeCost, tokens: number, pairs: number): number {
  return ratesMs(levelOf(cost, tokens) ?? cost, tokens, pairs);
}

export function ratesMs(cost: Rates, tokens: number, pairs: number): number {
  if (tokens === 0) return 0;
  const compute = cost.msPerToken * tokens + cost.msPerPair * pairs;
  const exchange = cost.exchangeMs + cost.exchangeMsPerToken * tokens;
  return compute + exchange - cost.overlap * Math.min(compute, exchange);
}

/** Time the exchanges of a group add to its compute, after overlap. */
export function exposedExchangeMs(cost: DegreeCost, tokens: number, pairs: number): number {
  const rates = levelOf(cost, tokens) ?? cost;
  return ratesMs(rates, tokens, pairs) - rates.msPerToken * tokens - rates.msPerPair * pairs;
}

/** The same model with only some of its degrees: for comparing solvers under equal rules. */
export function restrictDegrees(
  model: CostModel,
  { minDegree = 1, powersOfTwo = false }: { readonly minDegree?: number; readonly powersOfTwo?: boolean },
): CostModel {
  const degrees = model.degrees.filter(
    ({ degree }) => degree >= minDegree && (!powersOfTwo || Number.isInteger(Math.log2(degree))),
  );
  return { ...model, degrees };
}
