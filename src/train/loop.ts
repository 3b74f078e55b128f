import { UserError } from '../errors.js';
import type { Package } from '../package/read.js';
import { saveCheckpoint, type CheckpointState } from '../runtime/checkpoint.js';
import type { Corpus } from '../runtime/data/document.js';
import type { DataPosition } from '../runtime/data/order.js';
import { learningRate, type Schedule } from '../runtime/optimizer/schedule.js';
import type { TrainingSession } from '../runtime/session/session.js';
import { batchesOf } from './batches.js';
import { stepPeak } from './peak.js';
import { unlessStopped, type BatchQueue, type ReadyBatch } from './plan-ahead.js';
import { predictionTally, type PredictionError } from './prediction.js';
import { appendMetrics, type StepMetrics } from './run-directory.js';
import type { TrainSettings } from './settings.js';
import type { BatchPlan, Spreader } from './spreader.js';
import { recordMicroBatches, recordSolved, rounded } from './step-record.js';

/** What a run says while it goes on. */
export interface TrainReporter {
  onStep(metrics: StepMetrics): void;
  onSave(step: number): void;
  /** A line that the user should see. */
  onNote(note: string): void;
}

/** Everything that is open while a run trains. */
export interface TrainRun {
  readonly directory: string;
  readonly pkg: Package;
  readonly settings: TrainSettings;
  readonly session: TrainingSession;
  readonly corpus: Corpus;
  readonly batches: BatchQueue;
  /** Where the run stands in its data. */
  readonly position: DataPosition;
  readonly spreader: Spreader;
  /** Whether predictions are by measurements. */
  readonly isCalibrated: boolean;
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
  /** How steps compared with what the cost model said of them. */
  readonly prediction: PredictionError | undefined;
}

/**
 * Trains until `settings.steps` updates are done, or the run is stopped; either way the last step is saved.
 * @throws UserError when the loss is no number any more, or the disk is full; RankFailure. The checkpoints of
 *   earlier steps stay as they are.
 */
export async function train(run: TrainRun): Promise<TrainResult> {
  const { settings, reporter, firstStep } = run;
  const tally = predictionTally();
  const watch = watchPlanner(run);
  const evaluator = evaluatorOf(run);
  let { position } = run;
  let step = firstStep;
  let saved = firstStep;
  let last: StepMetrics | undefined;
  while (step < settings.steps && !run.isStopped()) {
    // What the planner is at must not keep a run that is to stop.
    const batch = await unlessStopped(run.batches.next(), run.isStopped);
    if (batch === undefined) break;
    last = await trainStep(run, step, batch, evaluator);
    position = batch.after;
    step++;
    appendMetrics(run.directory, last);
    tally.add(last.predicted_ms, last.ms);
    reporter.onStep(last);
    watch(last);
    if (step % settings.saveEvery === 0 || step === settings.steps || run.isStopped()) {
      await save(run, step, position);
      saved = step;
      reporter.onSave(step);
    }
  }
  // Stopped between the check after the last step and this one.
  if (saved !== step) {
    await save(run, step, position);
    reporter.onSave(step);
  }
  return { step, last, stopped: step < settings.steps, prediction: tally.result() };
}

/** A wait of a larger share of its step is worth a word. */
const NOTED_WAIT = 0.05;
const NOTED_WAIT_MS = 5;

/** Says once, with the numbers, that ranks wait for plans. The first plan of a run has no step to hide behind. */
function watchPlanner({ reporter, firstStep }: TrainRun): (metrics: StepMetrics) => void {
  let said = false;
  return ({ step, ms, plan, plan_wait_ms: waitMs }) => {
    if (said || plan === undefined || step === firstStep + 1) return;
    if (waitMs < NOTED_WAIT_MS || waitMs < NOTED_WAIT * ms) return;
    said = true;
    reporter.onNote(
      `the planner is slower than the steps: step ${step} took ${ms.toFixed(0)} ms, its plan ${plan.solve_ms.toFixed(0)} ms, for which the ranks waited ${waitMs.toFixed(0)} ms; larger batches (--batch-tokens) hide it. Later waits: plan_wait_ms in metrics.jsonl`,
    );
  };
}

