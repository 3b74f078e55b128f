/** Models as ONNX Runtime's own tools write them, against the loss and the gradients that PyTorch computed. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { SafetensorsReader } from '../../src/files/safetensors.js';
import { lowered, rowOf, weightsOf } from '../support/lowered.js';
import { modelFolder, type OracleDocument } from '../support/oracle.js';
import { gradientError, runLanes } from '../support/tiny.js';

const FOLDER = path.join(modelFolder('.'), '..', 'fused');

/** Where an initializer comes from: a parameter, or several side by side in its last dim, each transposed if of two dims. */
type Origin =
  | { readonly param: string; readonly layout: 'same' | 'transposed' | 'mapped'; readonly shape: number[] }
  | {
      readonly parts: readonly { readonly param: string; readonly from: number; readonly to: number }[];
      readonly shape: number[];
    };

interface FusedOracle {
  readonly kind: string;
  /** Mean over `count` predicted tokens of all documents, each run alone. */
  readonly loss: number;
  readonly count: number;
  readonly documents: number;
  readonly initializers: Readonly<Record<string, Origin>>;
}

/** What attention is, beside its operators. */
const RECOGNIZED: Readonly<Record<string, string>> = {
  'bert-optimizer': 'full, 4 heads, 4 K/V heads',
  'gpt2-optimizer': 'causal, 4 heads, 4 K/V heads',
  'gpt2-session': 'causal, 4 heads, 4 K/V heads',
  'llama-genai': 'causal, 4 heads, 4 K/V heads',
  'llama-optimizer': 'causal, 4 heads, 4 K/V heads',
};

const turned = (data: Float64Array, rows: number, columns: number): Float64Array =>
  Float64Array.from(data, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!);

/** Gradients of the parameters that an initializer is made of, in their own layouts. */
function* gradientsOf(
  origin: Origin,
  gradient: Float64Array,
  places: number[] | undefined,
  sizeOf: (param: string) => number,
): Generator<readonly [string, Float64Array]> {
  const [rows, columns] =
    origin.shape.length === 2 ? (origin.shape as [number, number]) : [1, origin.shape[0]!];
  if ('parts' in origin) {
    for (const { param, from, to } of origin.parts) {
      const width = to - from;
      const part = Float64Array.from(
        { length: rows * width },
        (_, i) => gradient[Math.floor(i / width) * columns + from + (i % width)]!,
      );
      yield [param, origin.shape.length === 2 ? turned(part, rows, width) : part];
    }
  } else if (origin.layout === 'mapped') {
    const whole = new Float64Array(sizeOf(origin.param));
    places!.forEach((place, i) => (whole[place]! += gradient[i]!));
    yield [origin.param, whole];
  } else yield [origin.param, origin.layout === 'same' ? gradient : turned(gradient, rows, columns)];
}

const folders = readdirSync(FOLDER).filter((name) => !name.includes('.'));

test('every model is expected', () => {
  expect(folders.sort()).toEqual(Object.keys(RECOGNIZED).sort());
});

describe.each(folders)('%s', (name) => {
  const folder = path.join(FOLDER, name);

  test('gives the loss and the gradients of PyTorch, on one rank and on three', async () => {
    const model = await lowered(folder);
    const found = model.manifest.notes.flatMap((note) => /: recognised \((.*)\)$/.exec(note)?.[1] ?? []);
    expect([...new Set(found)]).toEqual([RECOGNIZED[name]]);
    const oracle = JSON.parse(readFileSync(path.join(folder, 'oracle.json'), 'utf8')) as FusedOracle;
    const tensors = SafetensorsReader.open(path.join(folder, 'oracle.safetensors'));
    const numbers = (tensor: string): number[] =>
      Array.from<number | bigint, number>(tensors.read(tensor), Number);
    const documents = Array.from({ length: oracle.documents }, (_, d): OracleDocument => {
      const ids = numbers(`doc${d}.ids`);
      return { ids, labels: numbers(`doc${d}.targets`), aligned: true, types: ids.map(() => 0) };
    });
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
      for (const [key, origin] of Object.entries(oracle.initializers)) {
        const sum = out.get(`grad/${key}`);
        if (sum === undefined) continue;
        const places = tensors.tensors.has(`map/${key}`) ? numbers(`map/${key}`) : undefined;
        const mean = sum.map((x) => x / oracle.count);
        for (const [param, gradient] of gradientsOf(origin, mean, places, (p) => expected.get(p)!.length)) {
          const before = actual.get(param);
          actual.set(param, before === undefined ? gradient : gradient.map((x, i) => x + before[i]!));
        }
      }
      const missing = [...expected.keys()].filter((key) => !actual.has(key));
      expect(missing).toEqual([]);
      const { worst, error } = gradientError(expected, actual);
      expect(error, `P = ${degree}: ${worst}`).toBeLessThan(1e-4);
    }
    tensors.close();
  });
});
