import type { StepMetrics, TrainingSession } from '../../session/session.js';
import type { Load } from '../predict.js';
import { documentMaker, microBatchOf, type MicroBatchShape } from './documents.js';

/** A step as it was: what the ranks were given, and how long they took. */
export interface MeasuredStep {
  /** `[microBatch][group]`. */
  readonly loads: readonly (readonly Load[])[];
  /** On the clock. */
  readonly ms: number;
  /** On cores, all threads of the process together. */
  readonly processCpuMs: number;
  /** Of each micro-batch, the rank that worked longest: on a core, or on the clock where the system does not say. */
  readonly microBatchMs: readonly number[];
  readonly metrics: StepMetrics;
}

/** Runs micro-batches of made-up documents on the ranks of a session, whose weights stay as they are. */
export interface Stage {
  readonly world: number;
  /** Longest document that the model allows. */
  readonly maxDocument: number;
  run(shapes: readonly MicroBatchShape[]): Promise<MeasuredStep>;
}

/** @param pairs attended pairs of a sequence, as the cost model counts them */
export function stageOf(session: TrainingSession, pairs: (length: number) => number): Stage {
  const { world } = session;
  const { manifest } = session.package;
  const document = documentMaker(manifest);
  let step = 0;
  return {
    world,
    maxDocument: manifest.maxDocument?.tokens ?? Infinity,
    run: async (shapes) => {
      const plan = shapes.map((shape) => microBatchOf(shape, world, manifest.maxDegree, document));
      const cpuFrom = process.cpuUsage();
      const metrics = await session.step(plan, { lr: 0, step: step++ });
      const { user, system } = process.cpuUsage(cpuFrom);
      return {
        loads: plan.map(({ lanes }) =>
          lanes.map(({ ranks, documents }) => ({
            ranks,
            tokens: documents.reduce((sum, { ids }) => sum + ids.length, 0),
            pairs: documents.reduce((sum, { ids }) => sum + pairs(ids.length), 0),
          })),
        ),
        ms: metrics.ms,
        processCpuMs: (user + system) / 1000,
        microBatchMs: metrics.microBatches.map(({ ms, cpuMs }) => cpuMs ?? ms),
        metrics,
      };
    },
  };
}
