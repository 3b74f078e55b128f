import path from 'node:path';
import { UserError } from '../errors.js';
import { openPackage, type Package } from '../package/read.js';
import { loadCheckpoint, type Checkpoint } from '../runtime/checkpoint.js';
import { createDataOrder, type DataPosition } from '../runtime/data/order.js';
import { checkPlan } from '../runtime/session/plan.js';
import { TrainingSession } from '../runtime/session/session.js';
import { VERSION } from '../version.js';
import { loadDocuments, spreaderOf } from './batches.js';
import type { TrainReporter, TrainRun } from './loop.js';
import {
  isDirectory,
  readRecord,
  requireFreshRun,
  rewindMetrics,
  runOf,
  writeRecord,
} from './run-directory.js';
import { continuedSettings, type TrainFlags, type TrainSettings } from './settings.js';

export interface OpenHooks {
  readonly reporter: TrainReporter;
  readonly isStopped: () => boolean;
}

/** A run ready for `train`; close its session afterwards. */
export interface OpenedRun extends TrainRun {
  readonly resumed: boolean;
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
  const parts = await prepare(pkg, settings, { epoch: 0, index: 0 });
  const session = await TrainingSession.open(pkg, { ranks: settings.ranks });
  return closingOnError(session, async () => {
    await record(pkg, directory, settings);
    await rewindMetrics(directory, 0);
    return { directory, pkg, settings, session, ...parts, firstStep: 0, ...hooks, resumed: false };
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
    const parts = await prepare(
      pkg,
      settings,
      { epoch: state.data.epoch, index: state.data.index },
      state.data.fingerprint,
    );
    const session = await TrainingSession.open(pkg, { ranks: settings.ranks, weights: 'zero' });
    return await closingOnError(session, async () => {
      await restore(session, checkpoint);
      await rewindMetrics(directory, state.step);
      await record(pkg, directory, settings);
      return { directory, pkg, settings, session, ...parts, firstStep: state.step, ...hooks, resumed: true };
    });
  } finally {
    checkpoint.close();
  }
}

/** Loads data and forms groups: whatever fails here has cost nothing yet. */
async function prepare(
  pkg: Package,
  settings: TrainSettings,
  position: DataPosition,
  fingerprint?: string,
): Promise<Pick<TrainRun, 'corpus' | 'order' | 'spreader' | 'evalCorpus'>> {
  const spreader = spreaderOf(pkg, settings);
  const corpus = await loadDocuments(pkg, settings.data, settings);
  if (fingerprint !== undefined && fingerprint !== corpus.fingerprint)
    throw new UserError(
      `the training data is not what the run was trained on before (${settings.data.join(' ')})`,
      'bring back the files as they were, or train on the new data in a new run',
    );
  const evalCorpus =
    settings.evalData.length === 0 ? undefined : await loadDocuments(pkg, settings.evalData, settings);
  const order = createDataOrder(corpus, settings.seed, position);
  // A plan of the first batch shows what the ranks would refuse, before they are started.
  const first = createDataOrder(corpus, settings.seed, position).nextBatch({ tokens: settings.batchTokens });
  for (const microBatch of spreader.plan(first)) checkPlan(microBatch, settings.ranks, pkg.manifest);
  return { corpus, order, spreader, evalCorpus };
}

const record = (pkg: Package, directory: string, settings: TrainSettings): Promise<void> =>
  writeRecord(directory, {
    format: 'ithaca-run',
    version: 1,
    ithaca: VERSION,
    package: { path: pkg.directory, hash: pkg.hash, name: pkg.manifest.name },
    settings,
  });

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

/** Weights and moments from the checkpoint's files, one tensor at a time. */
async function restore(session: TrainingSession, { weights, optimizer }: Checkpoint): Promise<void> {
  const { parameters } = session.package.manifest;
  for (const { name, shape } of parameters) {
    const info = weights.info(name);
    if (info.shape.join() !== shape.join())
      throw new UserError(
        `${weights.path}: ${name} has shape [${info.shape.join(', ')}], expected [${shape.join(', ')}]`,
      );
  }
  const reading = (file: typeof weights) => (name: string) => {
    const target = new Float32Array(file.info(name).elements);
    file.readInto(name, target);
    return target;
  };
  await session.load(reading(weights), reading(optimizer));
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
