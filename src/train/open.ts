import path from 'node:path';
import { UserError } from '../errors.js';
import type { SafetensorsReader } from '../files/safetensors.js';
import type { ParameterEntry } from '../package/manifest.js';
import { openPackage, type Package } from '../package/read.js';
import { loadCheckpoint, type Checkpoint } from '../runtime/checkpoint.js';
import { createDataOrder, type DataPosition } from '../runtime/data/order.js';
import { trainingTimes, type CostChoices } from '../runtime/planner/ahead/cost.js';
import type { PlannerFault } from '../runtime/planner/ahead/protocol.js';
import { saveCalibration, type Calibration } from '../runtime/planner/calibration.js';
import { checkPlan } from '../runtime/session/plan.js';
import { TrainingSession, type ReadTensor } from '../runtime/session/session.js';
import { VERSION } from '../version.js';
import { autoSpreader } from './auto.js';
import { loadDocuments } from './batches.js';
import { CALIBRATION, findCalibration } from './calibration.js';
import type { TrainReporter, TrainRun } from './loop.js';
import { queueBatches, unlessStopped } from './plan-ahead.js';
import { replayPlan, type RecordedStep } from './replay.js';
import {
  isDirectory,
  readRecord,
  recordedSteps,
  requireFreshRun,
  rewindMetrics,
  runOf,
  writeRecord,
} from './run-directory.js';
import { continuedSettings, type TrainFlags, type TrainSettings } from './settings.js';
import { fixedSpreader, requireRoom, type Spreader } from './spreader.js';

export interface OpenHooks {
  readonly reporter: TrainReporter;
  readonly isStopped: () => boolean;
  /** For tests: what the planner does wrong. */
  readonly plannerFault?: PlannerFault;
}

/** A run ready for `train`; close it afterwards. */
export interface OpenedRun extends TrainRun {
  readonly resumed: boolean;
  /** Ends ranks and planner. */
  close(): Promise<void>;
}

/**
 * Starts a run. Everything that can be wrong is looked at before its folder is made.
 * @throws UserError
 */
export async function startRun(
  pkg: Package,
  directory: string,
  settings: TrainSettings,
  hooks: OpenHooks,
): Promise<OpenedRun> {
  requireFreshRun(directory);
  const { calibration, note } = findCalibration(pkg, settings);
  if (note !== undefined) hooks.reporter.onNote(note);
  const start = { step: 0, position: { epoch: 0, index: 0 }, recorded: new Map() };
  return prepared(pkg, settings, calibration, start, hooks, async (parts) => {
    const session = await TrainingSession.open(pkg, { ranks: settings.ranks });
    return closingOnError(session, async () => {
      await record(pkg, directory, settings, calibration);
      await rewindMetrics(directory, 0);
      return opened({ directory, pkg, settings, session, ...parts, firstStep: 0, ...hooks }, false);
    });
  });
}

/**
 * Goes on with a run from its latest checkpoint, or the one that `target` names, perhaps on other ranks.
 * @param given the package, where the command line names one; else the run's own
 * @throws UserError when run, checkpoint, package or data do not fit each other
 */
export async function resumeRun(
  target: string,
  given: string | undefined,
  flags: TrainFlags,
  hooks: OpenHooks,
): Promise<OpenedRun> {
  const directory = runOf(target);
  const recorded = readRecord(directory);
  const settings = continuedSettings(flags, recorded.settings, process.cwd());
  const pkg = await packageOf(recorded.package, given);
  const checkpoint = await loadCheckpoint(target);
  try {
    const { state } = checkpoint;
    requireSameRun(checkpoint, pkg, directory, settings);
    const { calibration, note } = findCalibration(pkg, settings, directory);
    if (note !== undefined) hooks.reporter.onNote(note);
    const start = {
      step: state.step,
      position: { epoch: state.data.epoch, index: state.data.index },
      // Who brings new measurements wants plans by them.
      recorded: flags.calibration === undefined ? await recordedSteps(directory, state.step) : new Map(),
      fingerprint: state.data.fingerprint,
    };
    return await prepared(pkg, settings, calibration, start, hooks, async (parts) => {
      const session = await TrainingSession.open(pkg, { ranks: settings.ranks, weights: 'zero' });
      return closingOnError(session, async () => {
        await restore(session, checkpoint);
        await rewindMetrics(directory, state.step);
        await record(pkg, directory, settings, calibration);
        const firstStep = state.step;
        return opened({ directory, pkg, settings, session, ...parts, firstStep, ...hooks }, true);
      });
    });
  } finally {
    checkpoint.close();
  }
}

/** Where a run begins, or goes on. */
interface Start {
  /** Updates done. */
  readonly step: number;
  readonly position: DataPosition;
  /** Plans of an earlier run of the steps that follow. */
  readonly recorded: ReadonlyMap<number, RecordedStep>;
  /** Of the data that the run was trained on. */
  readonly fingerprint?: string;
}

type Parts = Pick<TrainRun, 'corpus' | 'batches' | 'position' | 'spreader' | 'evalCorpus' | 'isCalibrated'>;

