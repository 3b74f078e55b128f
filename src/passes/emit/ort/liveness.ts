/** Which tensors are alive together inside a lowered model. */
import { constantOf } from '../../../ir/size.js';
import { printDim, printType, withPending, type Type } from '../../../ir/type.js';
import type { Temporaries } from './lowered.js';

export interface Step {
  readonly op: string;
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  /** Memory the node allocates inside, while it runs. */
  readonly scratch: readonly Type[];
}

/** Their result is their operand's memory. */
const VIEWS: ReadonlySet<string> = new Set(['Reshape', 'Unsqueeze', 'Squeeze', 'Identity']);

/**
 * Ops that write over a dying operand of the same size, as measured with onnxruntime 1.30 on the CPU
 * (test/passes/ort-memory.test.ts); arithmetic, Exp and the like never do.
 */
const IN_PLACE: ReadonlySet<string> = new Set(['Tanh', 'Sigmoid', 'Relu', 'Softmax', 'ScatterElements']);

/** Bytes as a sum of products of local dims: bytes per unit by monomial. */
type Bytes = Map<string, number>;

/** What a tensor takes: so many bytes for each unit of a monomial of its dims that are not constant. */
interface Tensor {
  /** Its local type. */
  readonly text: string;
  readonly monomial: string;
  readonly bytes: number;
}

/**
 * Indices of the nodes in the order in which ONNX Runtime runs them: not that of the file, but depth first
 * from the nodes that nobody uses, of several candidates the last in the file first (Graph::ReverseDFSFrom).
 * Fusions may still swap neighbours.
 */
export function executionOrder(nodes: readonly Pick<Step, 'inputs' | 'outputs'>[]): readonly number[] {
  const producers = new Map(nodes.flatMap((node, i) => node.outputs.map((id) => [id, i] as const)));
  const sources = nodes.map((node) =>
    [...new Set(node.inputs.flatMap((id) => producers.get(id) ?? []))].sort((a, b) => a - b),
  );
  const used = new Set(sources.flat());
  const stack = nodes.flatMap((_, node) => (used.has(node) ? [] : [{ node, leaving: false }]));
  const entered = new Set<number>();
  const order: number[] = [];
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const { node, leaving } = top;
    if (leaving) order.push(node);
    else if (!entered.has(node)) {
      entered.add(node);
      stack.push({ node, leaving: true });
      for (const source of sources[node]!) stack.push({ node: source, leaving: false });
    }
  }
  return order;
}

/**
 * Sets of buffers alive at each step of the execution, pruned to the maximal ones. Values in `outside`
 * (inputs, outputs, literals) and scalars are not counted.
 */
export function temporariesOf(
  nodes: readonly Step[],
  types: readonly (Type | undefined)[],
  outside: ReadonlySet<number>,
): Temporaries {
  const steps = executionOrder(nodes).map((i) => nodes[i]!);
  const tensorOf = tensorReader();
  const tensors = types.map((type) => type && tensorOf(type));
  const last = new Map<number, number>();
  steps.forEach((step, at) => step.inputs.forEach((id) => last.set(id, at)));
  const isCounted = (id: number): boolean => !outside.has(id) && (types[id]?.dims.length ?? 0) > 0;
  const buffers = buffersOf(steps, tensors, isCounted, last);
  const lives = livesOf(steps, buffers);
  const tensorsAt = (at: number): Tensor[] => [
    ...[...lives].flatMap(([id, { first, last }]) => (first <= at && at <= last ? [tensors[id]!] : [])),
    ...steps[at]!.scratch.map(tensorOf),
  ];
  const starting = groupBy(lives, ({ first }) => first);
  const ending = groupBy(lives, ({ last }) => last);
  const alive: Bytes = new Map();
  const peaks: Peak[] = [];
  steps.forEach((step, at) => {
    for (const id of starting.get(at) ?? []) addBytes(alive, tensors[id]!, 1);
    const bytes = new Map(alive);
    for (const type of step.scratch) addBytes(bytes, tensorOf(type), 1);
    addPeak(peaks, { at, bytes });
    for (const id of ending.get(at) ?? []) addBytes(alive, tensors[id]!, -1);
  });
  return peaks.map(({ at }) =>
    tensorsAt(at)
      .map(({ text }) => text)
      .sort(),
  );
}

