import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { compileModel, lowerModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { openPackage, type Package } from '../../src/package/read.js';
import { loadCorpus } from '../../src/runtime/data/load.js';
import type { Document } from '../../src/runtime/data/document.js';
import { openReference } from '../../src/runtime/executor/reference.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { SafetensorsReader } from '../../src/files/safetensors.js';
import { succeed } from '../cli/cli.js';
import { loadOracle, modelFolder, oracleGradientError } from '../support/oracle.js';

const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-losses-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A package compiled without a word about its loss. */
async function compiled(name: string): Promise<Package> {
  const out = path.join(scratch, `${name}.ithaca`);
  await compileModel(path.join(modelFolder(name), 'model.onnx'), out, {
    config: parseConfig({}, 'test'),
    weights: true,
    replace: true,
  });
  return openPackage(out);
}

/** A case of an oracle as a user would write it down, read by the loader for the package. */
async function documentsOf(pkg: Package, name: string, kind: string): Promise<Document[]> {
  const lines = loadOracle(modelFolder(name))
    .documents(kind)
    .map(({ ids, labels, types }) =>
      JSON.stringify({
        input_ids: ids,
        ...(pkg.manifest.loss.pool === undefined ? { labels } : { label: Math.max(...labels) }),
        ...(types && { token_type_ids: types }),
      }),
    );
  const file = path.join(scratch, `${name}-${kind}.jsonl`);
  writeFileSync(file, lines.join('\n'));
  const { vocabulary, loss } = pkg.manifest;
  const corpus = await loadCorpus([file], { vocabulary, loss });
  return Array.from({ length: corpus.count }, (_, i) => corpus.document(i));
}

describe.each([
  ['bert', 'masked-lm', /attention sees both ways/],
  ['bert-tokens', 'token-classification', /5 logits a token for a vocabulary of 512/],
  ['bert-first', 'document-classification', /the first token of a document is classified/],
  ['llama-last', 'document-classification', /the last token of a document is classified/],
  ['llama', 'next-token', /attention sees no later token/],
] as const)('%s from a file: %s', (name, kind, note) => {
  const oracle = loadOracle(modelFolder(name));

  test('the loss is guessed, with a note; gradients are PyTorch’s on both executors', async () => {
    const pkg = await compiled(name);
    expect(pkg.manifest.loss.kind).toBe(kind);
    expect(pkg.manifest.notes.join('\n')).toMatch(note);
    const session = await TrainingSession.open(pkg, { ranks: 3 });
    try {
      for (const [kind, { loss, predicted_tokens }] of Object.entries(oracle.json.cases)) {
        const documents = await documentsOf(pkg, name, kind);
        const plan = { lanes: [{ ranks: [0, 1, 2], documents }] };
        const ort = await session.gradients([plan]);
        expect(ort.tokens).toBe(predicted_tokens);
        expect(Math.abs(ort.loss - loss)).toBeLessThan(1e-5);
        const found = oracleGradientError(oracle, kind, ort.gradients);
        expect(found.error, `${kind} ${found.worst}`).toBeLessThan(1e-4);
        if (kind !== 'unequal' && kind !== 'packed') continue;
        const exact = openReference(pkg).gradients(plan);
        expect(Math.abs(exact.lossSum / exact.count - loss)).toBeLessThan(1e-5);
        const reference = oracleGradientError(
          oracle,
          kind,
          new Map([...exact.gradients].map(([n, { data }]) => [n, data])),
        );
        expect(reference.error, reference.worst).toBeLessThan(1e-4);
      }
    } finally {
      await session.close();
    }
  });
});

test('mask tokens are of the vocabulary', async () => {
  const config = parseConfig({ loss: { kind: 'masked-lm', mlm: { maskId: 3, special: [1, 512] } } }, 'test');
  await expect(
    lowerModel(path.join(modelFolder('bert'), 'model.onnx'), { config, weights: true, replace: false }),
  ).rejects.toThrow(/loss\.mlm has the id 512, outside the model's vocabulary of 512/);
});

test.each(['bert-first', 'llama-last'])('%s: ithaca eval writes a row of logits a document', async (name) => {
  const pkg = await compiled(name);
  await documentsOf(pkg, name, 'packed');
  const out = path.join(scratch, `${name}.safetensors`);
  await runEval(pkg.directory, path.join(scratch, `${name}-packed.jsonl`), out);
  const expected = loadOracle(modelFolder(name)).tensors.read('packed.logits');
  const reader = SafetensorsReader.open(out);
  const found = [0, 1, 2, 3].flatMap((i) => Array.from(reader.read(`logits.${i}`), Number));
  expect(found).toHaveLength(expected.length);
  found.forEach((x, i) => expect(Math.abs(x - Number(expected[i]))).toBeLessThan(1e-5));
});

const runEval = (directory: string, batch: string, output: string): Promise<string> =>
  succeed(['eval', directory, '--batch', batch, '--sp', '3', '-o', output]);

test('a loss that the logits are not made for is refused', async () => {
  const lower = (name: string, kind: string): Promise<unknown> =>
    lowerModel(path.join(modelFolder(name), 'model.onnx'), {
      config: parseConfig({ loss: { kind } }, 'test'),
      weights: true,
      replace: false,
    });
  await expect(lower('bert-first', 'masked-lm')).rejects.toThrow(
    /the loss masked-lm needs logits for every token, this model has them for the first token of a document only/,
  );
  await expect(lower('bert', 'document-classification')).rejects.toThrow(
    /needs a model with logits for documents, this one has logits for every token/,
  );
});
