import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { SafetensorsReader, writeSafetensors } from '../../src/files/safetensors.js';
import { openPackage, type Package } from '../../src/package/read.js';
import type { Document } from '../../src/runtime/data/document.js';
import { loadCorpus } from '../../src/runtime/data/load.js';
import { gradientError, openReference } from '../../src/runtime/executor/reference.js';
import type { MicroBatchPlan } from '../../src/runtime/session/plan.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { loadOracle, modelFolder, oracleGradientError } from '../support/oracle.js';

const folder = modelFolder('llama-loss');
const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-distillation-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

type Oracle = ReturnType<typeof loadOracle>;

/** The oracle of another loss of the same model. */
const oracle: Oracle = {
  ...loadOracle(folder),
  json: JSON.parse(readFileSync(path.join(folder, 'distillation.json'), 'utf8')) as Oracle['json'],
};
const settings = (
  oracle.json as unknown as { settings: Record<string, { temperature: number; alpha: number; topK: number }> }
).settings;
const teachers = SafetensorsReader.open(path.join(folder, 'distillation.safetensors'));
afterAll(() => teachers.close());

async function compiled(name: string): Promise<Package> {
  const out = path.join(scratch, `${name}.ithaca`);
  await compileModel(path.join(folder, 'model.onnx'), out, {
    config: parseConfig({ loss: { kind: 'distillation', ...settings[name] } }, 'test'),
    weights: true,
    replace: true,
  });
  return openPackage(out);
}

const numbersOf = (name: string): number[] =>
  Array.from(teachers.read(name) as ArrayLike<number | bigint>, Number);

/** Rows of a [.., tokens, width] tensor of the oracle, document by document. */
function rowsOf(name: string, lengths: readonly number[]): number[][][] {
  const [data, width] = [numbersOf(name), teachers.info(name).shape.at(-1)!];
  let token = 0;
  return lengths.map((length) => Array.from({ length }, () => data.slice(token * width, ++token * width)));
}

/** A case as a user would write it down: lists beside the ids, or dense logits in a file of their own. */
async function documentsOf(pkg: Package, setting: string, kind: string): Promise<Document[]> {
  const documents = oracle.documents(kind);
  const lengths = documents.map(({ ids }) => ids.length);
  const logits = rowsOf(`${setting}.${kind}.logits`, lengths);
  const inline = teachers.tensors.has(`${setting}.${kind}.ids`)
    ? rowsOf(`${setting}.${kind}.ids`, lengths)
    : undefined;
  const file = `${setting}-${kind}.safetensors`;
  if (inline === undefined)
    await writeSafetensors(
      path.join(scratch, file),
      logits.map((rows, i) => ({
        name: `logits.${i}`,
        dtype: 'F32' as const,
        shape: [rows.length, rows[0]!.length],
        data: Float32Array.from(rows.flat()),
      })),
    );
  const lines = documents.map(({ ids, labels }, i) =>
    JSON.stringify({
      input_ids: ids,
      labels,
      teacher: inline === undefined ? { file, logits: `logits.${i}` } : { ids: inline[i], logits: logits[i] },
    }),
  );
  const data = path.join(scratch, `${setting}-${kind}.jsonl`);
  writeFileSync(data, lines.join('\n'));
  const { vocabulary, loss } = pkg.manifest;
  const corpus = await loadCorpus([data], { vocabulary, loss });
  return Array.from({ length: corpus.count }, (_, i) => corpus.document(i));
}

const lane = (first: number, degree: number, documents: readonly Document[]) => ({
  ranks: Array.from({ length: degree }, (_, i) => first + i),
  documents,
});

describe.each(['top8', 'dense'])('distillation from %s logits', (setting) => {
  test('gradients are PyTorch’s on both executors, whatever the grouping', async () => {
    const pkg = await compiled(setting);
    expect(pkg.manifest.loss).toMatchObject({ kind: 'next-token', distillation: settings[setting] });
    const session = await TrainingSession.open(pkg, { ranks: 3 });
    const reference = openReference(pkg);
    try {
      for (const kind of ['first', 'packed']) {
        const { loss, predicted_tokens } = oracle.json.cases[`${setting}.${kind}`]!;
        const documents = await documentsOf(pkg, setting, kind);
        const plan = { lanes: [lane(0, 3, documents)] };
        const ort = await session.gradients([plan]);
        expect(ort.tokens).toBe(predicted_tokens);
        expect(Math.abs(ort.loss - loss)).toBeLessThan(1e-5 * Math.max(1, loss));
        const found = oracleGradientError(oracle, `${setting}.${kind}`, ort.gradients);
        expect(found.error, found.worst).toBeLessThan(1e-4);
        const parts: readonly MicroBatchPlan[] = [
          { lanes: [lane(0, 2, documents.slice(0, 1)), lane(2, 1, [])] },
          { lanes: [lane(0, 1, []), lane(1, 2, documents.slice(1))] },
        ];
        const parted = await session.gradients(parts);
        const floats = (of: typeof ort.gradients) =>
          new Map([...of].map(([n, g]) => [n, { shape: [g.length], data: Float64Array.from(g) }]));
        expect(gradientError(floats(ort.gradients), floats(parted.gradients)).error).toBeLessThan(1e-5);
        const exact = reference.gradients({ lanes: [lane(0, 1, documents)] });
        const wholes = new Map([...exact.gradients].map(([n, { data }]) => [n, data]));
        expect(oracleGradientError(oracle, `${setting}.${kind}`, wholes).error).toBeLessThan(1e-4);
        for (const degree of [2, 3, 4, 5, 8]) {
          const other = reference.gradients({ lanes: [lane(0, degree, documents)] });
          expect(gradientError(exact.gradients, other.gradients).error, `P = ${degree}`).toBeLessThan(1e-12);
        }
      }
    } finally {
      await session.close();
    }
  });
});

test('an evaluation needs no teacher and gives the cross entropy of labels', async () => {
  const pkg = await compiled('top8');
  const plain = loadOracle(folder);
  const data = path.join(scratch, 'plain.jsonl');
  const lines = plain
    .documents('packed')
    .map(({ ids, labels }) => JSON.stringify({ input_ids: ids, labels }));
  writeFileSync(data, lines.join('\n'));
  const { vocabulary, loss } = pkg.manifest;
  await expect(loadCorpus([data], { vocabulary, loss })).rejects.toThrow(
    /plain\.jsonl:1 has no teacher, which the loss distillation needs/,
  );
  const corpus = await loadCorpus([data], { vocabulary, loss, purpose: 'eval' });
  const documents = Array.from({ length: corpus.count }, (_, i) => corpus.document(i));
  const session = await TrainingSession.open(pkg, { ranks: 2 });
  try {
    const found = await session.evaluate([{ lanes: [lane(0, 2, documents)] }]);
    expect(found.loss).toBeCloseTo(plain.json.cases['packed']!.loss, 5);
  } finally {
    await session.close();
  }
});
