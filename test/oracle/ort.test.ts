import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { weightValues, writeTrainedModel } from '../../src/ir/onnx/write.js';
import { openPackage, type Package } from '../../src/package/read.js';
import type { Document } from '../../src/runtime/data/document.js';
import type { Lane, MicroBatchPlan } from '../../src/runtime/session/plan.js';
import { TrainingSession, type GradientMetrics } from '../../src/runtime/session/session.js';
import {
  loadOracle,
  ORACLE_MODELS,
  modelFolder,
  oracleGradientError,
  targetsOf,
  type Oracle,
  type OracleDocument,
} from '../support/oracle.js';
import { crossEntropy } from '../support/cross-entropy.js';
import { gradientError } from '../support/tiny.js';

const CONFIG = { optimizer: { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 0 } };

const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-oracle-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const packages = new Map<string, Promise<Package>>();
const packageOf = (name: string): Promise<Package> => {
  const made = packages.get(name) ?? compilePackage(name);
  packages.set(name, made);
  return made;
};

async function compilePackage(name: string): Promise<Package> {
  const out = path.join(scratch, `${name}.ithaca`);
  await compileModel(path.join(modelFolder(name), 'model.onnx'), out, {
    config: parseConfig(CONFIG, 'test'),
    weights: true,
    replace: false,
  });
  return openPackage(out);
}

const documentOf = (document: OracleDocument): Document => ({
  ids: Int32Array.from(document.ids),
  labels: Int32Array.from(targetsOf(document)),
  ...(document.types && { types: Int32Array.from(document.types) }),
  origin: 'oracle',
});

/** Consecutive lanes of the given degrees. */
const lanesOf = (
  parts: readonly (readonly [degree: number, documents: readonly Document[]])[],
): MicroBatchPlan => {
  let next = 0;
  const lanes = parts.map(([degree, documents]): Lane => {
    const ranks = Array.from({ length: degree }, (_, i) => next + i);
    next += degree;
    return { ranks, documents };
  });
  return { lanes };
};

async function withSession<T>(
  pkg: Package,
  ranks: number,
  use: (session: TrainingSession) => Promise<T>,
): Promise<T> {
  const session = await TrainingSession.open(pkg, { ranks });
  try {
    return await use(session);
  } finally {
    await session.close();
  }
}

const gradientsOf = (
  pkg: Package,
  ranks: number,
  plan: readonly MicroBatchPlan[],
): Promise<GradientMetrics> => withSession(pkg, ranks, (session) => session.gradients(plan));

describe.each(ORACLE_MODELS)('%s on ONNX Runtime against PyTorch', (name) => {
  let oracle: Oracle;
  let pkg: Package;

  beforeAll(async () => {
    oracle = loadOracle(modelFolder(name));
    pkg = await packageOf(name);
  });

  test('loss and gradients of every case, on one rank', async () => {
    await withSession(pkg, 1, async (session) => {
      for (const kind of Object.keys(oracle.json.cases)) {
        const found = await session.gradients([lanesOf([[1, oracle.documents(kind).map(documentOf)]])]);
        expect(Math.abs(found.loss - oracle.json.cases[kind]!.loss)).toBeLessThan(1e-5);
        const { worst, error } = oracleGradientError(oracle, kind, found.gradients);
        expect(error, `${kind} ${worst}`).toBeLessThan(1e-4);
      }
    });
  });

  test('logits, streamed in tiles by two ranks', async () => {
    const documents = oracle.documents('first').map(documentOf);
    const expected = oracle.tensors.read('first.logits');
    let [worst, rows] = [0, 0];
    await withSession(pkg, 2, (session) =>
      session.evaluate([lanesOf([[2, documents]])], (tile) => {
        const width = tile.data.length / tile.rows;
        tile.data.forEach(
          (x, i) => (worst = Math.max(worst, Math.abs(x - Number(expected[tile.row * width + i])))),
        );
        rows += tile.rows;
      }),
    );
    expect(rows).toBe(96);
    expect(worst).toBeLessThan(1e-4);
  });

  test('three AdamW steps on three ranks, exported: PyTorch’s weights, and ONNX Runtime gives their loss', async () => {
    const documents = oracle.documents('first').map(documentOf);
    const plan = [
      lanesOf([
        [2, documents.slice(0, 1)],
        [1, documents.slice(1)],
      ]),
    ];
    const { lr, losses, params } = oracle.json.adamw;
    const { weights, loss } = await withSession(pkg, 3, async (session) => {
      for (const [step, expected] of losses.entries())
        expect(Math.abs((await session.step(plan, { lr, step })).loss - expected)).toBeLessThan(1e-5);
      return { weights: await session.parameters(), loss: (await session.evaluate(plan)).loss };
    });
    for (const [param, values] of oracle.toTorch(weights, false)) {
      const expected = oracle.tensors.read(`adamw3/${param}`);
      const gradient = Array.from<number | bigint, number>(oracle.tensors.read(`grad/${param}`), Number);
      const largest = gradient.reduce((max, g) => Math.max(max, Math.abs(g)), 0);
      // Adam makes steps of up to lr out of the rounding of a gradient that is all but zero; bert has one.
      const isNoise = (i: number): boolean => name === 'bert' && Math.abs(gradient[i]!) < 1e-6 * largest;
      const differences = values.map((x, i) => Math.abs(x - Number(expected[i])));
      const worst = differences.reduce((max, x, i) => Math.max(max, isNoise(i) && x < 3 * lr ? 0 : x), 0);
      expect(worst, param).toBeLessThan(Math.max(1e-5, 3 * params[param]!.noise_max));
    }
    const out = path.join(scratch, `${name}.onnx`);
    writeTrainedModel(
      path.join(modelFolder(name), 'model.onnx'),
      out,
      new Map([...weights].map(([n, data]) => [n, weightValues(data)])),
    );
    expect(Math.abs((await lossInOnnxRuntime(out, documents)) - loss)).toBeLessThan(1e-5);
  });
});

