/** A case through the importer and the reference interpreter. */
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { UserError } from '../../src/errors.js';
import { inputName, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { interpret, meshOf } from '../../src/ir/interpret.js';
import type { Tensor } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';
import { evaluateSize } from '../../src/ir/size.js';
import { constantTensor } from '../../src/ir/onnx/attribute.js';
import { readOnnxModel } from '../../src/ir/onnx/decode.js';
import type { OnnxDtype, OnnxModel } from '../../src/ir/onnx/model.js';
import { classify } from '../../src/ir/onnx/import/classify.js';
import { decideTrainable } from '../../src/ir/onnx/import/parameters.js';
import { planImport } from '../../src/ir/onnx/import/plan.js';
import { onnxOp } from '../../src/ir/onnx/import/ops/index.js';
import { translate } from '../../src/ir/onnx/import/translate.js';
import type { Case, CaseValue } from './case.js';

/**
 * What stands for a run-time value: every operand (`all`), floating ones, with constant integers (`floats`), or
 * none, so that everything is evaluated at import (`none`).
 */
export type Given = 'all' | 'floats' | 'none';

export type Outcome =
  | {
      readonly kind: 'passed';
      readonly given: Given;
      /** IR operations that the nodes became. */
      readonly becomes: readonly string[];
    }
  | { readonly kind: 'failed'; readonly message: string }
  /** Outside of what is imported. */
  | { readonly kind: 'outside'; readonly reason: string };

const FLOATS: ReadonlySet<OnnxDtype> = new Set<OnnxDtype>(['f32', 'f64', 'f16', 'bf16']);
/** Constants of more elements are taken for weights. */
const MAX_SCALARS = 1024;
/** What the nodes that stand around a case are called. */
const AROUND = 'around:';

/** @param folder for files */
export async function runCase(example: Case, folder: string): Promise<Outcome> {
  const outside = typesOutside(example);
  if (outside !== undefined) return { kind: 'outside', reason: outside };
  const reasons: string[] = [];
  for (const given of ['all', 'floats', 'none'] as const) {
    if (given === 'none' && example.tokens !== undefined) continue;
    try {
      const becomes = new Set<string>();
      for (const expected of example.outputs.values())
        for (const op of await runOutput(example, expected!, given, folder)) becomes.add(op);
      return { kind: 'passed', given, becomes: [...becomes].sort() };
    } catch (error) {
      if (error instanceof WrongResult) return { kind: 'failed', message: `${given}: ${error.message}` };
      // An index below 0, which tokens never are.
      if (error instanceof RangeError && given === 'all') continue;
      if (!(error instanceof UserError))
        return { kind: 'failed', message: `${given}: ${error instanceof Error ? error.stack : error}` };
      reasons.push(error.message);
    }
  }
  return {
    kind: 'outside',
    reason: reasons.find((reason) => !reason.includes('is not recognised')) ?? reasons[0]!,
  };
}

class WrongResult extends Error {
  override readonly name = 'WrongResult';
}

function typesOutside({ inputs, outputs }: Case): string | undefined {
  for (const value of [...inputs.values(), ...outputs.values()]) {
    if (value === undefined) return 'a sequence, an optional value, or none';
    if (value.data === undefined) return `values of type ${value.dtype}`;
  }
  return undefined;
}

/** Imports and runs one output; returns the IR operations of the case's own nodes. */
async function runOutput(
  example: Case,
  expected: CaseValue,
  given: Given,
  folder: string,
): Promise<readonly string[]> {
  const opset = Number(example.model.opsetImport?.find(({ domain }) => !domain)?.version ?? 0);
  if (expected.data!.length === 0 && opset < 14)
    throw new UserError('its result has no elements, which the test cannot hand on before opset 14');
  const file = path.join(folder, `${example.name.replaceAll('/', '_')}.onnx`);
  writeFileSync(file, onnxProto.onnx.ModelProto.encode(around(example, expected, given)).finish());
  try {
    const model = readOnnxModel(file, { weights: true });
    const graph = await importCase(model);
    const actual = runGraph(graph, model, example.tokens ?? 1);
    const wrong = differenceOf(actual, expected, example);
    if (wrong !== undefined) throw new WrongResult(`${expected.name}: ${wrong}`);
    const nodes = topologicalOrder(graph).filter(
      ({ op, loc }) => op !== 'input' && op !== 'constant' && loc?.startsWith(AROUND) === false,
    );
    return [...new Set(nodes.map(({ op }) => op))];
  } finally {
    rmSync(file, { force: true });
  }
}

/** As `importOnnx` does, for its output `logits`. */
async function importCase(model: OnnxModel): Promise<Graph> {
  const classified = classify(model, 'logits');
  const plan = await planImport(classified, 'logits');
  const stored = [...plan.leaves].flatMap(([name, leaf]) =>
    leaf.kind === 'stored' ? [classified.facts.get(name)!.stored!] : [],
  );
  const decisions = decideTrainable({ ...classified, model }, plan.nodes, stored);
  return translate(classified, plan, decisions, 'logits', 'case').graph;
}

/** The model with what it is given as stored tensors, and one of its outputs as logits: a row for each token. */
function around({ model, inputs, tokens }: Case, expected: CaseValue, given: Given): onnx.IModelProto {
  const graph = model.graph!;
  const [nodes, initializers] = [[] as onnx.INodeProto[], [...(graph.initializer ?? [])]];
  const constants = given === 'all' ? readAsShapes(model) : new Set<string>();
  for (const value of inputs.values()) {
    if (value === undefined) continue;
    const float = FLOATS.has(value.dtype);
    const isRunTime = given === 'all' ? !constants.has(value.name) : given === 'floats' && float;
    if (given === 'none' && float) addScalars(value, nodes, initializers);
    else if (!isRunTime || value.data!.length === 0) initializers.push(value.proto);
    else addRunTime(value, tokens, nodes, initializers);
  }
  const body = (graph.node ?? []).map((node, i) => ({
    ...node,
    name: node.name === '' || node.name === undefined ? `${node.opType}_${i}` : node.name,
  }));
  nodes.push(...body, around1('Cast', [expected.name], `${AROUND}cast`, [{ name: 'to', type: 2, i: 1 }]));
  if (tokens === undefined) {
    // One token, whose logits are all elements.
    initializers.push(int64s(`${AROUND}row`, [1, 1, expected.data!.length]), {
      name: `${AROUND}zeros`,
      dataType: 1,
      dims: [2, 1],
      rawData: new Uint8Array(8),
    });
    nodes.push(
      around1(
        'Reshape',
        [`${AROUND}cast`, `${AROUND}row`],
        `${AROUND}flat`,
        expected.data!.length === 0 ? [{ name: 'allowzero', type: 2, i: 1 }] : [],
      ),
      around1('Gather', [`${AROUND}zeros`, 'input_ids'], `${AROUND}zero`),
      around1('Add', [`${AROUND}flat`, `${AROUND}zero`], 'logits'),
    );
  } else nodes.push(around1('Identity', [`${AROUND}cast`], 'logits'));
  return {
    ...model,
    graph: {
      ...graph,
      node: nodes,
      initializer: initializers,
      input: [
        {
          name: 'input_ids',
          type: { tensorType: { elemType: 7, shape: { dim: [{ dimValue: 1 }, { dimParam: 's' }] } } },
        },
      ],
      output: [{ name: 'logits', type: { tensorType: { elemType: 1 } } }],
      valueInfo: [],
    },
  };
}

/** Part of a longer list of weights, which the importer cannot take for a constant. */
function addRunTime(
  value: CaseValue,
  tokens: number | undefined,
  nodes: onnx.INodeProto[],
  initializers: onnx.ITensorProto[],
): void {
  const { name, data, code } = value;
  const [batch, rows, ...rest] = value.dims;
  const perToken = tokens !== undefined && batch === 1 && rows === tokens;
  const dims = perToken ? [rows, ...rest] : value.dims;
  const list = Float64Array.of(...data!, 0.5);
  initializers.push(
    { name: `${name}:list`, dataType: 11, dims: [list.length], rawData: new Uint8Array(list.buffer) },
    int64s(`${name}:from`, [0]),
    int64s(`${name}:to`, [list.length - 1]),
    int64s(`${name}:dims`, dims),
  );
  nodes.push(
    around1('Slice', [`${name}:list`, `${name}:from`, `${name}:to`], `${name}:part`),
    around1('Reshape', [`${name}:part`, `${name}:dims`], `${name}:table`),
    perToken
      ? around1('Gather', [`${name}:table`, 'input_ids'], `${name}:float`)
      : around1('Identity', [`${name}:table`], `${name}:float`),
    around1('Cast', [`${name}:float`], name, [{ name: 'to', type: 2, i: code }]),
  );
}

/** A list of single numbers, which the importer does not take for weights. */
function addScalars(value: CaseValue, nodes: onnx.INodeProto[], initializers: onnx.ITensorProto[]): void {
  const { name, data, dims, code } = value;
  if (data!.length === 0 || data!.length > MAX_SCALARS) return void initializers.push(value.proto);
  const names = Array.from(data!, (_, i) => `${name}:${i}`);
  data!.forEach((x, i) =>
    initializers.push({
      name: names[i]!,
      dataType: 11,
      dims: [1],
      rawData: new Uint8Array(Float64Array.of(x).buffer),
    }),
  );
  initializers.push(int64s(`${name}:dims`, dims));
  nodes.push(
    around1('Concat', names, `${name}:list`, [{ name: 'axis', type: 2, i: 0 }]),
    around1('Reshape', [`${name}:list`, `${name}:dims`], `${name}:float`),
    around1('Cast', [`${name}:float`], name, [{ name: 'to', type: 2, i: code }]),
  );
}

const around1 = (
  opType: string,
  input: string[],
  output: string,
  attribute: onnx.IAttributeProto[] = [],
): onnx.INodeProto => ({ opType, name: `${AROUND}${output}`, input, output: [output], attribute });

const int64s = (name: string, values: readonly number[]): onnx.ITensorProto => ({
  name,
  dataType: 7,
  dims: [values.length],
  rawData: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});

/** Inputs that nodes need as known integers. */
function readAsShapes(model: onnx.IModelProto): ReadonlySet<string> {
  const names = new Set<string>();
  for (const { domain, opType, input } of model.graph?.node ?? []) {
    const values = onnxOp({ domain: domain ?? '', opType: opType! })?.values;
    if (values === undefined || values.length === 0) continue;
    input?.forEach((name, i) => void (values.includes(i) || opType === 'CastLike' || names.add(name)));
  }
  return names;
}

function runGraph(graph: Graph, model: OnnxModel, tokens: number): Tensor {
  const inputOf = (name: string): Tensor => {
    const node = model.nodes.find(({ outputs }) => outputs[0] === name);
    const stored = model.initializers.get(name) ?? (node && constantTensor(node));
    if (stored !== undefined) return tensor([...stored.dims], stored.read().toFloat64());
    const input = graph.inputs.find((value) => inputName(value) === name)!;
    if (input.node.attrs['form'] === 'mask') return maskOf(input, tokens);
    return tensor(
      [tokens],
      Array.from({ length: tokens }, (_, i) => (['tokens', 'positions'].includes(name) ? i : 0)),
    );
  };
  const outputs = interpret(
    graph,
    meshOf([1], () => new Map([['S', tokens]])),
    inputOf,
  );
  return outputs.get('logits')![0]!;
}

/** A causal or windowed mask of a recognised input: 0 or true where row i sees column j. */
function maskOf({ node: { attrs }, type }: Value, tokens: number): Tensor {
  const dims = type.dims.map(({ size }) => evaluateSize(size, new Map([['S', tokens]])));
  const [rows, columns] = dims.slice(-2) as [number, number];
  const window = attrs['kind'] === 'window' ? Number(attrs['window']) : Infinity;
  const count = dims.reduce((a, b) => a * b, 1);
  return tensor(
    dims,
    Array.from({ length: count }, (_, k) => {
      const [i, j] = [Math.floor(k / columns) % rows, k % columns];
      const seen = j <= i && j > i - window;
      return attrs['additive'] === true ? (seen ? 0 : -Infinity) : Number(seen);
    }),
  );
}

/** Half precision is widened to float32, not rounded to: within two units of the result's last place, that is the same. */
const ROUNDING: Partial<Record<OnnxDtype, number>> = { f16: 2 ** -10, bf16: 2 ** -7 };

function differenceOf(
  actual: Tensor,
  { data, dims, dtype }: CaseValue,
  { atol, ...suite }: Case,
): string | undefined {
  const rtol = Math.max(suite.rtol, 2 * (ROUNDING[dtype] ?? 0));
  for (let i = 0; i < data!.length; i++) {
    const [a, e] = [actual.data[i]!, data![i]!];
    const same =
      a === e || (Number.isNaN(a) && Number.isNaN(e)) || Math.abs(a - e) <= atol + rtol * Math.abs(e);
    if (!same) return `element ${i} of [${dims.join(', ')}] is ${a}, expected ${e}`;
  }
  return undefined;
}
