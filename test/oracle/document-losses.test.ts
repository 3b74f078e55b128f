import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { openPackage, type Package } from '../../src/package/read.js';
import type { Document } from '../../src/runtime/data/document.js';
import { loadCorpus } from '../../src/runtime/data/load.js';
import { gradientError, openReference } from '../../src/runtime/executor/reference.js';
import type { MicroBatchPlan } from '../../src/runtime/session/plan.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { loadOracle, modelFolder, oracleGradientError } from '../support/oracle.js';

const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-document-losses-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

async function compiled(name: string, config: unknown = {}): Promise<Package> {
  const out = path.join(scratch, `${name}.ithaca`);
  await compileModel(path.join(modelFolder(name), 'model.onnx'), out, {
    config: parseConfig(config, 'test'),
    weights: true,
    replace: true,
  });
  return openPackage(out);
}

type Oracle = ReturnType<typeof loadOracle>;

/** A case of an oracle as a user would write it down, read by the loader for the package. */
async function documentsOf(pkg: Package, oracle: Oracle, kind: string): Promise<Document[]> {
  const ids = oracle.rows(kind);
  const [, width = 1] = oracle.tensors.info(`${kind}.targets`).shape;
  const targets = Array.from(oracle.tensors.read(`${kind}.targets`) as ArrayLike<number | bigint>, Number);
  const lines = ids.map((input_ids, i) => {
    const own = targets.slice(i * width, (i + 1) * width);
    return JSON.stringify({ input_ids, label: own.length === 1 ? own[0] : own });
  });
  const file = path.join(scratch, `${pkg.manifest.name}-${kind}.jsonl`);
  writeFileSync(file, lines.join('\n'));
  const { vocabulary, loss } = pkg.manifest;
  const corpus = await loadCorpus([file], { vocabulary, loss });
  return Array.from({ length: corpus.count }, (_, i) => corpus.document(i));
}

const lane = (first: number, degree: number, documents: readonly Document[]) => ({
  ranks: Array.from({ length: degree }, (_, i) => first + i),
  documents,
});

describe.each([
  ['bert-mean', 'regression', { kind: 'mean' }, /one number from the mean over a document/],
  ['gpt2-pad', 'regression', { kind: 'last-except', id: 95 }, /the mean squared error of labels/],
  [
    'llama-pad',
    'document-classification',
    { kind: 'last-except', id: 0 },
    /the last token of a document that is not id 0 is classified/,
  ],
] as const)('%s: %s', (name, kind, pool, note) => {
  const oracle = loadOracle(modelFolder(name));
  let pkg: Package;
  let all: Document[];
  let session: TrainingSession;

  beforeAll(async () => {
    pkg = await compiled(name);
    session = await TrainingSession.open(pkg, { ranks: 4 });
    const cases = await Promise.all(['first', 'packed'].map((c) => documentsOf(pkg, oracle, c)));
    all = cases.flat();
  });
  afterAll(() => session.close());

  test('the loss is guessed, with a note', () => {
    expect(pkg.manifest.loss).toMatchObject({ kind, pool });
    expect(pkg.manifest.notes.join('\n')).toMatch(note);
  });

  test('gradients are PyTorch’s on both executors', async () => {
    for (const [c, { loss, predicted_tokens }] of Object.entries(oracle.json.cases)) {
      const plan = { lanes: [lane(0, 4, await documentsOf(pkg, oracle, c))] };
      const ort = await session.gradients([plan]);
      expect(ort.tokens).toBe(predicted_tokens);
      expect(Math.abs(ort.loss - loss)).toBeLessThan(1e-5);
      expect((await session.evaluate([plan])).loss).toBeCloseTo(loss, 5);
      const found = oracleGradientError(oracle, c, ort.gradients);
      expect(found.error, `${c} ${found.worst}`).toBeLessThan(1e-4);
      const exact = openReference(pkg).gradients(plan);
      expect(Math.abs(exact.lossSum / exact.count - loss)).toBeLessThan(1e-5);
      const gradients = new Map([...exact.gradients].map(([n, { data }]) => [n, data]));
      const reference = oracleGradientError(oracle, c, gradients);
      expect(reference.error, reference.worst).toBeLessThan(1e-4);
    }
  });

  /** The same six documents in groups of every size, some of them empty, and of unequal ones. */
  const groupings = (): readonly MicroBatchPlan[] => [
    ...[2, 3, 4, 5, 8].map((degree) => ({ lanes: [lane(0, degree, all)] })),
    { lanes: [lane(0, 3, all.slice(0, 1)), lane(3, 1, []), lane(4, 4, all.slice(1))] },
    { lanes: [lane(0, 1, all.slice(3)), lane(1, 2, all.slice(0, 2)), lane(3, 5, all.slice(2, 3))] },
  ];

  test('in float64 the gradient does not depend on the grouping', () => {
    const reference = openReference(pkg);
    const alone = reference.gradients({ lanes: [lane(0, 1, all)] });
    for (const plan of groupings()) {
      const other = reference.gradients(plan);
      expect(other.count).toBe(all.length);
      expect(Math.abs(other.lossSum - alone.lossSum)).toBeLessThan(1e-12 * Math.abs(alone.lossSum));
      const { error, parameter } = gradientError(alone.gradients, other.gradients);
      expect(error, `${plan.lanes.map(({ ranks }) => ranks.length).join(' ')}: ${parameter}`).toBeLessThan(
        1e-12,
      );
    }
  });

  test('on ONNX Runtime neither, nor on micro-batches', async () => {
    const gradientsOf = async (plan: readonly MicroBatchPlan[]) => {
      const { gradients, tokens } = await session.gradients(plan);
      expect(tokens).toBe(all.length);
      return new Map([...gradients].map(([n, g]) => [n, { shape: [g.length], data: Float64Array.from(g) }]));
    };
    const idle = [1, 2, 3].map((rank) => lane(rank, 1, []));
    const alone = await gradientsOf([{ lanes: [lane(0, 1, all), ...idle] }]);
    const plans: readonly (readonly MicroBatchPlan[])[] = [
      [{ lanes: [lane(0, 4, all)] }],
      [
        { lanes: [lane(0, 1, all.slice(0, 1)), lane(1, 3, all.slice(1, 3))] },
        { lanes: [lane(0, 2, []), lane(2, 2, all.slice(3))] },
      ],
    ];
    for (const plan of plans) {
      const { error, parameter } = gradientError(alone, await gradientsOf(plan));
      expect(error, parameter).toBeLessThan(1e-5);
    }
  });
});
