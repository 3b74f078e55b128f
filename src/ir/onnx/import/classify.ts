/** The forward pass: shape, element type and kind of every value that the logits depend on. */
import { UserError } from '../../../errors.js';
import { HIDDEN_SCORE } from '../../ops/attention.js';
import { constantOf, constantSize, type Size } from '../../size.js';
import { constantTensor } from '../attribute.js';
import { derivedModel } from '../decode.js';
import { isFloat } from '../dtype.js';
import { bodyReads, expandNode } from '../inline.js';
import type { OnnxInitializer, OnnxModel, OnnxNode } from '../model.js';
import { producersOf } from '../producers.js';
import { sequenceFolder } from '../sequences.js';
import { makeContext, MAX_KNOWN, nodeText, type OpContext, type Shaped } from './context.js';
import { isLinearTable } from './distance.js';
import { bindInputs, type BoundInput } from './inputs.js';
import { onnxOp } from './ops/index.js';
import { refusalOf } from './ops/refused.js';
import { comparedId, countedTests } from './padding.js';
import { printDims, zero } from './shapes.js';

/**
 * What is known of a value. Three kinds matter: `ints` given: a function of S, known exactly;
 * `data`: depends on the values of tokens; otherwise an *index* value, a function of S, positions, masks
 * and stored tensors.
 */
export interface ValueFacts extends Shaped {
  readonly data: boolean;
  /** Depends on no input and not on S. */
  readonly fixed: boolean;
  /** Depends on a stored tensor that may be trained, or on an input that cannot be fed. */
  readonly weights: boolean;
  readonly node: OnnxNode | undefined;
  readonly input: BoundInput | undefined;
  readonly stored: OnnxInitializer | undefined;
}

export interface Classified {
  readonly model: OnnxModel;
  readonly opset: number;
  readonly facts: ReadonlyMap<string, ValueFacts>;
  /** Nodes that the logits depend on, in execution order. */
  readonly nodes: readonly OnnxNode[];
  readonly limit: TokenLimit;
  /** Token ids that documents are taken not to hold. */
  readonly padding: ReadonlySet<number>;
}

/** The most tokens a document may have for what was inferred to hold. */
export interface TokenLimit {
  readonly lower: (limit: number) => void;
  readonly value: () => number | undefined;
}

export function tokenLimit(): TokenLimit {
  let least: number | undefined;
  return {
    lower: (limit) => (least = least === undefined ? limit : Math.min(least, limit)),
    value: () => least,
  };
}

