import { UserError } from '../errors.js';
import { trainProgramsOf } from '../package/manifest.js';
import type { Package } from '../package/read.js';
import type { Corpus, Document } from '../runtime/data/document.js';
import { spreadDocuments, type SpreadOptions } from '../runtime/data/spread.js';
import { trainingCost, trainingTimes, type CostChoices } from '../runtime/planner/ahead/cost.js';
import { programOf, roomOfModel, type PlannedBatch, type Room } from '../runtime/planner/ahead/protocol.js';
import { workOf } from '../runtime/planner/work.js';
import { checkDegree, groupsOfDegree, type Lane, type MicroBatchPlan } from '../runtime/session/plan.js';
import { predictStep, type PredictedStep } from './prediction.js';

/** How a batch of documents is trained. */
export interface BatchPlan {
  readonly microBatches: readonly MicroBatchPlan[];
  readonly predicted: PredictedStep;
  /** Where a planner chose the groups. */
  readonly solved?: SolvedBatch;
}

/** What is kept of the search for a plan. */
export type SolvedBatch = Pick<PlannedBatch, 'solver' | 'solveMs' | 'moves' | 'cutShort'> & {
  readonly boundMs: number | undefined;
  /** Of the fullest rank of each lane: `[microBatch][lane]`. */
  readonly peakBytes: PlannedBatch['peakBytes'] | undefined;
  /** Taken from the record of an earlier run of this step. */
  readonly replayed: boolean;
};

/** Turns the documents of a batch into micro-batches and groups. */
export interface Spreader {
  /** For people: `4 groups of 2 ranks`. */
  readonly groups: string;
  /** Tokens that groups have room for, by degree; undefined: no limit. */
  readonly room: Room | undefined;
  /** Batches may be asked for ahead. @throws UserError for documents that no group holds */
  plan(documents: readonly Document[]): Promise<BatchPlan>;
  close(): Promise<void>;
}

/**
 * Groups of one degree, documents balanced over them.
 * @throws UserError when the ranks do not form such groups, or the model has too few heads or sharded parameters
 */
export function fixedSpreader(pkg: Package, sp: number, choices: CostChoices): Spreader {
  const { ranks } = choices;
  checkDegree(sp, pkg.manifest);
  requireWholeParameters(pkg);
  const groups = groupsOfDegree(ranks, sp);
  const room = choices.memoryGibPerRank === undefined ? undefined : roomOf(pkg, sp, choices);
  const maxTokensPerLane = Math.min(
    choices.maxTokensPerGroup ?? Infinity,
    room?.degrees[0]?.capacity ?? Infinity,
  );
  const options: SpreadOptions = { maxTokensPerLane, balancedLength: balancedLength(pkg) };
  const times = trainingTimes(pkg, { ...choices, degrees: [sp] });
  return {
    groups: `${groups.length} group${groups.length === 1 ? '' : 's'} of ${sp} rank${sp === 1 ? '' : 's'}`,
    room,
    plan: async (documents) => {
      const microBatches = spreadDocuments(documents, groups.length, options).map((lanes) => ({
        lanes: lanes.map((own, lane) => laneOf(groups[lane]!, own, room)),
      }));
      return { microBatches, predicted: predictStep(microBatches, times) };
    },
    close: async () => {},
  };
}

const roomOf = (pkg: Package, sp: number, choices: CostChoices): Room =>
  roomOfModel(trainingCost(pkg, { ...choices, degrees: [sp] }));

/** A group and its documents, with the fastest train program that has room for them. */
export function laneOf(
  ranks: readonly number[],
  documents: readonly Document[],
  room: Room | undefined,
): Lane {
  const tokens = documents.reduce((sum, { ids }) => sum + ids.length, 0);
  const program = programOf(room, ranks.length, tokens);
  return { ranks, documents, ...(program === undefined ? {} : { program }) };
}

/** Parameters placed @world are compiled, and run by the reference executor only. */
export function requireWholeParameters(pkg: Package): void {
  const { inputs, buffers } = pkg.program('train');
  const sharded = inputs.find(
    ({ role, buffer }) => role === 'parameter' && buffers[buffer]!.type.includes('@'),
  );
  if (sharded !== undefined)
    throw new UserError(
      `parameter ${sharded.name} is sharded over the ranks, which local ranks cannot run yet`,
      'compile without passes.zero.shard; ithaca verify runs such a package on the reference executor',
    );
}

/** 12 times the hidden size (see `spreadDocuments`), which is about heads · head size. */
function balancedLength(pkg: Package): number {
  const widths = pkg.program('train').kernels.map(({ heads, headSize }) => heads * headSize);
  return 12 * Math.max(1, ...widths);
}

/**
 * Looks at all documents before a run begins, so that none ends it in the middle.
 * @throws UserError naming the longest, if no group has room for it, with what would help
 */
export function requireRoom(corpus: Corpus, { room }: Spreader, pkg: Package, ranks: number): void {
  if (room === undefined) return;
  const widest = room.degrees.reduce((a, b) => (b.capacity > a.capacity ? b : a));
  let longest = 0;
  for (let index = 1; index < corpus.count; index++)
    if (corpus.length(index) > corpus.length(longest)) longest = index;
  const tokens = corpus.length(longest);
  if (tokens <= widest.capacity) return;
  const gib = (bytes: number): string => (bytes / 2 ** 30).toPrecision(3);
  const frugal = trainProgramsOf(pkg.manifest).at(-1);
  const needed = workOf(pkg, ranks, frugal).peakBytes(widest.degree, tokens);
  throw new UserError(
    `${corpus.document(longest).origin}: the document has ${tokens} tokens, the largest group (degree ${widest.degree}) has room for ${widest.capacity} with ${gib(room.memoryLimitBytes)} GiB on each rank`,
    `it needs --memory-per-rank ${gib(needed * 1.005)}, or cut documents: --long split --max-tokens-per-group ${widest.capacity}`,
  );
}
