import { inputName, inputRole, type Graph } from '../../src/ir/graph.js';
import { interpret, meshOf, type Mesh } from '../../src/ir/interpret.js';
import { shardTensor } from '../../src/ir/mesh.js';
import type { Tensor } from '../../src/ir/op.js';
import { localIndices } from '../../src/ir/mesh.js';
import { evaluateSize } from '../../src/ir/size.js';
import { parseGraph } from '../../src/ir/text/parse.js';

/** A recognised, unplaced one-layer transformer: grouped heads (4 over 2), tied embedding, rms norm. */
export const TINY = parseGraph(`graph @tiny mesh {} (
  %tokens: i32[S] {role = "data"},
  %documents: i32[S] {role = "data"},
  %embedding: f32[11, 8] {role = "parameter", trainable = true},
  %wq: f32[8, 12] {role = "parameter", trainable = true},
  %wk: f32[8, 6] {role = "parameter", trainable = true},
  %wv: f32[8, 6] {role = "parameter", trainable = true},
  %wo: f32[12, 8] {role = "parameter", trainable = true},
  %norm: f32[8] {role = "parameter", trainable = true},
  %frozen: f32[8] {role = "parameter", trainable = false}) {
  %0 = gather %embedding, %tokens : f32[S, 8] @"embed"
  %1 = rms_norm %0, %norm {eps = 0.00001} : f32[S, 8] @"norm"
  %2 = matmul %1, %wq : f32[S, 12] @"q"
  %3 = matmul %1, %wk : f32[S, 6] @"k"
  %4 = matmul %1, %wv : f32[S, 6] @"v"
  %5 = reshape %2 {shape = [S, 4, 3]} : f32[S, 4, 3] @"q"
  %6 = reshape %3 {shape = [S, 2, 3]} : f32[S, 2, 3] @"k"
  %7 = reshape %4 {shape = [S, 2, 3]} : f32[S, 2, 3] @"v"
  %8 = attention %5, %6, %7, %documents {mask = "causal", scale = 0.5} : f32[S, 4, 3], f32[S, 4] @"attention"
  %9 = reshape %8#0 {shape = [S, 12]} : f32[S, 12] @"o"
  %10 = matmul %9, %wo : f32[S, 8] @"o"
  %11 = mul %10, %frozen : f32[S, 8] @"gate"
  %12 = add %0, %11 : f32[S, 8] @"residual"
  %13 = transpose %embedding {perm = [1, 0]} : f32[8, 11] @"head"
  %14 = matmul %12, %13 : f32[S, 11] @"head"
  return "logits" = %14
}`);

/** Deterministic numbers in [−0.5, 0.5). */
export function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state / 2147483648 - 0.5;
  };
}

/** Random whole values of a graph's parameters. */
export function randomParameters(graph: Graph, seed = 1): Map<string, Tensor> {
  const next = numbers(seed);
  const parameters = graph.inputs.filter((v) => inputRole(v) === 'parameter');
  return new Map(
    parameters.map((v) => {
      const shape = v.type.dims.map((d) => evaluateSize(d.size, new Map()));
      const size = shape.reduce((product, n) => product * n, 1);
      return [inputName(v), { shape, data: Float64Array.from({ length: size }, next) }];
    }),
  );
}

/** A packed row: documents of the given lengths with random tokens, next-token labels, the last ignored. */
export function randomRow(lengths: readonly number[], vocabulary: number, seed = 7): Map<string, Tensor> {
  const next = numbers(seed);
  const documents = lengths.flatMap((n, d) => Array.from({ length: n }, () => d));
  const tokens = documents.map(() => Math.floor((next() + 0.5) * vocabulary));
  const positions = documents.map((d, i) => i - documents.indexOf(d));
  const labels = tokens.map((_, i) => (documents[i + 1] === documents[i] ? tokens[i + 1]! : -100));
  const row = (data: number[]): Tensor => ({ shape: [data.length], data: Float64Array.from(data) });
  return new Map([
    ['tokens', row(tokens)],
    ['documents', row(documents)],
    ['positions', row(positions)],
    ['labels', row(labels)],
  ]);
}

/** One lane: how many ranks hold which packed row. */
export interface Lane {
  readonly degree: number;
  readonly row: ReadonlyMap<string, Tensor>;
}

/** Whole outputs of a train graph over lanes: what ranks hold as pending sums or copies is settled over the world. */
export function runLanes(
  graph: Graph,
  parameters: ReadonlyMap<string, Tensor>,
  lanes: readonly Lane[],
): Map<string, Float64Array> {
  const tokensOf = (lane: number): number => lanes[lane]!.row.get('tokens')!.data.length;
  const mesh: Mesh = meshOf(
    lanes.map((l) => l.degree),
    (lane) => new Map([['S', tokensOf(lane)]]),
  );
  const outputs = interpret(graph, mesh, (name, rank) => {
    const input = graph.inputs.find((v) => inputName(v) === name)!;
    const whole = parameters.get(name) ?? lanes[mesh.lanes[rank]!]!.row.get(name)!;
    return shardTensor(whole, input.type, mesh.ranks[rank]!);
  });
  return new Map(
    graph.outputs.map(({ name, value }) => {
      const shape = value.type.dims.map((d) => evaluateSize(d.size, new Map([['S', tokensOf(0)]])));
      const whole = new Float64Array(shape.reduce((product, n) => product * n, 1));
      mesh.ranks.forEach((rank, r) => {
        const at = localIndices(value.type, shape, rank);
        outputs.get(name)![r]!.data.forEach((x, i) => (whole[at[i]!]! += x));
      });
      return [name, whole];
    }),
  );
}

/**
 * The error of gradients, as everywhere in ithaca: ‖g − g′‖ / max(‖g‖, 10⁻³ · ‖all‖ / √(number of parameters)),
 * the worst parameter.
 */
export function gradientError(
  expected: ReadonlyMap<string, ArrayLike<number>>,
  actual: ReadonlyMap<string, ArrayLike<number>>,
): { worst: string; error: number } {
  const norm = (values: ArrayLike<number>): number =>
    Math.sqrt(Array.from(values).reduce((sum, x) => sum + x * x, 0));
  const all = Math.sqrt([...expected.values()].reduce((sum, g) => sum + norm(g) ** 2, 0));
  let [worst, error] = ['', 0];
  for (const [name, g] of expected) {
    const other = actual.get(name)!;
    const difference = norm(Array.from(g, (x, i) => x - other[i]!));
    const relative =
      difference / Math.max(norm(g), (1e-3 * all) / Math.sqrt(expected.size), Number.MIN_VALUE);
    if (!(relative <= error)) [worst, error] = [name, relative];
  }
  return { worst, error };
}