/** @throws UserError naming the node or input that is not understood */
export function classify(model: OnnxModel, output: string): Classified {
  const { nodes, names } = reachable(model, output);
  const opset = model.opsets.get('') ?? model.opsets.get('ai.onnx') ?? 0;
  const facts = new Map<string, ValueFacts>();
  const limit = tokenLimit();
  const own = { node: undefined, input: undefined, stored: undefined };
  const counted = countedTests(nodes);
  const padding = new Set<number>();
  for (const [name, input] of bindInputs(model, names)) {
    const { dtype, dims } = input;
    facts.set(name, {
      ...own,
      dtype,
      dims,
      ...(input.role === 'prefill' ? { ints: [zero] } : {}),
      data: ['tokens', 'types', 'labels'].includes(input.role),
      fixed: false,
      // onnxruntime cannot be fed half precision: what is computed from such a cache is translated, not evaluated.
      weights: dtype === 'f16' || dtype === 'bf16',
      input,
    });
  }
  for (const [name, stored] of model.initializers) if (names.has(name)) facts.set(name, storedFacts(stored));
  let expansions = 0;
  const executed: OnnxNode[] = [];
  const added: OnnxInitializer[] = [];
  const decide = (condition: string): boolean | undefined => {
    const [value, ...others] = facts.get(condition)?.ints ?? [];
    const known = value === undefined || others.length > 0 ? undefined : constantOf(value);
    return known === undefined ? undefined : known !== 0;
  };
  const foldSequence = sequenceFolder({
    opset,
    ints: (name) => {
      const numbers = facts.get(name)?.ints?.map(constantOf);
      return numbers?.every((n) => n !== undefined) === true ? numbers : undefined;
    },
    size: (name, axis) => {
      const size = facts.get(name)?.dims.at(axis);
      return size && constantOf(size);
    },
  });
  const pending = nodes.toReversed();
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    const expansion = expandNode(model, node, decide) ?? foldSequence(node);
    if (expansion !== undefined) {
      for (const stored of expansion.initializers) {
        facts.set(stored.name, storedFacts(stored));
        added.push(stored);
      }
      for (const inner of expansion.nodes.toReversed()) pending.push(inner);
      if (++expansions > MAX_EXPANSIONS) throw tooManyBodies(model, node);
      continue;
    }
    executed.push(node);
    const results = inferNode(node, opset, facts, limit);
    const operands = node.inputs.flatMap((name) => facts.get(name) ?? []);
    const padded = counted.has(node) ? comparedId(node, facts) : undefined;
    if (padded !== undefined) padding.add(padded);
    node.outputs.forEach((name, i) => {
      const shaped = results[i];
      if (name === '' || shaped === undefined) return;
      const stored = constantTensor(node);
      const rows = shaped.pool !== undefined || operands.some((operand) => operand.rows === true);
      facts.set(
        name,
        stored === undefined
          ? {
              ...shaped,
              ...kindOf(shaped, operands),
              ...(padded !== undefined && { data: false }),
              ...own,
              node,
              rows,
            }
          : { ...storedFacts(stored), node },
      );
    });
  }
  const shared = { opset, facts, limit, padding };
  if (expansions === 0) return { ...shared, model, nodes };
  return { ...shared, model: derivedModel(model, executed, added), nodes: executed };
}

/** Functions may call themselves. */
const MAX_EXPANSIONS = 10_000;

const tooManyBodies = (model: OnnxModel, node: OnnxNode): UserError =>
  new UserError(
    `${model.path}: functions and branches unfold without end at ${nodeText(node)}`,
    'export the model again',
  );

function kindOf(
  shaped: Shaped,
  operands: readonly ValueFacts[],
): Pick<ValueFacts, 'data' | 'fixed' | 'weights'> {
  if (shaped.ints !== undefined)
    return {
      data: false,
      fixed: shaped.ints.every((size) => constantOf(size) !== undefined),
      weights: false,
    };
  return {
    data: operands.some((operand) => operand.data),
    fixed: operands.every((operand) => operand.fixed),
    weights: operands.some((operand) => operand.weights),
  };
}

/** Nodes and names that `output` depends on; iterative, graphs are thousands of nodes deep. */
function reachable(
  model: OnnxModel,
  output: string,
): { nodes: readonly OnnxNode[]; names: ReadonlySet<string> } {
  const producers = producersOf(model.nodes);
  const names = new Set<string>();
  const nodes = new Set<OnnxNode>();
  const pending = [output];
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    if (name === '' || names.has(name)) continue;
    names.add(name);
    const node = producers.get(name);
    if (node === undefined || nodes.has(node)) continue;
    nodes.add(node);
    for (const input of node.inputs) pending.push(input);
    for (const input of bodyReads(node)) pending.push(input);
  }
  return { nodes: model.nodes.filter((node) => nodes.has(node)), names };
}

/** Whether a node is one of ONNX's own, not of a contrib domain or a local function. */
export const isStandard = (node: OnnxNode): boolean => node.domain === '' || node.domain === 'ai.onnx';

export function contextOf(
  node: OnnxNode,
  opset: number,
  facts: ReadonlyMap<string, ValueFacts>,
  limit: TokenLimit,
): OpContext {
  const shapedOf = (name: string): Shaped => {
    const found = facts.get(name);
    if (found === undefined)
      throw new UserError(`${nodeText(node)}: the shape of '${name}' is not known`, 'export the model again');
    return found;
  };
  return makeContext(node, opset, shapedOf, limit.lower);
}

