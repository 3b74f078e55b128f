import { invariant } from '../errors.js';
import type { Size } from './size.js';
import type { Axis, Type } from './type.js';

/** Attribute values: plain data, printed and parsed. Constant sizes are numbers, never constant `Size`s. */
export type Attr = number | string | boolean | Size | readonly (number | Size)[] | readonly string[];

export type Attrs = Readonly<Record<string, Attr | undefined>>;

/** One result of a node. */
export interface Value {
  readonly node: Node;
  readonly index: number;
  readonly type: Type;
}

/** A frozen operation. A graph is the set of nodes its outputs reach; there are no use lists to keep in step. */
export interface Node {
  readonly op: string;
  readonly operands: readonly Value[];
  readonly attrs: Attrs;
  readonly results: readonly Value[];
  /** Name of the ONNX node this came from; derived nodes keep the name of what they were derived from. */
  readonly loc: string | undefined;
  /** Body of a `tiled` op. */
  readonly region: Graph | undefined;
}

export interface NamedValue {
  readonly name: string;
  readonly value: Value;
}

/** What a graph input is, so that the runtime knows what to bind. */
export type InputRole = 'data' | 'parameter' | 'gradient' | 'state' | 'scalar';

export interface Graph {
  readonly name: string;
  readonly axes: readonly Axis[];
  /** `input` nodes, in order, whether or not the outputs reach them. */
  readonly inputs: readonly Value[];
  readonly outputs: readonly NamedValue[];
  /** Total order of the nodes, once `schedule` has fixed it. */
  readonly order?: readonly Node[];
}

export function makeNode(fields: {
  op: string;
  operands: readonly Value[];
  attrs: Attrs;
  types: readonly Type[];
  loc?: string | undefined;
  region?: Graph | undefined;
}): Node {
  const results: Value[] = [];
  const node: Node = Object.freeze({
    op: fields.op,
    operands: Object.freeze([...fields.operands]),
    attrs: Object.freeze({ ...fields.attrs }),
    results,
    loc: fields.loc,
    region: fields.region,
  });
  fields.types.forEach((type, index) => results.push(Object.freeze({ node, index, type })));
  Object.freeze(results);
  return node;
}

/** A graph input. `name` is unique in its graph; for parameters it is the ONNX initialiser's. */
export const makeInput = (
  name: string,
  role: InputRole,
  type: Type,
  attrs: Attrs = {},
  loc?: string,
): Value =>
  makeNode({ op: 'input', operands: [], attrs: { name, role, ...attrs }, types: [type], loc }).results[0]!;

export const inputName = (value: Value): string => {
  invariant(value.node.op === 'input', `${value.node.op} is not an input`);
  return value.node.attrs['name'] as string;
};

export const inputRole = (value: Value): InputRole => value.node.attrs['role'] as InputRole;

export const only = (node: Node): Value => {
  invariant(node.results.length === 1, `${node.op} has ${node.results.length} results, not one`);
  return node.results[0]!;
};

/** All nodes the outputs reach and all inputs, operands first. The scheduled order when there is one. */
export function topologicalOrder(graph: Graph): readonly Node[] {
  return graph.order ?? nodesReaching([...graph.inputs, ...graph.outputs.map((o) => o.value)]);
}

/**
 * Depth first, operands before their users; iterative, because real graphs are thousands of nodes deep.
 * @param operandsOf what a node comes after, if more than its operands
 */
export function nodesReaching(
  roots: readonly Value[],
  operandsOf = (node: Node): readonly Value[] => node.operands,
): readonly Node[] {
  const order: Node[] = [];
  const entered = new Set<Node>();
  const stack: { node: Node; operands: readonly Value[]; next: number }[] = [];
  const enter = (node: Node): void => {
    if (entered.has(node)) return;
    entered.add(node);
    stack.push({ node, operands: operandsOf(node), next: 0 });
  };
  for (const root of roots) {
    enter(root.node);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const operand = top.operands[top.next++];
      if (operand === undefined) {
        order.push(top.node);
        stack.pop();
      } else enter(operand.node);
    }
  }
  return order;
}

/** Nodes that use each node's results, in topological order; computed when a pass needs it. */
export function usersOf(graph: Graph): ReadonlyMap<Node, readonly Node[]> {
  const users = new Map<Node, Node[]>();
  for (const node of topologicalOrder(graph)) {
    users.set(node, []);
    for (const producer of new Set(node.operands.map((v) => v.node))) users.get(producer)!.push(node);
  }
  return users;
}

export type Replacement = readonly Value[] | undefined;

/**
 * Rebuilds a graph bottom-up. `visit` sees each node and its already rewritten operands and returns the
 * replacement for its results, or undefined to keep the node (rebuilt by `rebuild` if an operand changed).
 * The schedule is dropped.
 */
export function rewriteGraph(
  graph: Graph,
  visit: (node: Node, operands: readonly Value[]) => Replacement,
  rebuild: (node: Node, operands: readonly Value[]) => readonly Value[],
): Graph {
  const replaced = new Map<Node, readonly Value[]>();
  const current = (value: Value): Value => replaced.get(value.node)![value.index]!;
  for (const node of topologicalOrder(graph)) {
    const operands = node.operands.map(current);
    const unchanged = operands.every((v, i) => v === node.operands[i]);
    const results = visit(node, operands) ?? (unchanged ? node.results : rebuild(node, operands));
    invariant(results.length === node.results.length, `rewriting ${node.op} changed its number of results`);
    replaced.set(node, results);
  }
  return {
    name: graph.name,
    axes: graph.axes,
    inputs: graph.inputs.map(current),
    outputs: graph.outputs.map(({ name, value }) => ({ name, value: current(value) })),
  };
}

/** The node's attribute as a number; an internal error when it is missing. */
export function numberAttr(attrs: Attrs, name: string): number {
  const value = attrs[name];
  invariant(typeof value === 'number', `attribute ${name} is not a number`);
  return value;
}

export function numbersAttr(attrs: Attrs, name: string): readonly number[] {
  const value = attrs[name];
  invariant(
    Array.isArray(value) && value.every((v) => typeof v === 'number'),
    `attribute ${name} is not a list of numbers`,
  );
  return value as readonly number[];
}
