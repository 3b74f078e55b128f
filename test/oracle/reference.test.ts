import { beforeAll, describe, expect, test } from 'vitest';
import type { Lowered } from '../../src/compile/compile.js';
import type { Tensor } from '../../src/ir/op.js';
import { lowered, rowOf, weightsOf } from '../support/lowered.js';
import {
  loadOracle,
  ORACLE_MODELS,
  modelFolder,
  oracleGradientError,
  type Oracle,
  type OracleDocument,
} from '../support/oracle.js';
import { gradientError, runLanes, type Lane } from '../support/tiny.js';

/** Mean-loss gradients by initialiser, and the loss, of the train program on the reference executor. */
function gradients(
  model: Lowered,
  weights: ReadonlyMap<string, Tensor>,
  lanes: readonly Lane[],
): { loss: number; grads: Map<string, Float64Array> } {
  const out = runLanes(model.graphs.get('train')!, weights, lanes);
  const count = out.get('count')![0]!;
  const grads = new Map(
    [...out]
      .filter(([n]) => n.startsWith('grad/'))
      .map(([n, g]) => [n.slice(5), g.map((x) => x / Math.max(count, 1))]),
  );
  return { loss: out.get('loss_sum')![0]! / Math.max(count, 1), grads };
}

describe.each(ORACLE_MODELS)('%s against PyTorch', (name) => {
  const folder = modelFolder(name);
  let oracle: Oracle;
  let model: Lowered;
  let weights: ReadonlyMap<string, Tensor>;

  beforeAll(async () => {
    oracle = loadOracle(folder);
    model = await lowered(folder);
    weights = weightsOf(folder, model.graphs.get('train')!);
  });

  test.each(['first', 'unequal', 'packed', 'padded'])('%s: loss and gradients', (kind) => {
    if (oracle.json.cases[kind] === undefined) return expect(['llama-ids', 'llama-packed']).toContain(name);
    const documents = oracle.documents(kind);
    const { loss, grads } = gradients(model, weights, [{ degree: 1, row: rowOf(documents) }]);
    expect(Math.abs(loss - oracle.json.cases[kind].loss)).toBeLessThan(1e-5);
    const { worst, error } = oracleGradientError(oracle, kind, grads);
    expect(error, worst).toBeLessThan(1e-4);
  });
});

describe.each([
  ['llama', [2, 3, 4, 5, 8]],
  ['gpt2', [2, 3, 4]],
] as const)('%s across degrees', (name, degrees) => {
  const folder = modelFolder(name);
  let model: Lowered;
  let weights: ReadonlyMap<string, Tensor>;
  let documents: OracleDocument[];

  beforeAll(async () => {
    model = await lowered(folder);
    weights = weightsOf(folder, model.graphs.get('train')!);
    documents = loadOracle(folder).documents('packed');
  });

  const alone = new Map<string, ReturnType<typeof gradients>>();
  const cut = (lengths: readonly number[]): OracleDocument[] =>
    lengths.map((n, i) => ({ ids: documents[i]!.ids.slice(0, n), labels: documents[i]!.labels.slice(0, n) }));

  const compare = (whole: OracleDocument[], lanes: Lane[]): number => {
    const key = whole.map((d) => d.ids.length).join('+');
    const one = alone.get(key) ?? gradients(model, weights, [{ degree: 1, row: rowOf(whole) }]);
    alone.set(key, one);
    const many = gradients(model, weights, lanes);
    expect(Math.abs(one.loss - many.loss)).toBeLessThan(1e-12);
    return gradientError(one.grads, many.grads).error;
  };

  for (const degree of degrees)
    test.each([
      ['an odd count', [13]],
      ['fewer tokens than ranks', [2]],
      ['one token', [1]],
      ['packed, not divisible', [9, 7, 6]],
    ] as const)(`P = ${degree}, %s`, (_, lengths) => {
      expect(compare(cut(lengths), [{ degree, row: rowOf(cut(lengths)) }])).toBeLessThan(1e-12);
    });

  test('two unequal lanes and an empty one', () => {
    const [a, b] = [cut([11]), cut([11, 6]).slice(1)];
    const lanes = [
      { degree: 3, row: rowOf(a) },
      { degree: 2, row: rowOf(b) },
      { degree: 2, row: rowOf([]) },
    ];
    expect(compare([...a, ...b], lanes)).toBeLessThan(1e-12);
  });
});
