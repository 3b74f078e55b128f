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
type Bytes = ReadonlyMap<string, number>;

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
      stack.push(
        { node, leaving: true },
        ...sources[node]!.map((source) => ({ node: source, leaving: false })),
      );
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
  const end = new Map<number, number>();
  steps.forEach((step, at) => {
    for (const id of [...step.inputs, ...step.outputs]) {
      const buffer = buffers.get(id);
      if (buffer !== undefined) end.set(buffer, at);
    }
  });
  const alive = new Set<number>();
  const sets: Tensor[][] = [];
  steps.forEach((step, at) => {
    for (const id of step.outputs) {
      const buffer = buffers.get(id);
      if (buffer !== undefined) alive.add(buffer);
    }
    sets.push([...[...alive].map((id) => tensors[id]!), ...step.scratch.map(tensorOf)]);
    for (const buffer of alive) if (end.get(buffer)! <= at) alive.delete(buffer);
  });
  return maximal(sets);
}

/** For every counted value the value whose memory it is: its own, or that of an operand. */
function buffersOf(
  steps: readonly Step[],
  tensors: readonly (Tensor | undefined)[],
  isCounted: (id: number) => boolean,
  last: ReadonlyMap<number, number>,
): ReadonlyMap<number, number> {
  const buffers = new Map<number, number>();
  const holders = new Map<number, number[]>();
  steps.forEach((step, at) => {
    const isDying = (id: number, like: Tensor): boolean => {
      const buffer = buffers.get(id);
      return (
        buffer !== undefined &&
        tensors[id]!.text === like.text &&
        holders.get(buffer)!.every((holder) => (last.get(holder) ?? -1) <= at)
      );
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
      holders.set(shared, [...(holders.get(shared) ?? []), id]);
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

function bytesOf(tensors: readonly Tensor[]): Bytes {
  const total = new Map<string, number>();
  for (const { monomial, bytes } of tensors) total.set(monomial, (total.get(monomial) ?? 0) + bytes);
  return total;
}

function dominated(a: Bytes, b: Bytes): boolean {
  for (const [key, bytes] of a) if (bytes > (b.get(key) ?? 0)) return false;
  return true;
}

function maximal(sets: readonly (readonly Tensor[])[]): Temporaries {
  const kept: { bytes: Bytes; texts: readonly string[] }[] = [];
  for (const set of sets) {
    const bytes = bytesOf(set);
    if (set.length === 0 || kept.some((other) => dominated(bytes, other.bytes))) continue;
    for (let i = kept.length - 1; i >= 0; i--) if (dominated(kept[i]!.bytes, bytes)) kept.splice(i, 1);
    kept.push({ bytes, texts: set.map(({ text }) => text).sort() });
  }
  return kept.map((set) => set.texts);
}
