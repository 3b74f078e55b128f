import { UserError } from '../errors.js';
import type { Package } from '../package/read.js';
import { saveCheckpoint, type CheckpointState } from '../runtime/checkpoint.js';
import type { Corpus } from '../runtime/data/document.js';
import type { DataOrder } from '../runtime/data/order.js';
import { learningRate, type Schedule } from '../runtime/optimizer/schedule.js';
import type { TrainingSession } from '../runtime/session/session.js';
import { batchesOf, type Spreader } from './batches.js';
import { stepPeak } from './peak.js';
import { appendMetrics, type StepMetrics } from './run-directory.js';
import type { TrainSettings } from './settings.js';

/** What a run says while it goes on. */
export interface TrainReporter {
  onStep(metrics: StepMetrics): void;
  onSave(step: number): void;
}

/** Everything that is open while a run trains. */
export interface TrainRun {
  readonly directory: string;
  readonly pkg: Package;
  readonly settings: TrainSettings;
  readonly session: TrainingSession;
  readonly corpus: Corpus;
  readonly order: DataOrder;
  readonly spreader: Spreader;
  readonly evalCorpus: Corpus | undefined;
  /** Updates done before. */
  readonly firstStep: number;
  readonly reporter: TrainReporter;
  /** Asked after every step; true ends the run there. */
  readonly isStopped: () => boolean;
}

export interface TrainResult {
  /** Updates done. */
  readonly step: number;
  readonly last: StepMetrics | undefined;
  readonly stopped: boolean;
}

/**
 * Trains until `settings.steps` updates are done, or the run is stopped; either way the last step is saved.
 * @throws UserError when the loss is no number any more, or the disk is full; RankFailure. The checkpoints of
 *   earlier steps stay as they are.
 */
export async function train(run: TrainRun): Promise<TrainResult> {
  const { settings, reporter, firstStep } = run;
  let step = firstStep;
  let saved = firstStep;
  let last: StepMetrics | undefined;
  while (step < settings.steps && !run.isStopped()) {
    last = await trainStep(run, step);
    step++;
    appendMetrics(run.directory, last);
    reporter.onStep(last);
    if (step % settings.saveEvery === 0 || step === settings.steps || run.isStopped()) {
      await save(run, step);
      saved = step;
      reporter.onSave(step);
    }
  }
  // Stopped between the check after the last step and this one.
  if (saved !== step) {
    await save(run, step);
    reporter.onSave(step);
  }
  return { step, last, stopped: step < settings.steps };
}

/** One update from the next global batch, and the evaluation that is due after it. */
async function trainStep(run: TrainRun, step: number): Promise<StepMetrics> {
  const { settings, session, order, spreader, pkg } = run;
  const documents = order.nextBatch({ tokens: settings.batchTokens });
  const plan = spreader.plan(documents);
  const lr = learningRate(step, scheduleOf(settings));
  const done = await session.step(plan, { lr, step });
  if (!Number.isFinite(done.loss) || !Number.isFinite(done.gradNorm))
    throw new UserError(
      `step ${step + 1}: the loss is ${done.loss}, the gradient norm ${done.gradNorm}`,
      `lower --lr (it was ${lr.toPrecision(2)}), or warm up for longer (--warmup); checkpoints of earlier steps are intact`,
    );
  const isEval =
    run.evalCorpus !== undefined && ((step + 1) % settings.evalEvery === 0 || step + 1 === settings.steps);
  return {
    step: step + 1,
    loss: done.loss,
    grad_norm: done.gradNorm,
    lr,
    tokens: done.rowTokens,
    predicted: done.tokens,
    tokens_per_s: (done.rowTokens * 1000) / done.ms,
    bytes_exchanged: done.bytesExchanged,
    bytes_all_to_all: done.kinds['all-to-all'].bytesSent,
    exchanges: done.kinds['all-to-all'].exchanges,
    peak_bytes: stepPeak(pkg, plan, done.arenaBytes),
    ms: done.ms,
    groups: plan.map(({ lanes }) =>
      lanes.map((lane) => lane.documents.reduce((sum, { ids }) => sum + ids.length, 0)),
    ),
    eval_loss: isEval ? await evaluate(run, run.evalCorpus!) : undefined,
  };
}

/** Mean loss of the counted tokens of all documents; undefined when the run is stopped meanwhile. */
async function evaluate(run: TrainRun, corpus: Corpus): Promise<number | undefined> {
  const { session, spreader, settings } = run;
  let [lossSum, tokens] = [0, 0];
  for (const documents of batchesOf(corpus, settings.batchTokens)) {
    if (run.isStopped()) return undefined;
    const part = await session.evaluate(spreader.plan(documents));
    lossSum += part.lossSum;
    tokens += part.tokens;
  }
  return tokens === 0 ? 0 : lossSum / tokens;
}

export const scheduleOf = (settings: TrainSettings): Schedule => ({
  kind: settings.schedule,
  peak: settings.lr,
  warmupSteps: settings.warmupSteps,
  totalSteps: settings.steps,
  minRatio: settings.minRatio,
});

async function save(run: TrainRun, step: number): Promise<void> {
  const { directory, pkg, settings, session } = run;
  const [parameters, moments] = [await session.parameters(), await session.state()];
  await saveCheckpoint(
    directory,
    stateOf(run, step),
    pkg.manifest.parameters.map(({ name, shape }) => ({
      name,
      shape,
      weight: parameters.get(name)!,
      m: moments.get(`m/${name}`),
      v: moments.get(`v/${name}`),
    })),
    { keep: settings.keep },
  );
}

function stateOf({ pkg, settings, corpus, order }: TrainRun, step: number): CheckpointState {
  const { beta1, beta2, eps, weightDecay, clipNorm } = pkg.manifest.optimizer;
  return {
    step,
    seed: settings.seed,
    packageHash: pkg.hash,
    data: { ...order.position, fingerprint: corpus.fingerprint },
    optimizer: {
      kind: 'adamw',
      beta1,
      beta2,
      epsilon: eps,
      weightDecay,
      clipNorm: clipNorm === 0 ? null : clipNorm,
      schedule: scheduleOf(settings),
    },
  };
}
