import { UserError } from '../../../errors.js';
import { trainProgramsOf } from '../../../package/manifest.js';
import type { Package } from '../../../package/read.js';
import { requireFits, type Calibration } from '../calibration.js';
import type { CostModel } from '../cost.js';
import { describeMachine, localCluster } from '../machine.js';
import { packageCost } from '../package-cost.js';
import { UNCALIBRATED } from '../physical-cost.js';
import { workOf } from '../work.js';

/** What decides how groups are priced, beside the package. Survives the way to another thread. */
export interface CostChoices {
  readonly ranks: number;
  /** Absent: rough rates of this machine. */
  readonly calibration?: Calibration | undefined;
  /** 2³⁰ bytes; absent: the calibration's, or an equal share of this machine's memory. */
  readonly memoryGibPerRank?: number | undefined;
  /** Most tokens a group takes at a time, beside what memory allows. */
  readonly maxTokensPerGroup?: number | undefined;
  /** Absent: every degree that is worth choosing. */
  readonly degrees?: readonly number[] | undefined;
}

/** What starting an instruction takes a core, where nothing was measured: the call, and its share of the bookkeeping. */
const LAUNCH_US = 30;

/**
 * What training a package on local ranks costs, with the exact memory of each degree.
 * @throws UserError for a calibration of something else, or a model that leaves no room for a token
 */
export function trainingCost(pkg: Package, choices: CostChoices): CostModel {
  const { maxTokensPerGroup = Infinity } = choices;
  const model = priced(pkg, choices, true);
  if (model.degrees.length === 0) {
    const work = workOf(pkg, choices.ranks, trainProgramsOf(pkg.manifest).at(-1));
    const degree = choices.degrees?.[0] ?? Math.min(work.heads, choices.ranks);
    throw new UserError(
      `${work.name} needs ${gib(work.peakBytes(degree, 1))} GiB on a rank for a single token, ranks have ${gib(model.memoryLimitBytes)}`,
      'use fewer ranks on this machine, raise --memory-per-rank, or compile with optimizer.zeroStage 1',
    );
  }
  const degrees = model.degrees.map((cost) => ({
    ...cost,
    capacity: Math.min(cost.capacity, maxTokensPerGroup),
  }));
  return { ...model, degrees };
}

/** The same without looking at memory, which takes longer: for predicting the time of plans that are made. */
export const trainingTimes = (pkg: Package, choices: CostChoices): CostModel => priced(pkg, choices, false);

function priced(pkg: Package, choices: CostChoices, memory: boolean): CostModel {
  const { ranks, calibration, memoryGibPerRank, degrees } = choices;
  if (calibration !== undefined) requireFits(calibration, pkg, ranks);
  const sharing = Math.max(1, ranks / describeMachine().cores);
  const cluster = calibration?.cluster ?? { ...localCluster(ranks), launchUs: LAUNCH_US * sharing };
  const coefficients = calibration?.coefficients ?? { ...UNCALIBRATED, sharing };
  return packageCost(
    pkg,
    { ...cluster, memoryGibPerRank: memoryGibPerRank ?? cluster.memoryGibPerRank },
    coefficients,
    { ranks, memory, ...(degrees === undefined ? {} : { degrees }) },
  );
}

const gib = (bytes: number): string => (bytes / 2 ** 30).toPrecision(3);