/** Forms groups and loads data, then goes on with them: whatever fails here has cost no rank yet. */
async function prepared<T>(
  pkg: Package,
  settings: TrainSettings,
  calibration: Calibration | undefined,
  start: Start,
  hooks: OpenHooks,
  work: (parts: Parts) => Promise<T>,
): Promise<T> {
  const { ranks, sp, seed, batchTokens } = settings;
  const { memoryGibPerRank, maxTokensPerGroup } = settings;
  const choices: CostChoices = { ranks, calibration, memoryGibPerRank, maxTokensPerGroup };
  const spreader = await spreaderOf(pkg, sp, choices, seed, hooks);
  try {
    const corpus = await loadDocuments(pkg, settings.data, settings);
    if (start.fingerprint !== undefined && start.fingerprint !== corpus.fingerprint)
      throw new UserError(
        `the training data is not what the run was trained on before (${settings.data.join(' ')})`,
        'bring back the files as they were, or train on the new data in a new run',
      );
    const evalCorpus =
      settings.evalData.length === 0
        ? undefined
        : await loadDocuments(pkg, settings.evalData, settings, 'eval');
    for (const one of evalCorpus === undefined ? [corpus] : [corpus, evalCorpus])
      requireRoom(one, spreader, pkg, ranks);
    const times = trainingTimes(pkg, choices);
    const batches = queueBatches({
      order: createDataOrder(corpus, seed, start.position),
      spreader,
      batchTokens,
      firstStep: start.step,
      endStep: settings.steps,
      known: (step, documents) => {
        const recorded = sp === 'auto' ? start.recorded.get(step + 1) : undefined;
        if (recorded === undefined || spreader.room === undefined) return undefined;
        return replayPlan(recorded, documents, times, spreader.room);
      },
    });
    // The first batch shows what the ranks would refuse, before they are started.
    const first = await unlessStopped(batches.first(), hooks.isStopped);
    for (const microBatch of first?.plan.microBatches ?? []) checkPlan(microBatch, ranks, pkg.manifest);
    const { position } = start;
    const isCalibrated = calibration !== undefined;
    return await work({ corpus, batches, position, spreader, evalCorpus, isCalibrated });
  } catch (error) {
    await spreader.close();
    throw error;
  }
}

/** @throws UserError when the ranks do not form the groups asked for, or the model has no room in them */
async function spreaderOf(
  pkg: Package,
  sp: TrainSettings['sp'],
  choices: CostChoices,
  seed: number,
  { reporter, plannerFault: fault }: OpenHooks,
): Promise<Spreader> {
  if (sp !== 'auto') return fixedSpreader(pkg, sp, choices);
  return autoSpreader(pkg, {
    ...choices,
    seed,
    fault,
    onFallback: (reason) =>
      reporter.onNote(
        `the planner failed (${reason}): from here on each step uses the best single degree instead`,
      ),
  });
}

const opened = (run: TrainRun, resumed: boolean): OpenedRun => ({
  ...run,
  resumed,
  close: async () => {
    await Promise.all([run.session.close(), run.spreader.close()]);
  },
});

/** A run keeps a copy of its calibration, so that it plans alike when it goes on. */
async function record(
  pkg: Package,
  directory: string,
  settings: TrainSettings,
  calibration: Calibration | undefined,
): Promise<void> {
  await writeRecord(directory, {
    format: 'ithaca-run',
    version: 1,
    ithaca: VERSION,
    package: { path: pkg.directory, hash: pkg.hash, name: pkg.manifest.name },
    settings,
  });
  if (calibration !== undefined) await saveCalibration(path.join(directory, CALIBRATION), calibration);
}

/** The package that a run was made with. @throws UserError when it is gone, or is another one */
export async function packageOf(
  recorded: { readonly path: string; readonly hash: string; readonly name: string },
  given: string | undefined,
): Promise<Package> {
  if (given === undefined && !isDirectory(recorded.path))
    throw new UserError(
      `the run's package ${recorded.path} is no longer there`,
      'name the package where it is now, before the other arguments',
    );
  const pkg = await openPackage(given ?? recorded.path);
  if (pkg.hash === recorded.hash) return pkg;
  throw new UserError(
    `${given ?? recorded.path} is not the package that the run was made with`,
    `the run needs ${recorded.name} with hash ${recorded.hash.slice(0, 12)}…, this one has ${pkg.hash.slice(0, 12)}…: start a new run with it`,
  );
}

function requireSameRun(
  { state, directory: checkpoint }: Checkpoint,
  pkg: Package,
  run: string,
  settings: TrainSettings,
): void {
  if (state.packageHash !== pkg.hash)
    throw new UserError(`${checkpoint} was made with another package`, 'resume with the package of the run');
  if (state.step >= settings.steps)
    throw new UserError(
      `${run} has done ${state.step} steps, of ${settings.steps} in all`,
      `give a larger total, such as --steps ${state.step + Math.max(1, settings.saveEvery)}`,
    );
  if (state.seed !== settings.seed)
    throw new UserError(`the run's seed is ${state.seed}, not ${settings.seed}`, 'leave --seed out');
}

/** Weights and moments from the checkpoint's files, a piece at a time. */
async function restore(session: TrainingSession, { weights, optimizer }: Checkpoint): Promise<void> {
  const { package: pkg, moments } = session;
  const expect = (file: SafetensorsReader, name: string, { shape }: ParameterEntry): void => {
    const info = file.info(name);
    if (info.shape.join() !== shape.join())
      throw new UserError(
        `${file.path}: ${name} has shape [${info.shape.join(', ')}], expected [${shape.join(', ')}]`,
      );
  };
  for (const parameter of pkg.manifest.parameters) expect(weights, parameter.name, parameter);
  for (const name of moments) expect(optimizer, name, pkg.parameter(name.slice('m/'.length)));
  const reading =
    (file: SafetensorsReader): ReadTensor =>
    (name, start, target) =>
      file.readRange(name, start, target);
  await session.loadTensors(reading(weights), reading(optimizer));
}

async function closingOnError<T>(session: TrainingSession, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    await session.close();
    throw error;
  }
}

/** Paths in settings that must mean the same when the run goes on from another folder. */
export const absoluteTokenizer = (tokenizer: string | undefined): string | undefined =>
  tokenizer === undefined || tokenizer === 'bytes' ? tokenizer : path.resolve(tokenizer);
