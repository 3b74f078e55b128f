/** Small exports of many families, each against the loss and the gradients that PyTorch computed on the same weights. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { SafetensorsReader } from '../../src/files/safetensors.js';
import { lowered, rowOf, weightsOf } from '../support/lowered.js';
import { modelFolder, type OracleDocument } from '../support/oracle.js';
import { gradientError, runLanes } from '../support/tiny.js';

const FOLDER = path.join(modelFolder('.'), '..', 'families');

interface FamilyOracle {
  /** Mean over `count` predicted tokens of all documents, each run alone. */
  readonly loss: number;
  readonly count: number;
  readonly documents: number;
  readonly initializers: Readonly<Record<string, { param: string; layout: string; shape: number[] }>>;
}

/** What attention is expected to be, beside its heads. */
const RECOGNIZED: Readonly<Record<string, readonly string[]>> = {
  bloom: ['causal, 6 heads, 6 K/V heads, biased by distance'],
  // K and V are repeated before they are rotated.
  falcon: ['causal, 4 heads, 4 K/V heads'],
  'falcon-alibi': ['causal, 4 heads, 1 K/V heads, biased by distance'],
  gemma2: [
    'window of 8, 4 heads, 2 K/V heads, scores capped at 50',
    'causal, 4 heads, 2 K/V heads, scores capped at 50',
  ],
  gpt1: ['causal, 4 heads, 4 K/V heads'],
  gptj: ['causal, 4 heads, 4 K/V heads'],
  mpt: ['causal, 4 heads, 4 K/V heads, biased by distance'],
  phi: ['causal, 4 heads, 4 K/V heads'],
};

function turned({ layout, shape }: { layout: string; shape: number[] }, data: Float64Array): Float64Array {
  if (layout === 'same') return data;
  const [rows, columns] = shape as [number, number];
  return Float64Array.from(data, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!);
}

describe.each(readdirSync(FOLDER).filter((name) => name !== 'README.md'))('%s', (name) => {
  const folder = path.join(FOLDER, name);

  test('gives the loss and the gradients of PyTorch, on one rank and on three', async () => {
    const model = await lowered(folder);
    const found = model.manifest.notes.flatMap((note) => /: recognised \((.*)\)$/.exec(note)?.[1] ?? []);
    expect([...new Set(found)]).toEqual(RECOGNIZED[name]);
    const oracle = JSON.parse(readFileSync(path.join(folder, 'oracle.json'), 'utf8')) as FamilyOracle;
    const tensors = SafetensorsReader.open(path.join(folder, 'oracle.safetensors'));
    const numbers = (tensor: string): number[] =>
      Array.from<number | bigint, number>(tensors.read(tensor), Number);
    const documents = Array.from({ length: oracle.documents }, (_, d): OracleDocument => ({
      ids: numbers(`doc${d}.ids`),
      labels: numbers(`doc${d}.targets`),
      aligned: true,
    }));
    const expected = new Map(
      [...tensors.tensors.keys()]
        .filter((key) => key.startsWith('grad/'))
        .map((key) => [key.slice(5), Float64Array.from(numbers(key))] as const),
    );
    const graph = model.graphs.get('train')!;
    const weights = weightsOf(folder, graph);
    for (const degree of [1, 3]) {
      const out = runLanes(graph, weights, [{ degree, row: rowOf(documents) }]);
      expect(out.get('count')![0]).toBe(oracle.count);
      expect(Math.abs(out.get('loss_sum')![0]! / oracle.count - oracle.loss)).toBeLessThan(1e-5);
      const actual = new Map<string, Float64Array>();
      for (const [key, mapped] of Object.entries(oracle.initializers)) {
        const sum = out.get(`grad/${key}`);
        if (sum === undefined) continue;
        const gradient = turned(mapped, sum).map((x) => x / oracle.count);
        const before = actual.get(mapped.param);
        actual.set(mapped.param, before === undefined ? gradient : gradient.map((x, i) => x + before[i]!));
      }
      const { worst, error } = gradientError(expected, actual);
      expect(error, `P = ${degree}: ${worst}`).toBeLessThan(1e-4);
    }
    tensors.close();
  });
});
