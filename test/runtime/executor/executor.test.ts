import { afterAll, describe, expect, it } from 'vitest';
import type { Tensor } from '../../../src/ir/op.js';
import type { Package } from '../../../src/package/read.js';
import type { Document } from '../../../src/runtime/data/document.js';
import { packDocuments } from '../../../src/runtime/data/pack.js';
import type { MicroBatchPlan } from '../../../src/runtime/session/plan.js';
import { TrainingSession } from '../../../src/runtime/session/session.js';
import { gradientError, numbers, randomParameters, runLanes } from '../../support/tiny.js';
import { biasedGraph, packageFolder, tinyGraph, trainGraph, writeGraph } from '../session/packages.js';

/** The ort executor against the reference interpreter, on a graph small enough to run both at every shape. */

const { folder, remove } = packageFolder();
afterAll(remove);

/** One session a package and world: starting ranks is what takes time. */
const sessions = new Map<string, Promise<TrainingSession>>();
afterAll(async () => {
  for (const session of sessions.values()) await (await session).close();
});

function sessionOf(pkg: Package, ranks: number): Promise<TrainingSession> {
  const key = `${pkg.directory} ${ranks}`;
  const session = sessions.get(key) ?? TrainingSession.open(pkg, { ranks });
  sessions.set(key, session);
  return session;
}

const next = numbers(3);
const documentOf = (length: number): Document => {
  const ids = Int32Array.from({ length }, () => Math.floor((next() + 0.5) * 11));
  return { ids, labels: Int32Array.from([...ids.slice(1), -100]), origin: 'here' };
};

/** Lanes by degree and document lengths. */
type Shape = readonly (readonly [degree: number, lengths: readonly number[]])[];

function planOf(shape: Shape): MicroBatchPlan {
  let rank = 0;
  return {
    lanes: shape.map(([degree, lengths]) => ({
      ranks: Array.from({ length: degree }, () => rank++),
      documents: lengths.map(documentOf),
    })),
  };
}

/** Gradients of the mean loss by the interpreter, in float64. */
function expected(
  graph: ReturnType<typeof trainGraph>,
  parameters: ReadonlyMap<string, Tensor>,
  plan: readonly MicroBatchPlan[],
): { loss: number; count: number; gradients: Map<string, Float64Array> } {
  const sums = new Map<string, Float64Array>();
  for (const { lanes } of plan) {
    const outputs = runLanes(
      graph,
      parameters,
      lanes.map(({ ranks, documents }) => ({
        degree: ranks.length,
        row: new Map(
          Object.entries(packDocuments(documents)).map(([name, data]) => [
            name,
            { shape: [data.length], data: Float64Array.from(data as Int32Array) },
          ]),
        ),
      })),
    );
    for (const [name, value] of outputs) {
      const sum = sums.get(name) ?? new Float64Array(value.length);
      value.forEach((x, i) => (sum[i]! += x));
      sums.set(name, sum);
    }
  }
  const count = sums.get('count')![0]!;
  const gradients = [...sums]
    .filter(([name]) => name.startsWith('grad/'))
    .map(([name, sum]) => [name.slice(5), sum.map((g) => g / Math.max(1, count))] as const);
  return { loss: sums.get('loss_sum')![0]!, count, gradients: new Map(gradients) };
}

const causal: [string, number, readonly Shape[]][] = [
  ['one rank', 1, [[[1, [7]]]]],
  ['one rank, packed, in micro-batches', 1, [[[1, [5, 1, 4]]], [[1, [3]]], [[1, [2, 8]]]]],
  ['two ranks, an odd row', 2, [[[2, [4, 5]]]]],
  ['three ranks, uneven tokens and heads', 3, [[[3, [7, 3]]]]],
  ['three ranks, fewer tokens than ranks', 3, [[[3, [2]]]]],
  ['four ranks, one token: nothing is counted', 4, [[[4, [1]]]]],
  [
    'two lanes, one of them empty',
    3,
    [
      [
        [2, [6]],
        [1, []],
      ],
    ],
  ],
  [
    'lanes of different degree, then others',
    3,
    [
      [
        [1, [4]],
        [2, [9]],
      ],
      [[3, [5, 5]]],
      [
        [2, []],
        [1, [6]],
      ],
    ],
  ],
];