/** Mean loss of documents, each run alone through the exported graph. */
async function lossInOnnxRuntime(file: string, documents: readonly Document[]): Promise<number> {
  const session = await ort.InferenceSession.create(readFileSync(file), { intraOpNumThreads: 1 });
  let [sum, count] = [0, 0];
  for (const { ids, labels, types } of documents) {
    const row = (value: (i: number) => number): ort.Tensor =>
      new ort.Tensor(
        'int64',
        BigInt64Array.from({ length: ids.length }, (_, i) => BigInt(value(i))),
        [1, ids.length],
      );
    const all = {
      input_ids: row((i) => ids[i]!),
      attention_mask: row(() => 1),
      position_ids: row((i) => i),
      token_type_ids: row((i) => types?.[i] ?? 0),
    };
    const feeds = Object.fromEntries(
      Object.entries(all).filter(([name]) => session.inputNames.includes(name)),
    );
    const logits = (await session.run(feeds))['logits']!.data as Float32Array;
    const found = crossEntropy(logits, labels);
    sum += found.sum;
    count += found.count;
  }
  await session.release();
  return sum / count;
}

describe.each([
  ['llama', [2, 3, 4, 5, 8]],
  ['gpt2', [2, 3, 4]],
] as const)('%s: one package at every degree', (name, degrees) => {
  let pkg: Package;
  let documents: Document[];
  let whole: OracleDocument[];
  const alone = new Map<string, Promise<GradientMetrics>>();

  beforeAll(async () => {
    pkg = await packageOf(name);
    whole = loadOracle(modelFolder(name)).documents('packed');
    documents = whole.map(documentOf);
  });

  const cut = (lengths: readonly number[]): Document[] =>
    lengths.map((n, i) =>
      documentOf({ ids: whole[i]!.ids.slice(0, n), labels: whole[i]!.labels.slice(0, n) }),
    );

  const compare = async (all: readonly Document[], many: GradientMetrics): Promise<void> => {
    const key = all.map((d) => d.ids.length).join('+');
    const one = alone.get(key) ?? gradientsOf(pkg, 1, [lanesOf([[1, all]])]);
    alone.set(key, one);
    const { worst, error } = gradientError((await one).gradients, many.gradients);
    expect(error, worst).toBeLessThan(1e-5);
    expect(Math.abs((await one).loss - many.loss)).toBeLessThan(1e-5);
  };

  for (const degree of degrees)
    test(`P = ${degree}: odd, fewer than P, one token, not divisible`, async () => {
      const { hash } = pkg;
      await withSession(pkg, degree, async (session) => {
        for (const lengths of [[13], [2], [1], [9, 7, 6]])
          await compare(cut(lengths), await session.gradients([lanesOf([[degree, cut(lengths)]])]));
      });
      expect((await openPackage(pkg.directory)).hash).toBe(hash);
    });

  test('two unequal lanes and an empty one', async () => {
    const [a, b] = [cut([11]), cut([11, 6]).slice(1)];
    await compare(
      [...a, ...b],
      await gradientsOf(pkg, 7, [
        lanesOf([
          [3, a],
          [2, b],
          [2, []],
        ]),
      ]),
    );
  });

  test('three groupings of the same batch: same loss, same gradient', async () => {
    const [a, b, c, d] = documents as [Document, Document, Document, Document];
    await withSession(pkg, 4, async (session) => {
      for (const plan of [
        [lanesOf([[4, documents]])],
        [
          lanesOf([
            [3, [a, b]],
            [1, [c, d]],
          ]),
        ],
        [
          lanesOf([
            [2, [a]],
            [2, [b]],
          ]),
          lanesOf([
            [1, [c]],
            [1, []],
            [2, [d]],
          ]),
        ],
      ])
        await compare(documents, await session.gradients(plan));
    });
  });

  test('a degree above the heads is refused', async () => {
    const ranks = pkg.manifest.maxDegree + 1;
    await expect(gradientsOf(pkg, ranks, [lanesOf([[ranks, cut([5])]])])).rejects.toThrow(/heads/);
  });
});
