import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { Package } from '../../../src/package/read.js';
import { groupsOfDegree, type MicroBatchPlan } from '../../../src/runtime/session/plan.js';
import {
  TrainingSession,
  type ReadTensor,
  type SessionOptions,
  type Tensors,
} from '../../../src/runtime/session/session.js';
import { loadOracle, modelFolder, oracleGradientError } from '../../support/oracle.js';
import { gradientError } from '../../support/tiny.js';
import { compiledModel, documentsOf, packageFolder } from './packages.js';

/** Sessions on a real export, against PyTorch and against each other. */

const { folder, remove } = packageFolder();
afterAll(remove);
const oracle = loadOracle(modelFolder('llama'));
const { adamw, cases } = oracle.json;
const packages = new Map<number, Promise<Package>>();

/** llama under the oracle's AdamW. */
function llama(zeroStage: 0 | 1): Promise<Package> {
  const optimizer = {
    beta1: adamw.betas[0],
    beta2: adamw.betas[1],
    eps: adamw.eps,
    weightDecay: adamw.weight_decay,
    clipNorm: 0,
    zeroStage,
  };
  const known = packages.get(zeroStage) ?? compiledModel(folder, 'llama', { optimizer });
  packages.set(zeroStage, known);
  return known;
}

const opened: TrainingSession[] = [];
afterEach(async () => {
  for (const session of opened.splice(0)) await session.close();
});

async function open(zeroStage: 0 | 1, options: SessionOptions): Promise<TrainingSession> {
  const session = await TrainingSession.open(await llama(zeroStage), options);
  opened.push(session);
  return session;
}

const spread = (
  documents: MicroBatchPlan['lanes'][number]['documents'],
  groups: readonly (readonly number[])[],
) => ({
  lanes: groups.map((ranks, g) => ({
    ranks,
    documents: documents.filter((_, i) => i % groups.length === g),
  })),
});

const reading =
  (tensors: Tensors): ReadTensor =>
  (name, start, target) =>
    target.set(tensors.get(name)!.subarray(start, start + target.length));

