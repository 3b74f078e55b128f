import { invariant, UserError } from '../../errors.js';
import { PIECE_BYTES, rangesOf } from '../../files/pieces.js';
import { inputName, inputRole, type Graph } from '../../ir/graph.js';
import { interpret, meshOf, type Mesh } from '../../ir/interpret.js';
import { shardTensor, unshardTensor } from '../../ir/mesh.js';
import type { Tensor } from '../../ir/op.js';
import { localShape, type RankBinding } from '../../ir/placement.js';
import { constantOf } from '../../ir/size.js';
import { parseGraph } from '../../ir/text/parse.js';
import { programText } from '../../package/paths.js';
import type { Package } from '../../package/read.js';
import { packDocuments } from '../data/pack.js';
import { checkPlan, type MicroBatchPlan } from '../session/plan.js';

/** Whole gradients of the mean loss over a global batch, float64, by parameter. */
export interface ReferenceGradients {
  /** Sum of token losses. */
  readonly lossSum: number;
  /** Tokens that count. */
  readonly count: number;
  readonly gradients: ReadonlyMap<string, Tensor>;
}

/**
 * The reference executor over a package: the train program's own IR, evaluated node by node in float64 with all
 * ranks in this process. Slow; truth for the other executors.
 */
export interface ReferenceExecutor {
  /** @throws UserError for a plan that the model does not allow */
  gradients(plan: MicroBatchPlan): ReferenceGradients;
}

/** @throws UserError when the package has no weights, or its `program.ir` does not parse */
export function openReference(pkg: Package): ReferenceExecutor {
  const graph = parseTrain(pkg);
  const parameters = new Map<string, Tensor>();
  for (const input of graph.inputs)
    if (inputRole(input) === 'parameter') {
      const name = inputName(input);
      parameters.set(name, { shape: [...pkg.parameter(name).shape], data: readDoubles(pkg, name) });
    }
  return {
    gradients: (plan) => {
      checkPlan(plan, worldOf(plan), pkg.manifest);
      return gradientsOf(graph, parameters, plan);
    },
  };
}

function readDoubles(pkg: Package, name: string): Float64Array {
  // A shape alone allocates nothing: nothing read is still refused where the value is not there.
  pkg.readParameterInto(name, new Float32Array(0));
  const data = new Float64Array(pkg.parameter(name).shape.reduce((n, d) => n * d, 1));
  const piece = new Float32Array(Math.min(data.length, PIECE_BYTES / 4));
  for (const { start, end } of rangesOf(data.length, piece.length)) {
    const part = piece.subarray(0, end - start);
    pkg.readParameterInto(name, part, start);
    data.set(part, start);
  }
  return data;
}

function parseTrain(pkg: Package): Graph {
  const file = programText('train');
  try {
    return parseGraph(Buffer.from(pkg.bytes(file)).toString('utf8'));
  } catch (error) {
    if (error instanceof UserError && error.hint === undefined)
      throw new UserError(`${file}: ${error.message}`, 'compile the model again', { cause: error });
    throw error;
  }
}

/** A world of one rank, which holds everything whole. Outputs of the train program do not depend on tokens. */
const ALONE: RankBinding = {
  sp: { index: 0, degree: 1 },
  world: { index: 0, degree: 1 },
  symbols: new Map(),
};

const worldOf = ({ lanes }: MicroBatchPlan): number =>
  lanes.reduce((sum, { ranks }) => sum + ranks.length, 0);

