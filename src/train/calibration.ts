import path from 'node:path';
import { UserError } from '../errors.js';
import { statIfPresent } from '../files/fs-errors.js';
import type { Package } from '../package/read.js';
import { loadCalibration, requireFits, type Calibration } from '../runtime/planner/calibration.js';
import type { TrainSettings } from './settings.js';

/** Name of a calibration in the folder of a run, and in the folder that a run is started in. */
export const CALIBRATION = 'calibration.json';

export interface FoundCalibration {
  readonly calibration: Calibration | undefined;
  /** Why one that is there is not used. */
  readonly note?: string;
}

/**
 * The calibration that was asked for; else the run's own copy, else one in the working directory, if it is of this
 * package and as many ranks.
 * @param run folder of a run that goes on
 * @throws UserError when the one that was asked for cannot be read or is of something else
 */
export function findCalibration(
  pkg: Package,
  { calibration: given, cwd, ranks }: Pick<TrainSettings, 'calibration' | 'cwd' | 'ranks'>,
  run?: string,
): FoundCalibration {
  if (given !== undefined) {
    const calibration = loadCalibration(path.resolve(cwd, given));
    requireFits(calibration, pkg, ranks);
    return { calibration };
  }
  let note: string | undefined;
  for (const folder of run === undefined ? [cwd] : [run, cwd]) {
    const file = path.join(folder, CALIBRATION);
    if (statIfPresent(file) === undefined) continue;
    try {
      const calibration = loadCalibration(file);
      requireFits(calibration, pkg, ranks);
      return { calibration };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      note ??= `not using ${file}: ${error.message}`;
    }
  }
  return { calibration: undefined, ...(note === undefined ? {} : { note }) };
}