describe.each([
  ['causal', tinyGraph('"causal"'), causal],
  ['a window', tinyGraph('"window", window = 3'), causal.slice(3, 4)],
  ['a window both ways', tinyGraph('"window", window = 3, ahead = 2'), causal.slice(3, 4)],
  ['no mask', tinyGraph('"full"'), causal.slice(3, 4)],
  ['causal with a relative bias', biasedGraph('"causal"'), causal.slice(1, 6)],
  ['no mask, with a relative bias', biasedGraph('"full"'), [causal[3]!, causal[6]!]],
  ['a relative bias that is frozen', biasedGraph('"full"', 'frozen'), causal.slice(3, 4)],
  ['a relative bias that is constant', biasedGraph('"full"', 'constant'), causal.slice(3, 4)],
])('gradients on ONNX Runtime, %s', (_, unplaced, cases) => {
  const graph = trainGraph(unplaced);
  const parameters = randomParameters(unplaced);
  const rounded = new Map(
    [...parameters].map(([name, { shape, data }]) => [name, { shape, data: data.map(Math.fround) }]),
  );
  let pkg: Promise<Package> | undefined;

  it.each(cases)('%s', async (_name, world, shapes) => {
    pkg ??= writeGraph(folder, unplaced, parameters);
    const session = await sessionOf(await pkg, world);
    const plan = shapes.map(planOf);
    // Twice: the second run finds its programs bound.
    await session.gradients(plan);
    const { gradients, lossSum, tokens } = await session.gradients(plan);
    const truth = expected(graph, rounded, plan);
    expect(tokens).toBe(truth.count);
    expect(Math.abs(lossSum - truth.loss)).toBeLessThan(1e-5 * Math.max(1, truth.loss));
    const { worst, error } = gradientError(truth.gradients, gradients);
    expect(error, worst).toBeLessThan(1e-5);
  });
});

it('steps under ZeRO 0 and 1 are the same, even where a rank has no share of a parameter, and in tiles', async () => {
  const graph = tinyGraph();
  const parameters = randomParameters(graph);
  const results: ReadonlyMap<string, Float32Array>[] = [];
  const documents = [documentOf(9), documentOf(4)];
  const large = { above: 20, tile: 24 };
  for (const [zeroStage, ranks, tiles] of [
    [1, 1, undefined],
    [1, 1, large],
    [0, 1, undefined],
    [1, 9, large],
  ] as const) {
    const pkg = await writeGraph(folder, graph, parameters, zeroStage, [], tiles);
    expect(pkg.program('update').instructions.some(({ kind }) => kind === 'tiled')).toBe(tiles === large);
    const session = await sessionOf(pkg, ranks);
    const lanes = Array.from({ length: ranks }, (_, rank) => ({
      ranks: [rank],
      documents: documents.filter((_, i) => i % ranks === rank),
    }));
    for (const step of [0, 1, 2]) await session.step([{ lanes }], { lr: 0.01, step });
    results.push(new Map([...(await session.parameters()), ...(await session.state())]));
  }
  expect(results[1]).toEqual(results[0]);
  for (const other of results.slice(1))
    for (const [name, values] of results[0]!) {
      const worst = values.reduce((most, x, i) => Math.max(most, Math.abs(x - other.get(name)![i]!)), 0);
      expect(worst, name).toBeLessThan(2e-6);
    }
});

it('streams more tiles than are let out at once, every row in its place', async () => {
  const graph = tinyGraph();
  const pkg = await writeGraph(folder, graph, randomParameters(graph));
  // The loss takes three rows at a time: seven tiles a rank, and the fourth waits for the first to be taken.
  const plan: MicroBatchPlan[] = [
    planOf([[2, [25, 15]]]),
    planOf([
      [1, [20]],
      [1, []],
    ]),
  ];
  const [two, one] = [await sessionOf(pkg, 2), await sessionOf(pkg, 1)];
  const collect = async (session: TrainingSession, plans: MicroBatchPlan[]) => {
    const rows = new Map<string, number[]>();
    const { loss, tokens } = await session.evaluate(plans, ({ microBatch, row, rows: count, data }) => {
      for (let i = 0; i < count; i++)
        rows.set(`${microBatch}.${row + i}`, Array.from(data.subarray(i * 11, (i + 1) * 11)));
    });
    return { rows, loss, tokens };
  };
  const split = await collect(two, plan);
  const alone = await collect(
    one,
    plan.map(({ lanes }) => ({ lanes: [{ ranks: [0], documents: lanes[0]!.documents }] })),
  );
  expect(split.rows.size).toBe(60);
  expect(split.tokens).toBe(alone.tokens);
  expect(Math.abs(split.loss - alone.loss)).toBeLessThan(1e-6);
  for (const [at, logits] of alone.rows)
    logits.forEach((x, i) => expect(Math.abs(x - split.rows.get(at)![i]!), at).toBeLessThan(1e-6));
});