function gradientsOf(
  graph: Graph,
  parameters: ReadonlyMap<string, Tensor>,
  plan: MicroBatchPlan,
): ReferenceGradients {
  const mesh = meshOfPlan(plan);
  const locals = localInputs(graph, parameters, plan, mesh);
  const outputs = interpret(graph, mesh, (name, rank) => locals.get(name)![rank]!);
  const whole = (name: string): Tensor => {
    const output = graph.outputs.find((o) => o.name === name);
    invariant(output !== undefined, `the train program has no output ${name}`);
    // A sum pending over sp in every group is one pending over the world: all ranks are members.
    const shape = localShape(output.value.type, ALONE);
    return unshardTensor(outputs.get(name)!, output.value.type, shape, mesh.ranks);
  };
  const [lossSum, count] = [whole('loss_sum').data[0]!, whole('count').data[0]!];
  const perToken = 1 / Math.max(count, 1);
  const gradients = new Map<string, Tensor>();
  for (const { name } of graph.outputs) {
    if (!name.startsWith('grad/')) continue;
    const { shape, data } = whole(name);
    gradients.set(name.slice('grad/'.length), { shape, data: data.map((x) => x * perToken) });
  }
  return { lossSum, count, gradients };
}

function meshOfPlan({ lanes }: MicroBatchPlan): Mesh {
  const tokens = lanes.map(({ documents }) => documents.reduce((sum, { ids }) => sum + ids.length, 0));
  return meshOf(
    lanes.map(({ ranks }) => ranks.length),
    (lane) => new Map([['S', tokens[lane]!]]),
  );
}

/** Every input, by name and rank; what all ranks hold whole is one array. */
function localInputs(
  graph: Graph,
  parameters: ReadonlyMap<string, Tensor>,
  plan: MicroBatchPlan,
  mesh: Mesh,
): ReadonlyMap<string, readonly Tensor[]> {
  const rows = plan.lanes.map(({ documents }) => packDocuments(documents));
  const locals = new Map<string, readonly Tensor[]>();
  for (const input of graph.inputs) {
    const name = inputName(input);
    const split = input.type.dims.some((d) => d.split !== undefined);
    const local = (value: Tensor, rank: RankBinding): Tensor =>
      split ? shardTensor(value, input.type, rank) : value;
    const parameter = parameters.get(name);
    if (parameter !== undefined) {
      locals.set(
        name,
        mesh.ranks.map((rank) => local(parameter, rank)),
      );
      continue;
    }
    const wholes = rows.map((row): Tensor => {
      const data = Float64Array.from(row[name as keyof typeof row] ?? []);
      const inner = input.type.dims.slice(1).map((d) => constantOf(d.size)!);
      const shape = [row.tokens.length, ...inner];
      invariant(
        data.length === shape.reduce((product, n) => product * n, 1),
        `the documents do not have the input ${name} of the train program`,
      );
      return { shape, data };
    });
    locals.set(
      name,
      mesh.ranks.map((rank, r) => local(wholes[mesh.lanes[r]!]!, rank)),
    );
  }
  return locals;
}

export interface GradientError {
  readonly parameter: string;
  readonly error: number;
}

const norm = (data: Float64Array): number => Math.sqrt(data.reduce((sum, x) => sum + x * x, 0));

/**
 * The worst parameter by ‖g − g′‖ / max(‖g‖, 10⁻³·‖all gradients‖/√n), n parameters: some true gradients are zero,
 * where any relative error is noise. A gradient that is missing or not a number counts as infinitely wrong.
 */
export function gradientError(
  expected: ReadonlyMap<string, Tensor>,
  actual: ReadonlyMap<string, Tensor>,
): GradientError {
  const all = Math.sqrt([...expected.values()].reduce((sum, { data }) => sum + norm(data) ** 2, 0));
  const floor = (1e-3 * all) / Math.sqrt(Math.max(1, expected.size));
  let worst: GradientError = { parameter: '', error: 0 };
  for (const [parameter, { data }] of expected) {
    const other = actual.get(parameter)?.data;
    const difference = other?.length === data.length ? norm(data.map((x, i) => x - other[i]!)) : NaN;
    const ratio = difference === 0 ? 0 : difference / Math.max(norm(data), floor);
    const error = Number.isNaN(ratio) ? Infinity : ratio;
    if (worst.parameter === '' || error > worst.error) worst = { parameter, error };
  }
  return worst;
}