interface Life {
  /** Step that makes the buffer. */
  readonly first: number;
  /** Last step that touches it. */
  last: number;
}

function livesOf(
  steps: readonly Step[],
  buffers: ReadonlyMap<number, number>,
): ReadonlyMap<number, Readonly<Life>> {
  const lives = new Map<number, Life>();
  steps.forEach((step, at) => {
    for (const id of [...step.outputs, ...step.inputs]) {
      const buffer = buffers.get(id);
      if (buffer === undefined) continue;
      const life = lives.get(buffer);
      if (life === undefined) lives.set(buffer, { first: at, last: at });
      else life.last = at;
    }
  });
  return lives;
}

function groupBy(
  lives: ReadonlyMap<number, Readonly<Life>>,
  of: (life: Readonly<Life>) => number,
): ReadonlyMap<number, readonly number[]> {
  const groups = new Map<number, number[]>();
  for (const [id, life] of lives) {
    const group = groups.get(of(life));
    if (group === undefined) groups.set(of(life), [id]);
    else group.push(id);
  }
  return groups;
}

/** For every counted value the value whose memory it is: its own, or that of an operand. */
function buffersOf(
  steps: readonly Step[],
  tensors: readonly (Tensor | undefined)[],
  isCounted: (id: number) => boolean,
  last: ReadonlyMap<number, number>,
): ReadonlyMap<number, number> {
  const buffers = new Map<number, number>();
  // The last step that reads any of the values in a buffer.
  const lastRead = new Map<number, number>();
  steps.forEach((step, at) => {
    const isDying = (id: number, like: Tensor): boolean => {
      const buffer = buffers.get(id);
      return buffer !== undefined && tensors[id]!.text === like.text && lastRead.get(buffer)! <= at;
    };
    for (const id of step.outputs.filter(isCounted)) {
      const source = VIEWS.has(step.op)
        ? step.inputs[0]
        : IN_PLACE.has(step.op)
          ? step.inputs.slice(0, 1).find((operand) => isDying(operand, tensors[id]!))
          : undefined;
      const shared = source === undefined ? id : buffers.get(source);
      // A view of an input or a literal takes no memory.
      if (shared === undefined) continue;
      buffers.set(id, shared);
      lastRead.set(shared, Math.max(lastRead.get(shared) ?? -1, last.get(id) ?? -1));
    }
  });
  return buffers;
}

/** Reads each type once: a model has few, and most are asked for often. */
function tensorReader(): (type: Type) => Tensor {
  const known = new Map<string, Tensor>();
  return (type) => {
    const text = printType(withPending(type, undefined));
    const tensor = known.get(text) ?? tensorOf(type, text);
    known.set(text, tensor);
    return tensor;
  };
}

function tensorOf(type: Type, text: string): Tensor {
  let bytes = type.dtype === 'bool' ? 1 : 4;
  const factors: string[] = [];
  for (const d of type.dims) {
    const constant = d.split === undefined ? constantOf(d.size) : undefined;
    if (constant === undefined) factors.push(printDim(d));
    else bytes *= constant;
  }
  return { text, monomial: factors.sort().join('·'), bytes };
}

function addBytes(total: Bytes, { monomial, bytes }: Tensor, sign: 1 | -1): void {
  const sum = (total.get(monomial) ?? 0) + sign * bytes;
  if (sum === 0) total.delete(monomial);
  else total.set(monomial, sum);
}

function dominated(a: Bytes, b: Bytes): boolean {
  for (const [key, bytes] of a) if (bytes > (b.get(key) ?? 0)) return false;
  return true;
}

/** A step that no other holds more than. */
interface Peak {
  readonly at: number;
  readonly bytes: Bytes;
}

function addPeak(peaks: Peak[], peak: Peak): void {
  if (peak.bytes.size === 0 || peaks.some((other) => dominated(peak.bytes, other.bytes))) return;
  for (let i = peaks.length - 1; i >= 0; i--) if (dominated(peaks[i]!.bytes, peak.bytes)) peaks.splice(i, 1);
  peaks.push(peak);
}
