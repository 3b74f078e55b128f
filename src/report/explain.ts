import { readOnnxModel } from '../ir/onnx/decode.js';
import type { OnnxNode } from '../ir/onnx/model.js';
import { topologicalOrder, usersOf, type Graph, type Node } from '../ir/graph.js';
import { isCollective } from '../ir/op.js';
import { opDef } from '../ir/ops/index.js';
import { nameValues, nodeName, printAttrs } from '../ir/text/print.js';
import { printType } from '../ir/type.js';
import { MODEL } from '../package/paths.js';
import type { Package } from '../package/read.js';
import type { ReportProgram } from './data.js';
import { instructionsOf } from './align.js';
import { whyCollective } from './exchange.js';
import { flopsOf } from './flops.js';
import { repeatedNodes } from './repeated.js';
import { readHistory, type PassHistory } from './history.js';
import { phasesOf, sectionsOf } from './layers.js';
import { findName, mentions } from './names.js';
import { sourceOf } from './report.js';

/** What became of one ONNX node. */
export interface Explanation {
  /** Name of the ONNX node. */
  readonly node: string;
  /** As the file has it; absent for names that only derived nodes carry. */
  readonly onnx?: {
    readonly op: string;
    readonly inputs: readonly string[];
    readonly outputs: readonly string[];
  };
  /** `layer 3`, `embedding`; absent when the node is in no program. */
  readonly part?: string;
  readonly history: readonly PassHistory[];
  readonly programs: readonly { readonly name: string; readonly nodes: readonly ExplainedNode[] }[];
  /** Where it stands when no program has nodes of this name: the first nodes behind it that one has. */
  readonly reaches: readonly string[];
  /** What import and recognition said about it. */
  readonly notes: readonly string[];
}

export interface ExplainedNode {
  /** As in the program's text, `%7`; `%79/%0` in the body of a tiled op. */
  readonly name: string;
  readonly op: string;
  /** `recomputed`: a forward node that the backward computes again. */
  readonly phase: 'forward' | 'backward' | 'recomputed';
  readonly types: readonly string[];
  readonly operands: readonly { readonly name: string; readonly type: string }[];
  readonly attrs: string;
  /** Absent for what runs in no instruction of its own: constants. */
  readonly instruction?: { readonly index: number; readonly label: string; readonly file?: string };
  /** Of the whole group, in S and A_…; absent when negligible. */
  readonly flops?: string;
  /** Of a collective: why it stands there. */
  readonly why?: string;
}

/**
 * Explains an ONNX node of a package.
 * @param query its name, the name of a value it gives, or a part that only one name has
 * @throws UserError when several names match, or none; the nearest are suggested
 */
export function explainNode(pkg: Package, query: string): Explanation {
  const { programs } = sourceOf(pkg);
  const model = readOnnxModel(pkg.file(MODEL), { weights: false });
  const histories = readHistory(pkg);
  const found = [...programs].filter(([, { graph }]) => hasNames(graph));
  const names = new Set([
    ...model.nodes.map((node) => node.name),
    ...histories.names,
    ...found.flatMap(([, { graph }]) => namesIn(graph)),
  ]);
  const node = findName(names, query, new Map(model.nodes.flatMap((n) => n.outputs.map((o) => [o, n.name]))));
  const onnx = model.nodes.find((n) => n.name === node);
  const explained = found.map(([name, program]) => ({ name, nodes: nodesOf(program, node) }));
  const part = found.map(([, { graph }]) => partOf(graph, node)).find((title) => title !== undefined);
  const isAbsent = explained.every(({ nodes }) => nodes.length === 0);
  const alive = new Set(found.flatMap(([, { graph }]) => namesIn(graph)));
  return {
    node,
    ...(onnx === undefined ? {} : { onnx: { op: onnx.opType, inputs: onnx.inputs, outputs: onnx.outputs } }),
    ...(part === undefined ? {} : { part }),
    history: histories.of(node),
    programs: explained.filter(({ nodes }) => nodes.length > 0),
    reaches: isAbsent && onnx !== undefined ? firstBehind(model.nodes, onnx, alive) : [],
    notes: pkg.manifest.notes.filter((note) =>
      [node, ...(onnx?.outputs ?? [])].some((name) => mentions(note, name)),
    ),
  };
}

