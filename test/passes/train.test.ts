import { describe, expect, test } from 'vitest';
import { topologicalOrder, type Graph } from '../../src/ir/graph.js';
import { interpret, meshOf } from '../../src/ir/interpret.js';
import { localIndices, shardTensor } from '../../src/ir/mesh.js';
import { inputName } from '../../src/ir/graph.js';
import { parseGraph } from '../../src/ir/text/parse.js';
import { printGraph } from '../../src/ir/text/print.js';
import { tensorType } from '../../src/ir/type.js';
import { autodiff } from '../../src/passes/autodiff.js';
import { checkpoint } from '../../src/passes/checkpoint.js';
import { fuseTiled } from '../../src/passes/fuse-tiled.js';
import { loss } from '../../src/passes/loss.js';
import { runPasses, type Step } from '../../src/passes/manager.js';
import type { Pass } from '../../src/passes/pass.js';
import { schedule } from '../../src/passes/schedule.js';
import { tidy } from '../../src/passes/tidy.js';
import { ulysses } from '../../src/passes/ulysses.js';
import { buildUpdate, zero } from '../../src/passes/zero.js';
import { biasedGraph } from '../runtime/session/packages.js';
import { gradientError, randomParameters, randomRow, runLanes, TINY } from '../support/tiny.js';

const step = <O>(pass: Pass<O>, options: unknown = {}): Step => ({ pass: pass as Pass, options });

const compileTiny = (shard: readonly string[] = [], model: Graph = TINY): Graph =>
  runPasses(
    model,
    [
      step(loss, { tile: 2 }),
      step(ulysses),
      step(zero, { shard }),
      step(autodiff),
      step(fuseTiled),
      step(schedule),
    ],
    {
      given: ['recognized', 'unplaced'],
    },
  ).graph;

const train = compileTiny();
const checkpointed = runPasses({ ...train, order: undefined }, [step(checkpoint), step(schedule)], {
  given: ['recognized', 'placed', 'lossy', 'differentiated'],
}).graph;
const parameters = randomParameters(TINY);
const gradients = (outputs: Map<string, Float64Array>): Map<string, Float64Array> =>
  new Map([...outputs].filter(([name]) => name.startsWith('grad/')));

describe('the train program', () => {
  test('prints and parses, schedule included', () => {
    const text = printGraph(train);
    expect(printGraph(parseGraph(text))).toBe(text);
  });

  test('one exchange for q, k and v, one for the output, and as many backward', () => {
    expect(
      topologicalOrder(train)
        .filter((n) => n.op === 'all_to_all')
        .map((n) => n.operands.length),
    ).toEqual([3, 1, 1, 3]);
  });

  test('loss and its gradient share one loop over tiles', () => {
    expect(topologicalOrder(train).filter((n) => n.op === 'tiled')).toHaveLength(1);
  });

  test('frozen parameters have no gradient', () => {
    expect(train.outputs.map((o) => o.name)).not.toContain('grad/frozen');
    expect(train.outputs).toHaveLength(8);
  });

  test('gradients are finite differences', () => {
    const row = randomRow([3, 4], 11);
    const whole = runLanes(train, parameters, [{ degree: 1, row }]);
    for (const [name, p] of parameters) {
      if (name === 'frozen') continue;
      const direction = randomParameters(TINY, 99).get(name)!.data;
      const lossAt = (h: number): number => {
        const moved = new Map([
          ...parameters,
          [name, { shape: p.shape, data: p.data.map((x, i) => x + h * direction[i]!) }],
        ]);
        return runLanes(train, moved, [{ degree: 1, row }]).get('loss_sum')![0]!;
      };
      const slope = (lossAt(1e-5) - lossAt(-1e-5)) / 2e-5;
      const exact = whole.get(`grad/${name}`)!.reduce((sum, g, i) => sum + g * direction[i]!, 0);
      expect(Math.abs(slope - exact)).toBeLessThan(1e-7 * Math.max(1, Math.abs(exact)));
    }
  });

  for (const degree of [2, 3, 4])
    for (const lengths of [[7], [3, 4], [1], [2], [8, 1, 3], [5, 5]])
      test(`P = ${degree}, documents ${lengths.join('+')}: the gradients of one rank`, () => {
        const row = randomRow(lengths, 11);
        const whole = runLanes(train, parameters, [{ degree: 1, row }]);
        const shared = runLanes(train, parameters, [{ degree, row }]);
        expect(gradientError(gradients(whole), gradients(shared)).error).toBeLessThan(1e-12);
        expect(shared.get('count')).toEqual(whole.get('count'));
      });

  test('two unequal lanes and an empty one: the gradients of all documents on one rank', () => {
    const whole = runLanes(train, parameters, [{ degree: 1, row: randomRow([6, 5], 11) }]);
    const parts = runLanes(train, parameters, [
      { degree: 3, row: splitRow([6, 5], 0) },
      { degree: 2, row: splitRow([6, 5], 1) },
      { degree: 2, row: randomRow([], 11) },
    ]);
    expect(gradientError(gradients(whole), gradients(parts)).error).toBeLessThan(1e-12);
    expect(parts.get('loss_sum')![0]).toBeCloseTo(whole.get('loss_sum')![0]!, 11);
  });

  test('all labels ignored: zero loss, zero count, zero gradients', () => {
    const row = new Map(randomRow([4], 11));
    row.set('labels', { shape: [4], data: new Float64Array(4).fill(-100) });
    const out = runLanes(train, parameters, [{ degree: 3, row }]);
    for (const name of ['loss_sum', 'count', 'grad/wq', 'grad/embedding'])
      expect(out.get(name)!.every((x) => x === 0)).toBe(true);
  });
});

