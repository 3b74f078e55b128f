import { emit, isInferred } from './build.js';
import { topologicalOrder, type Graph, type Node } from './graph.js';
import { isCollective, TypeMismatch } from './op.js';
import { isOpName, opDef } from './ops/index.js';
import { placementFault, printType, sameType } from './type.js';

/**
 * The verifier. Rules, each with the phase from which it holds:
 *
 *   1. Every op exists; inputs have unique names; outputs have unique names.
 *   2. Operands are defined before their users (a DAG); a scheduled graph lists every node once.
 *   3. Every node's types are those its op infers from its operands: element types, shapes, placements
 *      and pending sums; those of inputs are ones a mesh can hold.
 *   4. Regions obey the same rules and hold no collectives.
 *   5. `sp` is used only in a mesh that has it, likewise `world`.
 */
export interface Finding {
  readonly rule: number;
  readonly message: string;
  readonly loc: string | undefined;
}

export function findings(graph: Graph): readonly Finding[] {
  const found: Finding[] = [];
  const report: Report = (rule, message, loc) => void found.push({ rule, message, loc });
  for (const [what, names] of [
    ['input', graph.inputs.map((v) => String(v.node.attrs['name']))],
    ['output', graph.outputs.map((o) => o.name)],
  ] as const) {
    const known = new Set<string>();
    const twice = names.find((name) => known.size === known.add(name).size);
    if (twice !== undefined) report(1, `${what} '${twice}' is named twice`);
  }
  const defined = new Set<Node>(graph.inputs.map((v) => v.node));
  const seen = new Set<Node>();
  for (const node of topologicalOrder(graph)) {
    if (seen.has(node)) report(2, `${node.op} stands twice in the schedule`, node.loc);
    seen.add(node);
    for (const operand of node.operands)
      if (!defined.has(operand.node))
        report(2, `${node.op} uses a result of ${operand.node.op} before it is defined`, node.loc);
    if (node.op === 'input' && !defined.has(node))
      report(2, `input '${String(node.attrs['name'])}' is not among the inputs of the graph`, node.loc);
    defined.add(node);
    checkNode(graph, node, report);
  }
  for (const { name, value } of graph.outputs)
    if (!seen.has(value.node)) report(2, `output '${name}' is not scheduled`);
  return found;
}

type Report = (rule: number, message: string, loc?: string) => void;

function checkNode(graph: Graph, node: Node, report: Report): void {
  if (!isOpName(node.op)) return report(1, `there is no op '${node.op}'`, node.loc);
  for (const { type } of node.results)
    for (const axis of [type.pending, ...type.dims.map((d) => d.split?.axis)])
      if (axis !== undefined && !graph.axes.includes(axis))
        report(5, `${printType(type)} uses axis ${axis}, the mesh has {${graph.axes.join(', ')}}`, node.loc);
  if (node.op === 'input') {
    const fault = placementFault(node.results[0]!.type);
    if (fault !== undefined) report(3, `input '${String(node.attrs['name'])}': ${fault}`, node.loc);
    return;
  }
  if (!isInferred(node)) checkTypes(node, report);
  if (node.region === undefined) return;
  for (const finding of findings(node.region))
    report(4, `in the body of ${node.op}: ${finding.message}`, finding.loc ?? node.loc);
  for (const inner of topologicalOrder(node.region))
    if (isOpName(inner.op) && isCollective(opDef(inner.op)))
      report(4, `the body of ${node.op} holds the collective ${inner.op}`, inner.loc);
}

function checkTypes(node: Node, report: Report): void {
  try {
    const inferred = emit(node.op, node.operands, node.attrs, { region: node.region });
    node.results.forEach((value, i) => {
      if (inferred[i] === undefined || !sameType(inferred[i].type, value.type))
        report(
          3,
          `${node.op} has type ${printType(value.type)}, its operands give ${inferred[i] === undefined ? 'nothing' : printType(inferred[i].type)}`,
          node.loc,
        );
    });
  } catch (error) {
    if (!(error instanceof TypeMismatch)) throw error;
    report(3, `${node.op}: ${error.message}`, node.loc);
  }
}

/** Throws an internal error that lists what is wrong; for use after every pass. */
export function verify(graph: Graph): void {
  const found = findings(graph);
  if (found.length === 0) return;
  const lines = found
    .slice(0, 10)
    .map((f) => `  rule ${f.rule}: ${f.message}${f.loc === undefined ? '' : ` (ONNX node ${f.loc})`}`);
  throw new Error(`the graph ${graph.name} is not well formed:\n${lines.join('\n')}`);
}