const hasNames = (graph: Graph): boolean => topologicalOrder(graph).some((node) => node.loc !== undefined);

const namesIn = (graph: Graph): string[] =>
  topologicalOrder(graph).flatMap((node) => [
    ...(node.loc === undefined ? [] : [node.loc]),
    ...(node.region === undefined ? [] : namesIn(node.region)),
  ]);

/** Nodes named `loc`, those in bodies of tiled ops too, in the order they run. */
function nodesOf({ graph, program }: ReportProgram, loc: string): ExplainedNode[] {
  const instructions = instructionsOf(graph, program);
  const names = nameValues(graph);
  const users = usersOf(graph);
  const { forward, backward } = phasesOf(graph);
  const isForward = new Set(forward);
  const repeated = repeatedNodes([...forward, ...backward]);
  return [...forward, ...backward].flatMap((node) => {
    const index = instructions.get(node);
    const phase = isForward.has(node) ? 'forward' : repeated.has(node) ? 'recomputed' : 'backward';
    const instruction =
      index === undefined
        ? {}
        : { instruction: { index, label: program.labels[index]!, ...fileOf(program, index) } };
    const own: ExplainedNode = {
      ...describe(node, names),
      phase,
      ...instruction,
      ...whyOf(node, users.get(node)),
    };
    const inner = node.region === undefined ? [] : bodyNodes(node.region, own, loc);
    return [...(node.loc === loc ? [own] : []), ...inner];
  });
}

function bodyNodes(region: Graph, outer: ExplainedNode, loc: string): ExplainedNode[] {
  const names = nameValues(region);
  const { phase, instruction } = outer;
  return topologicalOrder(region)
    .filter((node) => node.op !== 'input' && node.loc === loc)
    .map((node) => {
      const inner = describe(node, names);
      return { ...inner, name: `${outer.name}/${inner.name}`, phase, ...(instruction && { instruction }) };
    });
}

function describe(node: Node, names: ReturnType<typeof nameValues>): Omit<ExplainedNode, 'phase'> {
  const flops = flopsOf(node).key;
  return {
    name: nodeName(node, names),
    op: node.op,
    types: node.results.map((v) => printType(v.type)),
    operands: node.operands.map((v) => ({ name: names.get(v)!, type: printType(v.type) })),
    attrs: printAttrs(node.attrs).trim(),
    ...(flops === '0' ? {} : { flops }),
  };
}

function whyOf(node: Node, users: readonly Node[] = []): { why?: string } {
  return isCollective(opDef(node.op)) || node.op === 'shard' ? { why: whyCollective(node, users) } : {};
}

function fileOf(
  { instructions, segments, kernels }: ReportProgram['program'],
  index: number,
): { file?: string } {
  const instruction = instructions[index]!;
  if (instruction.kind === 'run' || instruction.kind === 'tiled')
    return { file: segments[instruction.segment]!.file };
  if (instruction.kind === 'attention' || instruction.kind === 'attention_vjp')
    return { file: kernels[instruction.kernel]!.file };
  return {};
}

function partOf(graph: Graph, loc: string): string | undefined {
  const section = sectionsOf(graph).find(({ forward }) =>
    forward.some(
      (node) => node.loc === loc || (node.region !== undefined && namesIn(node.region).includes(loc)),
    ),
  );
  if (section === undefined) return undefined;
  return { before: 'embedding', layer: `layer ${section.index}`, after: 'head and loss', whole: 'model' }[
    section.kind
  ];
}

const MAX_REACHED = 8;

/** The nearest nodes downstream that are still there, breadth first. */
function firstBehind(nodes: readonly OnnxNode[], from: OnnxNode, alive: ReadonlySet<string>): string[] {
  const readers = new Map<string, OnnxNode[]>();
  for (const node of nodes)
    for (const input of new Set(node.inputs)) readers.set(input, [...(readers.get(input) ?? []), node]);
  const seen = new Set([from]);
  const reached: string[] = [];
  for (const node of seen) {
    if (reached.length >= MAX_REACHED) break;
    if (alive.has(node.name)) reached.push(node.name);
    else for (const output of node.outputs) for (const next of readers.get(output) ?? []) seen.add(next);
  }
  return reached;
}
