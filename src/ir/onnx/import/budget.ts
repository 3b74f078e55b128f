/**
 * What evaluating a part of a graph may cost, from its inferred shapes, before onnxruntime is asked. Sizes
 * that onnxruntime would compute are fed to it as inferred, so that no value has another shape than here.
 */
import { UserError } from '../../../errors.js';
import { constantOf, evaluateSize, signOfSize } from '../../size.js';
import { elementBytes, isFloat } from '../dtype.js';
import type { OnnxNode } from '../model.js';
import type { Classified, ValueFacts } from './classify.js';
import { nodeText } from './context.js';
import { TOKENS } from './shapes.js';

/** Bound on any one value of an evaluated subgraph. */
export const MAX_VALUE_BYTES = 64 * 1024 * 1024;
/** Values of that size that may be held at once. */
const MAX_HELD = 6;
/** Values of that size that one run may compute. What onnxruntime frees does not always leave the process. */
const MAX_COMPUTED = 12;
/** The time of a run, in values of that size. */
const MAX_WORK = 32;
/** Bytes that all evaluations of one import may be worth: some ten seconds. */
const MAX_IMPORT_BYTES = 12 * 2 ** 30;
/** Multiplications that take as long as writing a byte. */
const PRODUCTS_PER_BYTE = 4;

/** Ops whose elements are sums of products. */
const PRODUCTS = new Set(['MatMul', 'Gemm', 'Einsum', 'Attention', 'Conv']);

/** Negative sizes, which nothing can have, count as endless. */
const sizeAt = (facts: ValueFacts, length: number): readonly number[] =>
  facts.dims.map((size) => {
    const n = evaluateSize(size, new Map([[TOKENS, length]]));
    return n < 0 ? Infinity : n;
  });

/** Bytes of a value that is computed or fed. */
const bytesAt = (facts: ValueFacts, length: number): number =>
  facts.stored === undefined
    ? sizeAt(facts, length).reduce((product, n) => (n === 0 ? 0 : product * n), 1) *
      Math.max(1, elementBytes(facts.dtype))
    : 0;

/** The nodes that compute `inside`, in execution order. */
export const nodesInside = (classified: Classified, inside: readonly string[]): readonly OnnxNode[] =>
  [...new Set(inside.flatMap((name) => classified.facts.get(name)?.node ?? []))].sort(
    (a, b) => a.index - b.index,
  );

/**
 * The size of value that a run of a subgraph is worth at a length, bytes: at least its largest value, and more
 * where it holds or computes many. Within `MAX_VALUE_BYTES` a run takes a second or two and at most 768 MiB.
 * @param kept values that are asked for, held to the end
 */
export function runBytes(
  classified: Classified,
  inside: readonly string[],
  length: number,
  kept: ReadonlySet<string> = new Set(),
): number {
  const nodes = nodesInside(classified, inside);
  const own = new Set(nodes);
  const lastReader = new Map<string, OnnxNode>();
  for (const node of nodes) for (const name of node.inputs) lastReader.set(name, node);
  let [held, mostHeld, computed, work, largest] = [0, 0, 0, 0, 0];
  for (const node of nodes) {
    const results = node.outputs.flatMap((name) => classified.facts.get(name) ?? []);
    for (const facts of results) {
      const bytes = bytesAt(facts, length);
      largest = Math.max(largest, bytes);
      held += bytes;
      computed += bytes;
      work += bytes * (1 + productsOf(node, classified, length) / PRODUCTS_PER_BYTE);
    }
    mostHeld = Math.max(mostHeld, held);
    for (const name of new Set([...node.inputs, ...node.outputs])) {
      const facts = classified.facts.get(name);
      const dead = (lastReader.get(name) ?? node) === node && !kept.has(name);
      if (facts?.node !== undefined && dead && own.has(facts.node)) held -= bytesAt(facts, length);
    }
  }
  return Math.max(largest, mostHeld / MAX_HELD, computed / MAX_COMPUTED, work / MAX_WORK);
}

function productsOf(node: OnnxNode, { facts }: Classified, length: number): number {
  if (!PRODUCTS.has(node.opType)) return 0;
  return node.inputs
    .flatMap((name) => facts.get(name) ?? [])
    .flatMap((x) => sizeAt(x, length))
    .reduce((most, n) => Math.max(most, n), 0);
}

const spent = new WeakMap<Classified, number>();

/**
 * Counts a run of a subgraph. @param bytes what `runBytes` says of it
 * @throws UserError when one run, or all of an import together, would cost too much
 */
export function spend(classified: Classified, names: readonly string[], bytes: number): void {
  const total = (spent.get(classified) ?? 0) + Math.min(bytes, MAX_VALUE_BYTES) * MAX_WORK;
  spent.set(classified, total);
  if (bytes <= MAX_VALUE_BYTES && total <= MAX_IMPORT_BYTES) return;
  throw new UserError(
    `${classified.model.path}: evaluating ${names.slice(0, 3).join(', ')} would compute too much (${bytes > MAX_VALUE_BYTES ? `tensors worth ${bytes} bytes` : 'over all masks and positions'})`,
    'export the model with constant folding on, so that masks and positions are small graphs',
  );
}

/**
 * Refuses what onnxruntime cannot be given: integer division by what may be 0 or −1 takes the process down
 * (−2⁶³ / −1 has no result), and tensors in attributes are read from files by onnxruntime itself.
 * @throws UserError naming the node
 */
export function checkEvaluable(classified: Classified, inside: readonly string[]): void {
  for (const node of nodesInside(classified, inside)) {
    if (node.opType === 'Div' || node.opType === 'Mod') checkDivisor(classified, node);
    for (const [key, attribute] of node.attributes)
      if (
        attribute.kind === 'tensor' &&
        attribute.value.location.kind === 'external' &&
        node.opType !== 'Constant'
      )
        throw new UserError(
          `${nodeText(node)}: attribute ${key} lies in an external file`,
          'export the model with external data for weights only',
        );
  }
}

function checkDivisor({ facts }: Classified, node: OnnxNode): void {
  const divisor = facts.get(node.inputs[1] ?? '');
  if (divisor === undefined || isFloat(divisor.dtype)) return;
  const safe =
    divisor.ints?.every((size) => {
      const value = constantOf(size);
      return value === undefined ? signOfSize(size) === 1 : value > 0 || value < -1;
    }) ??
    (divisor.stored !== undefined &&
      divisor.stored.isPresent() &&
      divisor.stored
        .read()
        .toInts()
        .every((value) => value > 0 || value < -1));
  if (!safe)
    throw new UserError(
      `${nodeText(node)}: divides integers by '${node.inputs[1]}', which may be 0 or -1`,
      'export the model with positive constant divisors',
    );
}
