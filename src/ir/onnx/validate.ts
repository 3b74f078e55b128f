/**
 * Structural rules of a model, beyond what each tensor checks of itself:
 * - a name is given to one value only, within a graph and against the graphs around it
 * - every operand is defined by a graph input, an initializer or an earlier node (nodes are in execution
 *   order, so there are no cycles), or belongs to an enclosing graph
 * - every graph output is defined, and the model has at least one
 * - no local function stands in for an operation of ai.onnx
 * - an opset is declared; every node has an op type
 */
import { UserError } from '../../errors.js';
import type { OnnxGraph, OnnxModel, OnnxNode } from './model.js';

/** @throws UserError naming the first node or value that breaks a rule */
export function validateModel(model: OnnxModel): void {
  if (model.opsets.size === 0) fail(model, 'declares no opset', 'export the model again');
  for (const [domain, version] of model.opsets) {
    if (!Number.isSafeInteger(version) || version < 1) {
      fail(model, `declares opset ${version} of domain '${domain}'`, 'export the model again');
    }
  }
  if (model.outputs.length === 0) fail(model, 'has no outputs', 'export the model again');
  checkGraph(model, model, () => false);
  for (const item of model.functions) {
    if (item.domain === '')
      fail(model, `function '${item.name}' redefines an operation of ai.onnx`, 'export the model again');
    const defined = new Set(item.inputs);
    checkNodes(model, item.nodes, defined, () => false);
    checkNames(model, defined);
    for (const output of item.outputs) {
      if (!defined.has(output)) fail(model, `function '${item.name}' does not define its output '${output}'`);
    }
  }
}

/** Says whether a name is defined around a graph. */
type Scope = (name: string) => boolean;

function checkGraph(model: OnnxModel, graph: OnnxGraph, outer: Scope): void {
  const defined = new Set<string>(graph.initializers.keys());
  for (const { name } of graph.inputs) {
    if (name === '') fail(model, 'has a graph input without a name');
    if (defined.has(name)) fail(model, `defines the graph input '${name}' twice`);
    defined.add(name);
  }
  checkNodes(model, graph.nodes, defined, outer);
  checkNames(model, defined);
  for (const { name } of graph.outputs) {
    if (!defined.has(name) && !outer(name)) {
      fail(model, `declares the output '${name}', which nothing produces`);
    }
  }
}

/** ONNX Runtime takes names to end at a NUL. */
function checkNames(model: OnnxModel, names: ReadonlySet<string>): void {
  for (const name of names)
    if (name.includes('\0'))
      fail(
        model,
        `the name ${JSON.stringify(name)} holds a NUL character`,
        'the file is damaged: export it again',
      );
}

/** Adds the nodes' results to `defined`. */
function checkNodes(model: OnnxModel, nodes: readonly OnnxNode[], defined: Set<string>, outer: Scope): void {
  for (const node of nodes) {
    if (node.opType === '') fail(model, `node ${node.name} has no op type`);
    for (const input of node.inputs) {
      if (input !== '' && !defined.has(input) && !outer(input)) undefinedOperand(model, nodes, node, input);
    }
    checkBodies(model, node, defined, outer);
    for (const output of node.outputs) {
      if (output === '') continue;
      if (defined.has(output)) fail(model, `node ${node.name} defines '${output}', which is already defined`);
      defined.add(output);
    }
  }
}

function checkBodies(model: OnnxModel, node: OnnxNode, defined: ReadonlySet<string>, outer: Scope): void {
  for (const attribute of node.attributes.values()) {
    if (attribute.kind !== 'graph' && attribute.kind !== 'graphs') continue;
    const bodies = attribute.kind === 'graph' ? [attribute.value] : attribute.value;
    const around: Scope = (name) => defined.has(name) || outer(name);
    for (const body of bodies) checkGraph(model, body, around);
  }
}

function undefinedOperand(
  model: OnnxModel,
  nodes: readonly OnnxNode[],
  node: OnnxNode,
  input: string,
): never {
  const producer = nodes.find((other) => other.outputs.includes(input));
  if (producer === undefined) {
    fail(model, `node ${node.name} (${node.opType}) reads '${input}', which nothing produces`);
  }
  fail(
    model,
    `node ${node.name} (${node.opType}) reads '${input}' before node ${producer.name} produces it: ` +
      'the nodes are out of order, or form a cycle',
  );
}

function fail(model: OnnxModel, what: string, hint = 'the file is damaged: export the model again'): never {
  throw new UserError(`${model.path}: ${what}`, hint);
}
