/** Small exports of many families, each against the loss and the gradients that PyTorch computed on the same weights. */
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { GRADIENT_BAR, LOSS_BAR, loadFamily } from '../families/tool/check.js';
import { readResults } from '../families/tool/results.js';
import { lowered, rowOf, weightsOf } from '../support/lowered.js';
import { modelFolder } from '../support/oracle.js';
import { gradientError, runLanes } from '../support/tiny.js';

const FOLDER = path.join(modelFolder('.'), '..', 'families');
const FIXTURES = readdirSync(FOLDER).filter((name) => existsSync(path.join(FOLDER, name, 'oracle.json')));
const { rows } = readResults(path.join(FOLDER, 'results.json'));

/** What the table of families says of a folder. */
const recorded = (fixture: string) => rows.find((row) => row.fixture === fixture)?.outcome;

describe.each(FIXTURES)('%s', (name) => {
  const folder = path.join(FOLDER, name);

  test('gives the loss and the gradients of PyTorch, on one rank and on three, as the table says', async () => {
    const oracle = loadFamily(folder);
    const model = await lowered(folder, { loss: { kind: oracle.json.kind } });
    const found = model.manifest.notes.flatMap((note) => /: recognised \((.*)\)$/.exec(note)?.[1] ?? []);
    expect(recorded(name)).toMatchObject({ result: 'trains', recognized: [...new Set(found)] });
    const documents = oracle.documents.map(({ ids, labels }) => ({
      ids: [...ids],
      labels: [...labels],
      aligned: true,
    }));
    const expected = new Map([...oracle.gradients].filter(([, g]) => g.some((x) => x !== 0)));
    const graph = model.graphs.get('train')!;
    const weights = weightsOf(folder, graph);
    const { count, loss } = oracle.json;
    for (const degree of [1, 3]) {
      const out = runLanes(graph, weights, [{ degree, row: rowOf(documents) }]);
      expect(out.get('count')![0]).toBe(count);
      expect(Math.abs(out.get('loss_sum')![0]! / count - loss)).toBeLessThan(LOSS_BAR);
      const sums = [...out].filter(([key]) => key.startsWith('grad/'));
      const actual = oracle.toTorch(new Map(sums.map(([key, sum]) => [key.slice(5), sum])), 1 / count);
      const { worst, error } = gradientError(expected, actual);
      expect(error, `P = ${degree}: ${worst}`).toBeLessThan(GRADIENT_BAR);
    }
  });
});
