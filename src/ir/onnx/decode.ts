/** Reads an ONNX file: scan (scan.ts), decode the skeleton with protobufjs, translate, check (validate.ts). */
import { createHash } from 'node:crypto';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { UserError, invariant } from '../../errors.js';
import { PIECE_BYTES, rangesOf } from '../../files/pieces.js';
import { attributeOf } from './attribute.js';
import type { Translator } from './attribute.js';
import { MAX_MODEL_BYTES, openBytes } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { dtypeOfCode } from './dtype.js';
import { externalFiles } from './external.js';
import type { ExternalFiles } from './external.js';
import { makeInitializer } from './initializer.js';
import { toNumber, varintOf } from './long.js';
import type {
  OnnxDim,
  OnnxFunction,
  OnnxGraph,
  OnnxInitializer,
  OnnxModel,
  OnnxNode,
  OnnxValueInfo,
} from './model.js';
import { scanModel } from './scan.js';
import type { ScannedModel, ScannedNode, ScannedTensor } from './scan.js';
import { saturate } from './tensor.js';
import { validateModel } from './validate.js';

export interface ReadOptions {
  /** False accepts a model whose external data is absent; reading such a tensor then throws. */
  readonly weights: boolean;
}

/** A model with its file: byte ranges of its nodes and tensors, for those who copy the file's own bytes. */
export interface OpenedModel {
  readonly model: OnnxModel;
  readonly source: ByteSource;
  readonly scanned: ScannedModel;
  readonly nodes: ReadonlyMap<OnnxNode, ScannedNode>;
  readonly tensors: ReadonlyMap<OnnxInitializer, ScannedTensor>;
}

const openedModels = new WeakMap<OnnxModel, OpenedModel>();

/**
 * Reads and checks a model. Weights stay on disk until they are asked for.
 * @throws UserError when the file is absent, no ONNX model, truncated, malformed or above 2 GiB − 1 bytes
 */
export function readOnnxModel(path: string, options: ReadOptions): OnnxModel {
  const source = openBytes(path, 'ONNX model');
  if (source.size === 0) {
    throw new UserError(`${path}: is empty, expected an ONNX file`, 'export the model again');
  }
  if (source.size > MAX_MODEL_BYTES) {
    throw new UserError(
      `${path}: has ${source.size} bytes; a protobuf file holds at most ${MAX_MODEL_BYTES}`,
      'export with external data (torch.onnx.export(..., external_data=True))',
    );
  }
  const scanned = scanModel(source);
  const proto = decodeSkeleton(path, scanned.skeleton);
  const opened = translateModel(proto, source, scanned, externalFiles(path, options.weights));
  validateModel(opened.model);
  openedModels.set(opened.model, opened);
  return opened.model;
}

/** The model with other nodes, and constants besides its own, over the same file. */
export function derivedModel(
  model: OnnxModel,
  nodes: readonly OnnxNode[],
  added: readonly OnnxInitializer[],
): OnnxModel {
  const initializers = new Map([
    ...model.initializers,
    ...added.map((tensor) => [tensor.name, tensor] as const),
  ]);
  const derived = Object.freeze({ ...model, nodes, initializers });
  openedModels.set(derived, { ...openedModel(model), model: derived });
  return derived;
}

/** The file behind a model that `readOnnxModel` returned. */
export function openedModel(model: OnnxModel): OpenedModel {
  const opened = openedModels.get(model);
  invariant(opened !== undefined, 'the model does not come from readOnnxModel');
  return opened;
}

function decodeSkeleton(path: string, skeleton: Uint8Array): onnx.ModelProto {
  let proto: onnx.ModelProto;
  try {
    proto = onnxProto.onnx.ModelProto.decode(skeleton);
  } catch (error) {
    throw new UserError(`${path}: not an ONNX file (${String(error)})`, 'export the model again', {
      cause: error,
    });
  }
  if (proto.graph === null || proto.graph === undefined) {
    throw new UserError(
      `${path}: truncated, or not an ONNX file: it has no graph`,
      'give a model.onnx, as torch.onnx.export writes it',
    );
  }
  return proto;
}

/** What translation carries along. */
interface Context extends Translator {
  readonly source: ByteSource;
  readonly nodes: Map<OnnxNode, ScannedNode>;
}

function translateModel(
  proto: onnx.ModelProto,
  source: ByteSource,
  scanned: ScannedModel,
  files: ExternalFiles,
): OpenedModel {
  const nodes = new Map<OnnxNode, ScannedNode>();
  const tensors = new Map<OnnxInitializer, ScannedTensor>();
  const context: Context = {
    source,
    nodes,
    tensor: (tensor, name) => {
      const ticket = scanned.tensors[varintOf(tensor.rawData)];
      invariant(ticket !== undefined, 'every tensor of the skeleton has a number');
      const initializer = makeInitializer(headerOf(source.path, tensor, name), ticket, source, files);
      tensors.set(initializer, ticket);
      return initializer;
    },
    graph: (graph) => graphOf(context, scanned, graph),
  };
  const graph = graphOf(context, scanned, proto.graph ?? {});
  let hash: string | undefined;
  const model: OnnxModel = {
    ...graph,
    path: source.path,
    sha256: () => (hash ??= hashOf(source)),
    irVersion: toNumber(proto.irVersion),
    producer: `${proto.producerName} ${proto.producerVersion}`.trim(),
    opsets: opsetsOf(proto.opsetImport),
    functions: proto.functions.map((item) => functionOf(context, scanned, item)),
    metadata: new Map(proto.metadataProps.map(({ key, value }) => [key ?? '', value ?? ''])),
  };
  return { model: Object.freeze(model), source, scanned, nodes, tensors };
}

