/** Bodies in place of the nodes that stand for them: local functions, and branches of If whose condition is known. */
import { UserError } from '../../errors.js';
import { isFloat } from './dtype.js';
import type {
  OnnxAttribute,
  OnnxFunction,
  OnnxGraph,
  OnnxInitializer,
  OnnxModel,
  OnnxNode,
} from './model.js';

export interface Expansion {
  /** In execution order; they define the outputs of the node they replace. */
  readonly nodes: readonly OnnxNode[];
  /** Constants of the body under their new names. */
  readonly initializers: readonly OnnxInitializer[];
}

interface Body {
  readonly nodes: readonly OnnxNode[];
  readonly initializers: ReadonlyMap<string, OnnxInitializer>;
  /** Names inside → names outside: operands of a function. */
  readonly given: ReadonlyMap<string, string>;
  readonly outputs: readonly string[];
  /** Attributes of a call, which the body's nodes refer to. */
  readonly attributes: ReadonlyMap<string, OnnxAttribute>;
}

/** Operators whose nodes are replaced by what they hold, or read as what they are, and when. */
export const EXPANDED_OPERATORS: ReadonlyMap<string, string> = new Map([
  ['Constant', 'a stored tensor'],
  ['If', 'the branch of a known condition; refused where the condition depends on the tokens'],
  ...[
    'SequenceEmpty',
    'SequenceConstruct',
    'SequenceInsert',
    'SequenceErase',
    'SequenceAt',
    'SplitToSequence',
    'ConcatFromSequence',
  ].map((name) => [name, 'lists of known length and order; others are refused'] as const),
]);

/** Weights inside of a branch could not be written back when the trained model is exported. */
const MAX_BODY_CONSTANT = 16;

/** Names grow with every body inside another: a chain of thousands would fill the memory with them. */
const MAX_NAME = 4096;

/**
 * @param decide the value of a condition, by name; undefined when it is not known
 * @returns undefined for a node that stands for itself
 * @throws UserError for a body that holds weights
 */
export function expandNode(
  model: OnnxModel,
  node: OnnxNode,
  decide: (condition: string) => boolean | undefined,
): Expansion | undefined {
  const body = callOf(model, node) ?? branchOf(node, decide);
  return body && placed(model, node, body);
}

const tables = new WeakMap<OnnxModel['functions'], ReadonlyMap<string, ReadonlyMap<string, OnnxFunction>>>();

/** Local functions by domain and name; of two that are called alike, the first. */
function functionsOf({ functions }: OnnxModel): ReadonlyMap<string, ReadonlyMap<string, OnnxFunction>> {
  const known = tables.get(functions);
  if (known !== undefined) return known;
  const table = new Map<string, Map<string, OnnxFunction>>();
  for (const item of functions) {
    const own = table.get(item.domain) ?? new Map<string, OnnxFunction>();
    table.set(item.domain, own);
    if (!own.has(item.name)) own.set(item.name, item);
  }
  tables.set(functions, table);
  return table;
}

function callOf(model: OnnxModel, node: OnnxNode): Body | undefined {
  const found = functionsOf(model).get(node.domain)?.get(node.opType);
  if (found === undefined) return undefined;
  return {
    nodes: found.nodes,
    initializers: new Map(),
    given: new Map(found.inputs.map((name, i) => [name, node.inputs[i] ?? ''])),
    outputs: found.outputs,
    attributes: node.attributes,
  };
}

function branchOf(node: OnnxNode, decide: (condition: string) => boolean | undefined): Body | undefined {
  if (node.opType !== 'If' || node.domain !== '') return undefined;
  const condition = decide(node.inputs[0] ?? '');
  const branch = node.attributes.get(condition === true ? 'then_branch' : 'else_branch');
  if (condition === undefined || branch?.kind !== 'graph') return undefined;
  const { nodes, initializers, outputs } = branch.value;
  return {
    nodes,
    initializers,
    given: new Map(),
    outputs: outputs.map(({ name }) => name),
    attributes: new Map(),
  };
}

