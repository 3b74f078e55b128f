/** What the structural edits share: a decoded model, its edges, and makers of nodes and constants. */
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import type { Dice } from './dice.js';

/** A decoded model that may be written to, whatever the generated types say. */
export type Model = onnx.IModelProto;
export type Graph = onnx.IGraphProto;
export type Node = onnx.INodeProto;
export type Tensor = onnx.ITensorProto;

/** A 64-bit integer as protobufjs writes it. */
export interface Int64 {
  readonly low: number;
  readonly high: number;
  readonly unsigned: boolean;
}

export const int64 = (value: bigint): Int64 => ({
  low: Number(BigInt.asIntN(32, value)),
  high: Number(BigInt.asIntN(32, value >> 32n)),
  unsigned: false,
});

export const MAX_INT64 = 2n ** 63n - 1n;

/** Integers where arithmetic, allocation and indexing go wrong. */
export const EDGE_INTEGERS: readonly bigint[] = [
  0n,
  1n,
  -1n,
  2n,
  3n,
  -2n,
  7n,
  64n,
  1000n,
  65_536n,
  2n ** 31n - 1n,
  2n ** 31n,
  -(2n ** 31n),
  2n ** 32n,
  2n ** 40n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 62n,
  MAX_INT64,
  -(2n ** 63n),
];

export const edgeInteger = (dice: Dice): Int64 => int64(dice.pick(EDGE_INTEGERS));

/** Numbers as the generated types want them; protobufjs takes Long objects in the same place. */
export const asNumber = (value: Int64): number => value as unknown as number;

export const decode = (bytes: Uint8Array): Model => onnxProto.onnx.ModelProto.decode(bytes);
export const encode = (model: Model): Uint8Array => onnxProto.onnx.ModelProto.encode(model).finish();

export const graphOf = (model: Model): Graph => model.graph!;
export const nodesOf = (model: Model): Node[] => (model.graph!.node ??= []);
export const tensorsOf = (model: Model): Tensor[] => (model.graph!.initializer ??= []);

export function intTensor(name: string, values: readonly bigint[], scalar = false): Tensor {
  return {
    name,
    dims: scalar ? [] : [values.length],
    dataType: 7,
    rawData: new Uint8Array(BigInt64Array.from(values).buffer),
  };
}

export function floatTensor(name: string, dims: readonly number[], value: number): Tensor {
  const count = dims.reduce((product, n) => product * n, 1);
  return {
    name,
    dims: [...dims],
    dataType: 1,
    rawData: new Uint8Array(new Float32Array(count).fill(value).buffer),
  };
}

let names = 0;
/** Names differ within one process only in their number, which nothing depends on. */
export const freshName = (what: string): string => `fuzz_${what}_${names++}`;

/** Starts the numbering of names anew, so that a case does not depend on the cases before it. */
export const restartNames = (): void => void (names = 0);

export interface Edge {
  readonly node: Node;
  readonly at: number;
  readonly operand: number;
  readonly name: string;
}

/** A random operand of a random node. */
export function edge(model: Model, dice: Dice): Edge | undefined {
  const nodes = nodesOf(model);
  for (let tries = 0; tries < 20 && nodes.length > 0; tries++) {
    const at = dice.below(nodes.length);
    const node = nodes[at]!;
    const operand = dice.below(Math.max(1, node.input?.length ?? 0));
    const name = node.input?.[operand];
    if (name !== undefined && name !== '') return { node, at, operand, name };
  }
  return undefined;
}

const ELEMENTWISE = new Set(
  'Add Sub Mul Less LessOrEqual Greater GreaterOrEqual Equal Where Cast And Or Not Max Min Unsqueeze'.split(
    ' ',
  ),
);

/** An operand of the part that computes masks and positions: counted numbers and what is made of them. */
export function indexEdge(model: Model, dice: Dice): Edge | undefined {
  const index = new Set<string>();
  const edges: Edge[] = [];
  nodesOf(model).forEach((node, at) => {
    const inputs = node.input ?? [];
    const passes = ELEMENTWISE.has(node.opType ?? '');
    if (passes)
      inputs.forEach((name, operand) => {
        const isAxes = node.opType === 'Unsqueeze' && operand > 0;
        if (index.has(name) && !isAxes) edges.push({ node, at, operand, name });
      });
    const known = passes && inputs.some((name) => index.has(name));
    if (node.opType === 'Range' || node.opType === 'CumSum' || known)
      for (const name of node.output ?? []) index.add(name);
  });
  return edges.length === 0 ? edge(model, dice) : dice.pick(edges);
}

/** Puts nodes in front of an edge's reader and lets it read `result`. */
export function insert(model: Model, { node, operand }: Edge, nodes: readonly Node[], result: string): void {
  nodesOf(model).splice(nodesOf(model).indexOf(node), 0, ...nodes);
  node.input![operand] = result;
}