describe('a relative bias', () => {
  const model = biasedGraph('"full"');
  const graph = compileTiny([], model);
  const values = randomParameters(model);
  const rerun = runPasses(
    { ...graph, order: undefined },
    [step(checkpoint, { policy: 'layers' }), step(schedule)],
    { given: ['recognized', 'placed', 'lossy', 'differentiated'] },
  ).graph;

  test.each([
    ['shared by ranks', graph],
    ['run again in the backward', rerun],
  ])('%s has the gradients of one rank', (_, other) => {
    const row = randomRow([8, 1, 3], 11);
    const whole = gradients(runLanes(graph, values, [{ degree: 1, row }]));
    expect(whole.get('grad/bias')!.every((x) => x !== 0)).toBe(true);
    for (const degree of [1, 3, 5])
      expect(gradientError(whole, gradients(runLanes(other, values, [{ degree, row }]))).error).toBeLessThan(
        1e-12,
      );
  });

  test('and its attention runs twice where layers run again', () => {
    expect(topologicalOrder(rerun).filter((n) => n.op === 'attention')).toHaveLength(2);
  });
});

/** Document `at` of the packed row of `lengths`, as a row of its own. */
function splitRow(lengths: readonly number[], at: number): ReturnType<typeof randomRow> {
  const whole = randomRow(lengths, 11);
  const start = lengths.slice(0, at).reduce((sum, n) => sum + n, 0);
  return new Map(
    [...whole].map(([name, { data }]) => {
      const part = data.slice(start, start + lengths[at]!);
      return [name, { shape: [part.length], data: name === 'documents' ? part.fill(0) : part }];
    }),
  );
}

describe('checkpoint', () => {
  const ops = (graph: Graph, name: string): number =>
    topologicalOrder(graph).filter((n) => n.op === name).length;

  test('computes norms again, never products, attention or exchanges', () => {
    expect(ops(checkpointed, 'rms_norm')).toBe(2 * ops(train, 'rms_norm'));
    for (const op of ['all_to_all', 'attention', 'matmul', 'tiled', 'gather'])
      expect(ops(checkpointed, op)).toBe(ops(train, op));
  });

  test('gradients are the same, bit for bit', () => {
    const lanes = [{ degree: 3, row: randomRow([5, 4], 11) }];
    expect(runLanes(checkpointed, parameters, lanes)).toEqual(runLanes(train, parameters, lanes));
  });

  test('what shares equal nodes refuses to run afterwards', () => {
    expect(() =>
      runPasses(checkpointed, [step(tidy)], { given: ['differentiated', 'checkpointed'] }),
    ).toThrow(/must not run/);
  });
});

describe('zero', () => {
  test('a parameter placed @world: gathered in use, its gradient reduce-scattered', () => {
    const sharded = compileTiny(['embedding', 'wq']);
    const row = randomRow([5, 4], 11);
    const whole = runLanes(train, parameters, [{ degree: 1, row }]);
    const parts = runLanes(sharded, parameters, [
      { degree: 3, row },
      { degree: 2, row: randomRow([], 11) },
    ]);
    expect(gradientError(gradients(whole), gradients(parts)).error).toBeLessThan(1e-12);
    expect(printGraph(sharded)).toContain('%embedding: f32[11@world, 8]');
  });

  test('stages 0 and 1 step alike, and like AdamW written out', () => {
    const spec = (zeroStage: 0 | 1) => ({
      parameters: [
        { name: 'a', type: tensorType('f32', [5, 2]) },
        { name: 'copy', type: tensorType('f32', [2, 5]), tiedTo: { name: 'a', transposed: true } },
        { name: 'b', type: tensorType('f32', [3]) },
      ],
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-8,
      weightDecay: 0.1,
      clipNorm: 0.5,
      zeroStage,
    });
    const results = ([0, 1] as const).map((stage) => runUpdate(buildUpdate(spec(stage)), 3));
    for (const [name, values] of results[0]!)
      values.forEach((x, i) => expect(results[1]!.get(name)![i]).toBeCloseTo(x, 12));
    expect([...results[0]!.get('param/copy')!]).toEqual(transposed(results[0]!.get('param/a')!, 5, 2));
    expect(results[0]!.get('grad_norm')![0]).toBeCloseTo(expectedNorm, 12);
    // Large parameters step some rows at a time, on as many ranks as there are: bit for bit the same.
    for (const stage of [0, 1] as const)
      for (const tile of [1, 4, 100]) {
        const update = buildUpdate({ ...spec(stage), large: { above: 3, tile } });
        expect(printGraph(update)).toContain('tiled');
        expect(runUpdate(update, 3)).toEqual(results[stage]);
      }
  });
});