function graphOf(context: Context, scanned: ScannedModel, graph: onnx.IGraphProto): OnnxGraph {
  const path = context.source.path;
  if ((graph.sparseInitializer ?? []).length > 0) {
    throw new UserError(
      `${path}: the graph '${graph.name ?? ''}' has sparse initializers`,
      'export the model with dense weights',
    );
  }
  const initializers = new Map<string, OnnxInitializer>();
  for (const proto of graph.initializer ?? []) {
    const name = proto.name ?? '';
    if (name === '') throw new UserError(`${path}: an initializer has no name`, 'export the model again');
    if (initializers.has(name)) {
      throw new UserError(`${path}: two initializers are called '${name}'`, 'export the model again');
    }
    initializers.set(name, context.tensor(proto, name));
  }
  const infos = (list: readonly onnx.IValueInfoProto[] | null | undefined): OnnxValueInfo[] =>
    (list ?? []).map(valueInfoOf);
  return Object.freeze({
    name: graph.name ?? '',
    // Up to IR version 3 an initializer had to be listed as an input too.
    inputs: infos(graph.input).filter(({ name }) => !initializers.has(name)),
    outputs: infos(graph.output),
    nodes: (graph.node ?? []).map((node, index) => nodeOf(context, scanned, node, index)),
    initializers,
    valueInfo: new Map(infos(graph.valueInfo).map((info) => [info.name, info])),
  });
}

const NO_ATTRIBUTES: OnnxNode['attributes'] = new Map();

function nodeOf(context: Context, scanned: ScannedModel, proto: onnx.INodeProto, index: number): OnnxNode {
  const ticket = scanned.nodes[Number(proto.docString)];
  invariant(ticket !== undefined, 'every node of the skeleton has a number');
  const opType = proto.opType ?? '';
  const name = proto.name === '' || proto.name === null ? undefined : proto.name;
  const label = name ?? `${opType}#${index}`;
  const attributes = (proto.attribute ?? []).map((attribute) => {
    const key = attribute.name ?? '';
    return [key, attributeOf(context, attribute, label)] as const;
  });
  const node: OnnxNode = Object.freeze({
    index,
    name: label,
    opType,
    domain: domainOf(proto.domain),
    inputs: Object.freeze(proto.input ?? []),
    outputs: Object.freeze(proto.output ?? []),
    attributes: attributes.length === 0 ? NO_ATTRIBUTES : new Map(attributes),
    metadata: ticket.metadata,
  });
  context.nodes.set(node, ticket);
  return node;
}

function functionOf(context: Context, scanned: ScannedModel, proto: onnx.IFunctionProto): OnnxFunction {
  return Object.freeze({
    domain: domainOf(proto.domain),
    name: proto.name ?? '',
    inputs: proto.input ?? [],
    outputs: proto.output ?? [],
    attributes: proto.attribute ?? [],
    opsets: opsetsOf(proto.opsetImport ?? []),
    nodes: (proto.node ?? []).map((node, index) => nodeOf(context, scanned, node, index)),
  });
}

function headerOf(
  path: string,
  proto: onnx.ITensorProto,
  name: string,
): Parameters<typeof makeInitializer>[0] {
  const dtype = dtypeOfCode(proto.dataType ?? 0);
  if (dtype === undefined) {
    throw new UserError(
      `${path}: tensor '${name}' has the unknown element type ${proto.dataType ?? 0}`,
      'export the model again, in float32',
    );
  }
  if (proto.segment !== null && proto.segment !== undefined) {
    throw new UserError(`${path}: tensor '${name}' is stored in segments`, 'export the model again');
  }
  // 1 is EXTERNAL; the external_data entries mean nothing without it.
  const external = Number(proto.dataLocation ?? 0) === 1;
  return { name, dtype, dims: (proto.dims ?? []).map((dim) => toNumber(dim)), external };
}

function valueInfoOf(proto: onnx.IValueInfoProto): OnnxValueInfo {
  const tensor = proto.type?.tensorType;
  const dims = tensor?.shape?.dim?.map(dimOf);
  // A tensor without a declared shape may have any rank; one with an empty shape is a scalar.
  const shaped = tensor?.shape !== null && tensor?.shape !== undefined;
  return Object.freeze({
    name: proto.name ?? '',
    elemType: dtypeOfCode(tensor?.elemType ?? 0),
    dims: shaped ? Object.freeze(dims ?? []) : undefined,
  });
}

function dimOf(proto: onnx.TensorShapeProto.IDimension): OnnxDim {
  if (proto.dimParam !== null && proto.dimParam !== undefined && proto.dimParam !== '') return proto.dimParam;
  if (proto.dimValue === null || proto.dimValue === undefined) return undefined;
  const value = saturate(toNumber(proto.dimValue));
  return value < 0 ? undefined : value;
}

function opsetsOf(list: readonly onnx.IOperatorSetIdProto[]): ReadonlyMap<string, number> {
  return new Map(list.map(({ domain, version }) => [domainOf(domain), toNumber(version)]));
}

function domainOf(domain: string | null | undefined): string {
  return domain === 'ai.onnx' ? '' : (domain ?? '');
}

function hashOf(source: ByteSource): string {
  const hash = createHash('sha256');
  for (const { start, end } of rangesOf(source.size, PIECE_BYTES)) hash.update(source.slice(start, end));
  return hash.digest('hex');
}