/** The body's own names get the node's name before them; other names are those of the graph around it. */
function placed(model: OnnxModel, node: OnnxNode, body: Body): Expansion {
  if (node.name.length > MAX_NAME)
    throw new UserError(
      `${model.path}: ${node.opType} node ${node.name.slice(0, 60)}…: functions and branches are nested too deeply, or without end`,
      `names of what is inside them may have ${MAX_NAME} characters; inline the functions before (onnx.inliner)`,
    );
  for (const { name, dtype, elementCount } of body.initializers.values())
    if (isFloat(dtype) && elementCount > MAX_BODY_CONSTANT)
      throw new UserError(
        `${model.path}: ${node.opType} node ${node.name} holds the weight '${name}' in a branch`,
        'export the model without branches (optimum: the file that is not called merged)',
      );
  const own = new Set([
    ...body.initializers.keys(),
    ...body.nodes.flatMap((inner) => inner.outputs.filter((name) => name !== '')),
  ]);
  const renamed = (name: string): string =>
    name === '' ? '' : (body.given.get(name) ?? (own.has(name) ? `${node.name}/${name}` : name));
  const count = body.nodes.length + node.outputs.length + 1;
  // Between this node and the next.
  const indexOf = (i: number): number => node.index + (i + 1) / (count + 1);
  const nodes = body.nodes.map((inner, i): OnnxNode => ({
    ...inner,
    index: indexOf(i),
    name: `${node.name}/${inner.name}`,
    inputs: inner.inputs.map(renamed),
    outputs: inner.outputs.map(renamed),
    attributes: attributesOf(inner, body.attributes, renamed),
  }));
  const results = node.outputs.flatMap((output, i): OnnxNode[] =>
    output === ''
      ? []
      : [
          {
            index: indexOf(nodes.length + i),
            name: node.name,
            opType: 'Identity',
            domain: '',
            inputs: [renamed(body.outputs[i] ?? '')],
            outputs: [output],
            attributes: new Map(),
            metadata: node.metadata,
          },
        ],
  );
  const initializers = [...body.initializers.values()].map((tensor) => ({
    ...tensor,
    name: renamed(tensor.name),
  }));
  return { nodes: [...nodes, ...results], initializers };
}

/** Attributes of a node of the body: those of the call where they refer to them, bodies of its own with outer names. */
function attributesOf(
  inner: OnnxNode,
  given: ReadonlyMap<string, OnnxAttribute>,
  renamed: (name: string) => string,
): ReadonlyMap<string, OnnxAttribute> {
  const bound = ([key, value]: readonly [string, OnnxAttribute]): (readonly [string, OnnxAttribute])[] => {
    if (value.kind === 'graph')
      return [[key, { ...value, value: captured(value.value, given, renamed) }] as const];
    if (value.kind !== 'ref') return [[key, value]];
    const found = given.get(value.value);
    return found === undefined ? [] : [[key, found]];
  };
  return new Map([...inner.attributes].flatMap(bound));
}

/** A body within a body: names that it does not define are those around it. */
function captured(
  graph: OnnxGraph,
  given: ReadonlyMap<string, OnnxAttribute>,
  outer: (name: string) => string,
): OnnxGraph {
  const own = new Set([
    ...graph.initializers.keys(),
    ...graph.inputs.map(({ name }) => name),
    ...graph.nodes.flatMap((node) => node.outputs),
  ]);
  const renamed = (name: string): string => (own.has(name) ? name : outer(name));
  return {
    ...graph,
    outputs: graph.outputs.map((output) => ({ ...output, name: renamed(output.name) })),
    nodes: graph.nodes.map((node) => ({
      ...node,
      inputs: node.inputs.map(renamed),
      attributes: attributesOf(node, given, renamed),
    })),
  };
}

/** Names that the bodies of a node read, their own and those of the graph around them. */
export function bodyReads(node: OnnxNode): readonly string[] {
  return [...node.attributes.values()].flatMap((attribute) => {
    if (attribute.kind !== 'graph' && attribute.kind !== 'graphs') return [];
    const bodies = attribute.kind === 'graph' ? [attribute.value] : attribute.value;
    return bodies.flatMap((body) => [
      ...body.outputs.map((output) => output.name),
      ...body.nodes.flatMap((inner) => [...inner.inputs, ...bodyReads(inner)]),
    ]);
  });
}