const gradientOf = (name: string, rank: number, i: number): number =>
  Math.sin(name.length * 7 + rank * 3 + i);
const COUNT = [3, 0, 4];

/** Norm of the mean gradient over ranks, the tied copy added to its primary. */
const expectedNorm = ((): number => {
  let squares = 0;
  const total = COUNT.reduce((a, c) => a + c, 0);
  const sum = (name: string, i: number): number =>
    COUNT.reduce((s, _, rank) => s + gradientOf(`grad/${name}`, rank, i), 0);
  for (let row = 0; row < 5; row++)
    for (let column = 0; column < 2; column++)
      squares += ((sum('a', row * 2 + column) + sum('copy', column * 5 + row)) / total) ** 2;
  for (let i = 0; i < 3; i++) squares += (sum('b', i) / total) ** 2;
  return Math.sqrt(squares);
})();

const transposed = (data: Float64Array, rows: number, columns: number): number[] =>
  Array.from({ length: rows * columns }, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!);

/** Runs an update graph on `world` ranks and returns whole outputs. */
function runUpdate(graph: Graph, world: number): Map<string, Float64Array> {
  const mesh = meshOf([world], () => new Map());
  const outputs = interpret(graph, mesh, (name, rank) => {
    const { type } = graph.inputs.find((v) => inputName(v) === name)!;
    const shape = type.dims.map((d) => d.size.terms[0]!.coefficient);
    const size = shape.reduce((product, n) => product * n, 1);
    const scalar = { count: COUNT[rank]!, lr: 0.01, correction1: 0.19, correction2: 0.0975 }[name];
    const value = (i: number): number =>
      scalar ??
      (name.startsWith('grad/')
        ? gradientOf(name, rank, i)
        : name.startsWith('v/')
          ? 0.1 + i / 10
          : Math.cos(i + name.length));
    return shardTensor(
      { shape, data: Float64Array.from({ length: size }, (_, i) => value(i)) },
      type,
      mesh.ranks[rank]!,
    );
  });
  return new Map(
    graph.outputs.map(({ name, value }) => {
      const shape = value.type.dims.map((d) => d.size.terms[0]!.coefficient);
      const whole = new Float64Array(shape.reduce((product, n) => product * n, 1));
      mesh.ranks.forEach((rank, r) => {
        const at = localIndices(value.type, shape, rank);
        outputs.get(name)![r]!.data.forEach((x, i) => (whole[at[i]!] = x));
      });
      return [name, whole];
    }),
  );
}

describe('ulysses refuses what mixes tokens, by name', () => {
  const refuse =
    (body: string, type: string): (() => Graph) =>
    () =>
      runPasses(
        parseGraph(
          `graph @m mesh {} (%x: f32[S, 4] {role = "data"}, %labels: i32[S] {role = "data"}) {
        ${body}
        return "loss_sum" = %0, "count" = %0
      }`.replace('TYPE', type),
        ),
        [step(ulysses)],
        { given: ['recognized', 'unplaced'] },
      ).graph;

  test('a sum over the sequence', () => {
    expect(refuse('%0 = reduce_sum %x {dims = [0], keep = false} : f32[4] @"/pool/ReduceSum"', '')).toThrow(
      /\/pool\/ReduceSum mixes tokens/,
    );
  });

  test('a softmax over the sequence', () => {
    expect(refuse('%0 = softmax %x {dim = 0} : f32[S, 4] @"/odd/Softmax"', '')).toThrow(
      /\/odd\/Softmax mixes tokens/,
    );
  });

  test('a product that contracts tokens', () => {
    expect(
      refuse(
        '%1 = transpose %x {perm = [1, 0]} : f32[4, S] @"t" %0 = matmul %1, %x : f32[4, 4] @"/gram"',
        '',
      ),
    ).toThrow(/\/gram mixes tokens/);
  });
});