/** Shapes of a node's results. @throws UserError naming the node */
export function inferNode(
  node: OnnxNode,
  opset: number,
  facts: ReadonlyMap<string, ValueFacts>,
  limit: TokenLimit,
): readonly Shaped[] {
  const constant = constantTensor(node);
  if (constant !== undefined) return [storedFacts(constant)];
  const op = onnxOp(node);
  if (op === undefined && node.opType === 'If')
    throw new UserError(
      `${nodeText(node)}: its condition '${node.inputs[0]}' is not constant`,
      'export without control flow: torch.onnx.export(..., dynamo=True)',
    );
  if (op === undefined) {
    const { reason, hint } = refusalOf(node);
    const domain = isStandard(node) ? '' : ` of domain ${node.domain}`;
    throw new UserError(
      `${nodeText(node)}: operation ${node.opType}${domain} is not supported: it ${reason}`,
      hint,
    );
  }
  const results = op.infer(contextOf(node, opset, facts, limit));
  const negative = results.find(({ dims }) => dims.some((size) => (constantOf(size) ?? 0) < 0));
  if (negative !== undefined)
    throw new UserError(
      `${nodeText(node)}: makes a tensor of shape ${printDims(negative.dims)}`,
      'check the model with onnx.checker, or export it again',
    );
  return results;
}

export function storedFacts(stored: OnnxInitializer): ValueFacts {
  const { dtype } = stored;
  const dims = stored.dims.map(constantSize);
  const ints = knownElements(stored);
  const weights =
    ints === undefined &&
    isFloat(dtype) &&
    stored.elementCount > 1 &&
    !isMaskTable(stored) &&
    !isDistanceTable(stored);
  return { dtype, dims, ints, data: false, fixed: true, weights, node: undefined, input: undefined, stored };
}

/** Small integer tensors, and single floats that are integers. */
function knownElements(stored: OnnxInitializer): readonly Size[] | undefined {
  const { dtype, elementCount } = stored;
  if (dtype === 'string' || elementCount > (isFloat(dtype) ? 1 : MAX_KNOWN) || !stored.isPresent())
    return undefined;
  const tensor = stored.read();
  const elements = isFloat(dtype) ? Array.from(tensor.toFloat64()) : tensor.toInts();
  return elements.every((value) => Number.isSafeInteger(value))
    ? elements.map((value) => constantSize(value + 0))
    : undefined;
}

const MASK_TABLE_BYTES = 64 * 1024 * 1024;

const DISTANCE_TABLE_BYTES = 4 * 1024 * 1024;

/** A stored float table whose rows are arithmetic progressions: a bias by distance, ready made. */
function isDistanceTable(stored: OnnxInitializer): boolean {
  const columns = stored.dims.at(-1) ?? 0;
  if (
    stored.dims.length < 2 ||
    columns < 8 ||
    stored.dtype !== 'f32' ||
    stored.bytes > DISTANCE_TABLE_BYTES ||
    !stored.isPresent()
  )
    return false;
  const head = new Float32Array(Uint8Array.from(stored.readRange(0, 8 * 4)).buffer);
  return isLinearTable(head, 8) && isLinearTable(stored.read().toFloat32(), columns);
}

/**
 * A stored float mask: square in its last dims, of at least two different values, all of them 0, 1 or at
 * most −9000. No weight looks like that, so its values may be taken as constants.
 */
function isMaskTable(stored: OnnxInitializer): boolean {
  const [rows, columns] = stored.dims.slice(-2);
  if (
    stored.dims.length < 2 ||
    rows !== columns ||
    stored.bytes > MASK_TABLE_BYTES ||
    stored.dtype !== 'f32' ||
    !stored.isPresent()
  )
    return false;
  const fits = (value: number): boolean => value === 0 || value === 1 || value <= HIDDEN_SCORE;
  const head = stored.readRange(0, Math.min(stored.bytes, 256));
  if (!new Float32Array(Uint8Array.from(head).buffer).every(fits)) return false;
  const values = stored.read().toFloat32();
  return values.every(fits) && values.some((value) => value !== values[0]);
}
