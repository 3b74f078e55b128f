import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { Package } from '../../../src/package/read.js';
import { RankFailure } from '../../../src/runtime/ranks/pool.js';
import { instructionLabel } from '../../../src/runtime/session/labels.js';
import { groupsOfDegree, type MicroBatchPlan } from '../../../src/runtime/session/plan.js';
import type { Fault } from '../../../src/runtime/session/protocol.js';
import { TrainingSession } from '../../../src/runtime/session/session.js';
import { randomParameters } from '../../support/tiny.js';
import { documentsOf, packageFolder, tinyGraph, writeGraph } from './packages.js';

const { folder, remove } = packageFolder();
afterAll(remove);
const graph = tinyGraph();
let written: Promise<Package> | undefined;
const tiny = (): Promise<Package> =>
  (written ??= writeGraph(folder, graph, randomParameters(graph), 1, [10]));

let session: TrainingSession | undefined;
afterEach(async () => {
  await session?.close();
  session = undefined;
});

const ids = [1, 2, 3, 4, 5, 6, 7];
const documents = documentsOf([{ ids, labels: ids }]);
const plan: MicroBatchPlan[] = [{ lanes: [{ ranks: [0, 1], documents }] }];

/** How a promise failed, and after how many milliseconds. */
async function failureOf(promise: Promise<unknown>): Promise<{ failure: unknown; ms: number }> {
  const from = performance.now();
  const failure = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  return { failure, ms: performance.now() - from };
}

describe('a rank that dies', () => {
  it('ends the run within a second at any instruction, named', async () => {
    const pkg = await tiny();
    const [train, update] = [pkg.program('train'), pkg.program('update')];
    const inUpdate = train.instructions.length + pkg.program('eval').instructions.length;
    const places = [
      ...train.instructions.keys(),
      inUpdate,
      inUpdate + Math.floor(update.instructions.length / 2),
      inUpdate + update.instructions.length - 1,
    ];
    expect(instructionLabel(pkg, inUpdate)).toBe(`update: ${update.labels[0]}`);
    for (const [i, instruction] of places.entries()) {
      const fault: Fault = { rank: i % 2, instruction, how: i % 3 === 2 ? 'exit' : 'throw' };
      session = await TrainingSession.open(pkg, { ranks: 2, fault });
      const { failure, ms } = await failureOf(session.step(plan, { lr: 0.1, step: 0 }));
      expect(failure, `instruction ${instruction}`).toBeInstanceOf(RankFailure);
      expect((failure as RankFailure).message).toContain(
        `rank ${fault.rank} failed at ${instructionLabel(pkg, instruction)}`,
      );
      await session.close();
      expect(ms).toBeLessThan(1000);
      expect(session.failure).toBe(failure);
    }
  });

  it('by termination ends the run', async () => {
    session = await TrainingSession.open(await tiny(), { ranks: 2 });
    await session.step(plan, { lr: 0.1, step: 0 });
    const steps = (async () => {
      for (let step = 1; ; step++) await session.step(plan, { lr: 0.1, step });
    })();
    const failing = failureOf(steps);
    await new Promise((resolve) => setTimeout(resolve, 30));
    const from = performance.now();
    await session.terminate(1);
    const { failure } = await failing;
    expect(performance.now() - from).toBeLessThan(1000);
    expect(failure).toBeInstanceOf(RankFailure);
    expect((failure as RankFailure).rank).toBe(1);
    await expect(session.parameters()).rejects.toBe(failure);
  });
});

describe('a plan', () => {
  it('that the model does not allow is refused, and the session goes on', async () => {
    session = await TrainingSession.open(await tiny(), { ranks: 5 });
    const five = (given = documents): MicroBatchPlan[] => [
      {
        lanes: [
          { ranks: [0, 1, 2], documents: given },
          { ranks: [3, 4], documents: [] },
        ],
      },
    ];
    const refuse = (wrong: MicroBatchPlan[]) => expect(session!.gradients(wrong)).rejects;
    await refuse([{ lanes: [{ ranks: [0, 1, 2, 3, 4], documents }] }]).toThrow(
      'groups of 5 ranks are too large: tiny has 4 attention heads',
    );
    const long = Array.from({ length: 101 }, () => 1);
    await refuse(five(documentsOf([{ ids: long, labels: long }]))).toThrow(
      'document 0: the document has 101 tokens, the model allows 100 (this test says so)',
    );
    await refuse(five(documentsOf([{ ids: [1, 11], labels: [1, 1] }]))).toThrow(
      'document 0: token 1 has id 11, outside the vocabulary of 11',
    );
    await refuse(five(documentsOf([{ ids: [1, 10], labels: [1, 1] }]))).toThrow(
      'document 0: token 1 has id 10, which the model takes for padding',
    );
    await refuse(five(documentsOf([{ ids: [1, 1], labels: [1, -5] }]))).toThrow(
      'document 0: the label of token 0 is -5, outside the vocabulary of 11',
    );
    await refuse([{ lanes: [{ ranks: [0, 1, 2], documents }] }]).toThrow('do not partition 5 ranks');
    expect((await session.gradients(five())).tokens).toBe(6);
  });

  it('of equal groups fills the world', () => {
    expect(groupsOfDegree(6, 2)).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
    ]);
    for (const sp of [0, 4, 7, 1.5]) expect(() => groupsOfDegree(6, sp)).toThrow('cannot form groups');
  });
});

describe('a package without weights', () => {
  it('is opened for weights that follow only', async () => {
    const pkg = await tiny();
    const parameters = pkg.manifest.parameters.map((p) => ({ ...p, weight: { kind: 'absent' as const } }));
    const absent = { ...pkg, manifest: { ...pkg.manifest, parameters } };
    await expect(TrainingSession.open(absent, { ranks: 1 })).rejects.toThrow('compiled without weights');
    session = await TrainingSession.open(absent, { ranks: 1, weights: 'zero' });
    await session.loadTensors((name, start, target) => pkg.readParameterInto(name, target, start));
    expect((await session.parameters()).get('wq')).toEqual(pkg.readParameter('wq'));
    expect((await session.state()).get('m/wq')).toEqual(new Float32Array(96));
  });
});
