/**
 * Evaluates part of a model with onnxruntime: the nodes that some values need, cut where values are fed.
 * Nodes and constants are copied as the file's own bytes, so nothing is lost in translation.
 */
import '../../ort-environment.js';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { UserError, invariant } from '../../errors.js';
import { constantTensor } from './attribute.js';
import { openedModel } from './decode.js';
import { codeOfDtype } from './dtype.js';
import { encodeNode } from './encode-node.js';
import { bodyReads } from './inline.js';
import type {
  OnnxDtype,
  OnnxFunction,
  OnnxInitializer,
  OnnxModel,
  OnnxNode,
  TensorData,
  TensorValue,
} from './model.js';
import { producersOf } from './producers.js';
import { concat, encodeField, encodeString, encodeVarintField } from './wire.js';

export interface EvaluateOptions {
  /** Bound on the constants a subgraph reads, and on each run's feeds and outputs. Default 64 MiB. */
  readonly maxBytes?: number;
  /** Bound on the number of nodes. Default 5000. */
  readonly maxNodes?: number;
}

/** A subgraph ready to run at any sizes of its feeds. */
export interface Evaluator {
  /** @throws UserError when onnxruntime refuses the sizes, naming its reason */
  run(feeds: ReadonlyMap<string, TensorValue>): Promise<ReadonlyMap<string, TensorValue>>;
  /** Frees onnxruntime's session. */
  release(): Promise<void>;
}

/** The part of a model that some values need. */
export interface Subgraph {
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxInitializer[];
  /** Graph inputs that are needed and not fed. */
  readonly missingInputs: readonly string[];
}

const DEFAULT_MAX_BYTES = 64 * 1024 * 1024;
const DEFAULT_MAX_NODES = 5000;
/** Loops may run forever. */
const REFUSED_OPS = new Set(['Loop', 'Scan', 'If', 'SequenceMap']);
/** Ops whose result may be far larger than their operands, by the operand that tells the size. */
const SIZING_OPERAND = new Map([
  ['ConstantOfShape', 0],
  ['Expand', 1],
  ['Tile', 1],
  ['Range', 1],
  ['Reshape', 1],
]);

/** The nodes and constants that `outputs` need, down to `feeds`, in file order. */
export function subgraphOf(
  model: OnnxModel,
  outputs: readonly string[],
  feeds: ReadonlySet<string>,
): Subgraph {
  const producers = producersOf(model.nodes);
  const nodes = new Set<OnnxNode>();
  const initializers = new Map<string, OnnxInitializer>();
  const missing = new Set<string>();
  const inputs = new Set(model.inputs.map((input) => input.name));
  const seen = new Set<string>();
  const pending = [...outputs];
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    if (name === '' || feeds.has(name) || seen.has(name)) continue;
    seen.add(name);
    const node = producers.get(name);
    const initializer = model.initializers.get(name);
    if (initializer !== undefined) initializers.set(name, initializer);
    else if (inputs.has(name)) missing.add(name);
    else {
      invariant(node !== undefined, `the model has no value '${name}'`);
      nodes.add(node);
      const isOuter = (read: string): boolean =>
        producers.has(read) || model.initializers.has(read) || inputs.has(read);
      for (const input of node.inputs) pending.push(input);
      for (const read of bodyReads(node)) if (isOuter(read)) pending.push(read);
    }
  }
  return {
    nodes: [...nodes].sort((a, b) => a.index - b.index),
    initializers: [...initializers.values()],
    missingInputs: [...missing],
  };
}

/**
 * Builds a session for `outputs`, reusable at any sizes.
 * @param feeds element type of each value that will be fed; values upstream of them are cut off
 * @throws UserError when the subgraph exceeds the bounds, needs an absent tensor, or onnxruntime refuses it
 */