/** One update from a global batch, and the evaluation that is due after it. */
async function trainStep(
  run: TrainRun,
  step: number,
  { documents, plan, waitMs }: ReadyBatch,
  evaluate: Evaluator,
): Promise<StepMetrics> {
  const { settings, session, pkg } = run;
  const { microBatches } = plan;
  const lr = learningRate(step, scheduleOf(settings));
  const done = await session.step(microBatches, { lr, step });
  if (!Number.isFinite(done.loss) || !Number.isFinite(done.gradNorm))
    throw new UserError(
      `step ${step + 1}: the loss is ${done.loss}, the gradient norm ${done.gradNorm}`,
      `lower --lr (it was ${lr.toPrecision(2)}), or warm up for longer (--warmup); checkpoints of earlier steps are intact`,
    );
  const isEval =
    run.evalCorpus !== undefined && ((step + 1) % settings.evalEvery === 0 || step + 1 === settings.steps);
  const records = recordMicroBatches(plan, documents, done.microBatches);
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
    peak_bytes: stepPeak(pkg, microBatches, done.arenaBytes),
    ms: done.ms,
    predicted_ms: rounded(plan.predicted.ms),
    plan_wait_ms: rounded(waitMs),
    groups: records.map(({ groups }) => groups.map(({ tokens }) => tokens)),
    plan: recordSolved(plan),
    micro_batches: records,
    ...(isEval ? await evaluate() : {}),
  };
}

/** Mean loss, and accuracy, of what counts in all documents; undefined when the run is stopped meanwhile. */
type Evaluator = () => Promise<Pick<StepMetrics, 'eval_loss' | 'eval_accuracy'> | undefined>;

/** Evaluation batches are the same every time, and so are their plans: each is made once, while another one runs. */
function evaluatorOf({ evalCorpus, session, spreader, settings, isStopped }: TrainRun): Evaluator {
  const plans: Promise<BatchPlan>[] = [];
  return async () => {
    if (evalCorpus === undefined) return undefined;
    const batches = [...batchesOf(evalCorpus, settings.batchTokens)];
    const planOf = (index: number): Promise<BatchPlan> => {
      const plan = (plans[index] ??= spreader.plan(batches[index]!));
      plan.catch(() => {});
      return plan;
    };
    let [lossSum, tokens, correct] = [0, 0, 0 as number | undefined];
    for (const index of batches.keys()) {
      const plan = await unlessStopped(planOf(index), isStopped);
      if (plan === undefined || isStopped()) return undefined;
      if (index + 1 < batches.length) void planOf(index + 1);
      const part = await session.evaluate(plan.microBatches);
      lossSum += part.lossSum;
      tokens += part.tokens;
      correct = part.correct === undefined ? undefined : (correct ?? 0) + part.correct;
    }
    const mean = (sum: number): number => (tokens === 0 ? 0 : sum / tokens);
    return {
      eval_loss: mean(lossSum),
      ...(correct === undefined ? {} : { eval_accuracy: mean(correct) }),
    };
  };
}

export const scheduleOf = (settings: TrainSettings): Schedule => ({
  kind: settings.schedule,
  peak: settings.lr,
  warmupSteps: settings.warmupSteps,
  totalSteps: settings.steps,
  minRatio: settings.minRatio,
});

async function save(run: TrainRun, step: number, position: DataPosition): Promise<void> {
  const { directory, pkg, settings, session } = run;
  const moments = new Set(session.moments);
  const moment = (name: string) => (moments.has(name) ? () => session.pieces(name) : undefined);
  await saveCheckpoint(
    directory,
    stateOf(run, step, position),
    pkg.manifest.parameters.map(({ name, shape }) => ({
      name,
      shape,
      weight: () => session.pieces(name),
      m: moment(`m/${name}`),
      v: moment(`v/${name}`),
    })),
    { keep: settings.keep },
  );
}

function stateOf({ pkg, settings, corpus }: TrainRun, step: number, position: DataPosition): CheckpointState {
  const { beta1, beta2, eps, weightDecay, clipNorm } = pkg.manifest.optimizer;
  return {
    step,
    seed: settings.seed,
    packageHash: pkg.hash,
    data: { ...position, fingerprint: corpus.fingerprint },
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