describe('a training session', () => {
  const names = Object.keys(cases);
  const documents = (name: string) => documentsOf(oracle.documents(name));

  it('gives PyTorch’s losses and gradients under any grouping', async () => {
    const three = await open(1, { ranks: 3 });
    for (const name of names) {
      const all = documents(name);
      const plans: MicroBatchPlan[][] = [
        [spread(all, [[0, 1, 2]])],
        [spread(all, [[0, 1], [2]])],
        all.map((document, i) => ({
          lanes: [
            { ranks: [0], documents: i % 2 === 0 ? [document] : [] },
            { ranks: [1, 2], documents: i % 2 === 0 ? [] : [document] },
          ],
        })),
      ];
      const results = [];
      for (const plan of plans) results.push(await three.gradients(plan));
      for (const { loss, tokens, gradients, gradNorm } of results) {
        expect(tokens).toBe(cases[name]!.predicted_tokens);
        expect(Math.abs(loss - cases[name]!.loss)).toBeLessThan(1e-5);
        const { worst, error } = oracleGradientError(oracle, name, gradients);
        expect(error, worst).toBeLessThan(1e-4);
        const other = gradientError(results[0]!.gradients, gradients);
        expect(other.error, other.worst).toBeLessThan(1e-5);
        expect(Math.abs(gradNorm / results[0]!.gradNorm - 1)).toBeLessThan(1e-5);
      }
    }
  });

  it.each([
    [0, 1, 1],
    [0, 3, 3],
    [1, 1, 1],
    [1, 4, 2],
  ] as const)('takes PyTorch’s AdamW steps, ZeRO %i on %i ranks', async (zeroStage, ranks, sp) => {
    const session = await open(zeroStage, { ranks });
    const plan = [spread(documents('first'), groupsOfDegree(ranks, sp))];
    for (const [step, loss] of adamw.losses.entries()) {
      const metrics = await session.step(plan, { lr: adamw.lr, step });
      expect(Math.abs(metrics.loss - loss)).toBeLessThan(1e-5);
    }
    const weights = oracle.toTorch(await session.parameters(), false);
    for (const [param, { noise_max }] of Object.entries(adamw.params)) {
      const expected = oracle.tensors.read(`adamw3/${param}`) as Float32Array;
      const actual = weights.get(param)!;
      const worst = expected.reduce((most, x, i) => Math.max(most, Math.abs(x - actual[i]!)), 0);
      expect(worst, param).toBeLessThan(Math.max(1e-5, 3 * noise_max));
    }
  });

  it('resumes on other ranks from whole parameters and moments, bit for bit on the same', async () => {
    const plan = (world: number, sp: number) => [spread(documents('first'), groupsOfDegree(world, sp))];
    const first = await open(1, { ranks: 2 });
    for (const step of [0, 1]) await first.step(plan(2, 2), { lr: 1e-3, step });
    const [parameters, state] = [await first.parameters(), await first.state()];
    await first.step(plan(2, 2), { lr: 1e-3, step: 2 });
    const expected = await first.parameters();
    for (const [ranks, sp, bound] of [
      [2, 2, 0],
      [3, 1, 1e-5],
    ] as const) {
      const other = await open(1, { ranks, weights: 'zero' });
      await other.loadTensors(reading(parameters), reading(state), { pieceBytes: 100 });
      expect(await other.state()).toEqual(state);
      for (const name of [first.moments[0]!, first.moments.at(-1)!, [...parameters.keys()][0]!]) {
        const pieces: Float32Array[] = [];
        for await (const piece of other.pieces(name, 100)) pieces.push(piece);
        expect(pieces.every(({ length }) => length <= 25)).toBe(true);
        expect(Float32Array.from(pieces.flatMap((piece) => [...piece]))).toEqual(
          (state.get(name) ?? parameters.get(name))!,
        );
      }
      await other.step(plan(ranks, sp), { lr: 1e-3, step: 2 });
      for (const [name, values] of await other.parameters()) {
        const truth = expected.get(name)!;
        const worst = values.reduce((most, x, i) => Math.max(most, Math.abs(x - truth[i]!)), 0);
        expect(worst, name).toBeLessThanOrEqual(bound);
      }
    }
  });

  it('streams logits, and their loss is that of training', async () => {
    const session = await open(0, { ranks: 3 });
    const all = documents('first');
    const plan = [spread(all, [[0, 1], [2]]), spread(all.slice(0, 1), [[0], [1, 2]])];
    const vocabulary = session.package.manifest.vocabulary;
    const rows = plan.map(({ lanes }) =>
      lanes.map((lane) =>
        new Float32Array(vocabulary * lane.documents.reduce((n, d) => n + d.ids.length, 0)).fill(NaN),
      ),
    );
    const metrics = await session.evaluate(plan, ({ microBatch, lane, row, data }) =>
      rows[microBatch]![lane]!.set(data, row * vocabulary),
    );
    const { loss } = await session.gradients(plan);
    expect(Math.abs(metrics.loss - loss)).toBeLessThan(1e-6);
    const whole = oracle.tensors.read('first.logits') as Float32Array;
    const per = whole.length / all.length;
    const expected = (document: number): Float32Array => whole.subarray(document * per, (document + 1) * per);
    const lanes = rows.flat();
    const truth = [
      all.flatMap((_, i) => (i % 2 === 0 ? [...expected(i)] : [])),
      all.flatMap((_, i) => (i % 2 === 1 ? [...expected(i)] : [])),
      [...expected(0)],
      [],
    ];
    truth.forEach((logits, lane) => {
      expect(lanes[lane]!.length).toBe(logits.length);
      const worst = logits.reduce((most, x, i) => Math.max(most, Math.abs(x - lanes[lane]![i]!)), 0);
      expect(worst).toBeLessThan(1e-4);
    });
    expect(await session.evaluate(plan)).toMatchObject({ tokens: metrics.tokens });
    await expect(
      session.evaluate(plan, () => {
        throw new Error('no more');
      }),
    ).rejects.toThrow('no more');
  });

  it('sends what Ulysses says: twice a layer each way', async () => {
    const session = await open(0, { ranks: 2 });
    const [document] = documents('first');
    const plan = [{ lanes: [{ ranks: [0, 1], documents: [document!] }] }];
    const { kinds, rowTokens } = await session.step(plan, { lr: 0, step: 0 });
    const [layers, heads, kvHeads, size] = [2, 8, 2, 8];
    const oneWay = rowTokens * (2 * heads + 2 * kvHeads) * size * 4 * (1 / 2) * layers;
    expect(rowTokens).toBe(document!.ids.length);
    expect(kinds['all-to-all']).toEqual({ exchanges: 4 * layers, bytesSent: 2 * oneWay });
    const one = await open(0, { ranks: 1 });
    const alone = await one.step([spread([document!], [[0]])], { lr: 0, step: 0 });
    expect(alone.bytesExchanged).toBe(0);
    expect(alone.arenaBytes).toBeGreaterThan(0);
  });
});