export async function createEvaluator(
  model: OnnxModel,
  outputs: readonly string[],
  feeds: ReadonlyMap<string, OnnxDtype>,
  options: EvaluateOptions = {},
): Promise<Evaluator> {
  const fed = new Set(feeds.keys());
  // An output that is itself fed needs no session.
  const computed = [...new Set(outputs)].filter((name) => !fed.has(name));
  const subgraph = subgraphOf(model, computed, fed);
  const [missing] = subgraph.missingInputs;
  if (missing !== undefined)
    throw new UserError(
      `${model.path}: a part of the graph that must be evaluated reads the input '${missing}', whose values are not known`,
      'export the model with masks and positions computed from input_ids, attention_mask and position_ids alone',
    );
  const maxBytes = options.maxBytes ?? DEFAULT_MAX_BYTES;
  checkBounds(model, subgraph, maxBytes, options.maxNodes ?? DEFAULT_MAX_NODES);
  const what = `${model.path}: evaluating ${computed.slice(0, 3).join(', ')}`;
  const session =
    computed.length === 0
      ? undefined
      : await translateErrors(what, () =>
          InferenceSession.create(encodeSubgraph(model, subgraph, feeds, computed), {
            executionProviders: ['cpu'],
            graphOptimizationLevel: 'disabled',
            intraOpNumThreads: 1,
            interOpNumThreads: 1,
            executionMode: 'sequential',
            logSeverityLevel: 4,
            enableCpuMemArena: false,
          }),
        );
  return {
    run: async (values) => {
      const results = new Map<string, TensorValue>();
      for (const name of outputs) {
        const value = values.get(name);
        if (fed.has(name) && value !== undefined) results.set(name, value);
      }
      if (session === undefined) return results;
      const given = feedsOf(session.inputNames, values, maxBytes);
      const raw = await translateErrors(what, () => session.run(given, computed));
      for (const name of computed) results.set(name, valueOf(what, raw[name], maxBytes));
      return results;
    },
    release: async () => session?.release(),
  };
}

/** Evaluates `outputs` once; see `createEvaluator`. */
export async function evaluateSubgraph(
  model: OnnxModel,
  outputs: readonly string[],
  feeds: ReadonlyMap<string, TensorValue>,
  options: EvaluateOptions = {},
): Promise<ReadonlyMap<string, TensorValue>> {
  const dtypes = new Map([...feeds].map(([name, value]) => [name, value.dtype]));
  const evaluator = await createEvaluator(model, outputs, dtypes, options);
  try {
    return await evaluator.run(feeds);
  } finally {
    await evaluator.release();
  }
}

function checkBounds(model: OnnxModel, subgraph: Subgraph, maxBytes: number, maxNodes: number): void {
  const { nodes, initializers } = subgraph;
  const refuse = (what: string): never => {
    throw new UserError(
      `${model.path}: a part of the graph that must be evaluated ${what}`,
      'export the model with constant folding on, so that masks and positions are small graphs',
    );
  };
  if (nodes.length > maxNodes) refuse(`has ${nodes.length} nodes, more than ${maxNodes}`);
  const constants = [...initializers, ...nodes.flatMap((node) => constantTensor(node) ?? [])];
  const bytes = constants.reduce((sum, tensor) => sum + tensor.bytes, 0);
  if (bytes > maxBytes) refuse(`reads ${bytes} bytes of constants, more than ${maxBytes}`);
  const preamble = openedModel(model).scanned.preamble.reduce((sum, { tagAt, end }) => sum + end - tagAt, 0);
  if (preamble > maxBytes) refuse(`carries ${preamble} bytes of local functions, more than ${maxBytes}`);
  const byName = new Map(constants.map((tensor) => [tensor.name, tensor]));
  const called = functionTable(model);
  const calls = nodes.some((node) => called(node) !== undefined);
  if (calls && model.functions.length > MAX_FUNCTIONS)
    refuse(`calls some of ${model.functions.length} local functions, more than ${MAX_FUNCTIONS}`);
  if (calls && unfoldedNodes(called, nodes) > maxNodes)
    refuse(`has more than ${maxNodes} nodes once its local functions are put in`);
  const bodies = calls ? model.functions.flatMap((item) => item.nodes) : [];
  for (const node of [...nodes, ...bodies]) {
    if (REFUSED_OPS.has(node.opType)) refuse(`has control flow (${node.opType} node ${node.name})`);
    const sizes = byName.get(node.inputs[SIZING_OPERAND.get(node.opType) ?? -1] ?? '');
    if (sizes === undefined || sizes.dtype !== 'i64' || sizes.elementCount > 16) continue;
    const product = sizes
      .read()
      .toInts()
      .reduce((total, value) => total * Math.max(1, Math.abs(value)), 1);
    if (product > maxBytes) refuse(`makes a tensor of ${product} elements (node ${node.name})`);
  }
}

/** A ModelProto of the subgraph: opsets, functions and nodes byte for byte, constants inline. */
function encodeSubgraph(
  model: OnnxModel,
  subgraph: Subgraph,
  feeds: ReadonlyMap<string, OnnxDtype>,
  outputs: readonly string[],
): Uint8Array {
  const { source, scanned, nodes } = openedModel(model);
  const used = new Set(subgraph.nodes.flatMap((node) => node.inputs));
  const parts: Uint8Array[] = [];
  for (const node of subgraph.nodes) {
    const constant = constantTensor(node);
    const span = nodes.get(node)?.message;
    if (constant?.location.kind === 'external') parts.push(encodeInitializer(constant));
    else if (span === undefined) parts.push(encodeField(1, encodeNode(node)));
    else parts.push(encodeField(1, source.slice(span.start, span.end)));
  }
  parts.push(encodeString(2, 'subgraph'));
  for (const initializer of subgraph.initializers) parts.push(encodeInitializer(initializer));
  for (const [name, dtype] of feeds) {
    // No shape: the session serves every size.
    const type = encodeField(1, encodeVarintField(1, codeOfDtype(dtype)));
    if (used.has(name)) parts.push(encodeField(11, concat([encodeString(1, name), encodeField(2, type)])));
  }
  for (const name of outputs) parts.push(encodeField(12, encodeString(1, name)));
  return concat([
    encodeVarintField(1, model.irVersion),
    ...scanned.preamble.map(({ tagAt, end }) => source.slice(tagAt, end)),
    encodeField(7, concat(parts)),
  ]);
}

/** onnxruntime puts functions in without end, when they double at each call. */
const MAX_FUNCTIONS = 500;

type Called = (node: OnnxNode) => OnnxFunction | undefined;

/** The local function that a node calls. */
function functionTable({ functions }: OnnxModel): Called {
  const table = new Map(functions.map((item) => [`${item.domain}:${item.name}`, item]));
  return ({ domain, opType }) => table.get(`${domain}:${opType}`);
}

/** Nodes that are left once local functions are put in: endless for those that call themselves. */
function unfoldedNodes(calledBy: Called, nodes: readonly OnnxNode[]): number {
  const known = new Map<OnnxFunction, number>();
  const count = (list: readonly OnnxNode[]): number =>
    list.reduce((sum, node) => {
      const called = calledBy(node);
      return sum + (called === undefined ? 1 : sizeOf(called));
    }, 0);
  const sizeOf = (called: OnnxFunction): number => {
    const size = known.get(called);
    if (size !== undefined) return size;
    known.set(called, Infinity);
    const own = count(called.nodes);
    known.set(called, own);
    return own;
  };
  return count(nodes);
}

function encodeInitializer(tensor: OnnxInitializer): Uint8Array {
  const dims = tensor.dims.map((dim) => encodeVarintField(1, dim));
  const type = encodeVarintField(2, codeOfDtype(tensor.dtype));
  const data = encodeField(9, tensor.read().bytes);
  return encodeField(5, concat([...dims, type, encodeString(8, tensor.name), data]));
}

/** Element types both sides know, by onnxruntime's names; f16 and bf16 never cross this border. */
const ORT_TYPES = {
  f32: 'float32',
  f64: 'float64',
  i64: 'int64',
  u64: 'uint64',
  i32: 'int32',
  u32: 'uint32',
  i16: 'int16',
  u16: 'uint16',
  i8: 'int8',
  u8: 'uint8',
  bool: 'bool',
} as const;

function isOrtDtype(dtype: OnnxDtype): dtype is keyof typeof ORT_TYPES {
  return Object.hasOwn(ORT_TYPES, dtype);
}

function feedsOf(
  names: readonly string[],
  values: ReadonlyMap<string, TensorValue>,
  maxBytes: number,
): Record<string, Tensor> {
  const given = Object.create(null) as Record<string, Tensor>;
  for (const name of names) {
    const value = values.get(name);
    invariant(value !== undefined, `no value is fed for '${name}'`);
    const { dtype, dims, data } = value;
    invariant(isOrtDtype(dtype), `element type ${dtype} of '${name}' cannot be fed`);
    invariant(data.byteLength <= maxBytes, `the feed '${name}' has ${data.byteLength} bytes`);
    given[name] = new Tensor(ORT_TYPES[dtype], data as Float32Array, [...dims]);
  }
  return given;
}

function valueOf(what: string, tensor: Tensor | undefined, maxBytes: number): TensorValue {
  invariant(tensor !== undefined, 'onnxruntime returns every output asked for');
  const found = Object.entries(ORT_TYPES).find(([, type]) => type === tensor.type);
  if (found === undefined) throw new UserError(`${what}: a result has element type ${tensor.type}`);
  const data = tensor.data as TensorData;
  if (data.byteLength > maxBytes) {
    throw new UserError(`${what}: a result has ${data.byteLength} bytes, more than ${maxBytes}`);
  }
  return { dtype: found[0] as OnnxDtype, dims: tensor.dims, data };
}

async function translateErrors<T>(what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    const reason = (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? '';
    throw new UserError(
      `${what}: onnxruntime refuses the subgraph: ${reason}`,
      'check the model with onnx.checker, or export it again',
      { cause: error },
    );
  }
}
