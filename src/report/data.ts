import { topologicalOrder, usersOf, type Graph, type Node } from '../ir/graph.js';
import { isCollective } from '../ir/op.js';
import { opDef } from '../ir/ops/index.js';
import { nameValues, nodeName, printAttrs } from '../ir/text/print.js';
import { printType } from '../ir/type.js';
import type { Manifest, ParameterEntry } from '../package/manifest.js';
import type { Instruction, Program } from '../package/program.js';
import { instructionsOf } from './align.js';
import { whyCollective } from './exchange.js';
import { flopsOf } from './flops.js';
import { repeatedNodes } from './repeated.js';
import { sectionsOf, type Section } from './layers.js';
import { lossText } from './loss.js';

/** A program, and the graph of its text. */
export interface ReportProgram {
  readonly program: Program;
  readonly graph: Graph;
}

/** What the page tells of a manifest. */
export type ReportManifest = Pick<
  Manifest,
  | 'name'
  | 'source'
  | 'ithaca'
  | 'vocabulary'
  | 'loss'
  | 'maxDegree'
  | 'maxDocument'
  | 'recognized'
  | 'notes'
  | 'passes'
  | 'optimizer'
  | 'parameters'
>;

export interface ReportSource {
  readonly manifest: ReportManifest;
  readonly programs: ReadonlyMap<string, ReportProgram>;
  /** `flops` of each program, as polynomials in S and A_…. */
  readonly flops: ReadonlyMap<string, string>;
}

/**
 * What the page shows, as plain data. Texts that repeat are written once, in `strings`, and stand elsewhere as
 * their index. `client/page.js` reads it.
 */
export interface ReportData {
  readonly strings: readonly string[];
  readonly model: object;
  /** Of the program that `sections` are of. */
  readonly program: string;
  readonly sections: readonly SectionData[];
  readonly memory: readonly MemoryData[];
  readonly segments: readonly SegmentData[];
}

export interface SectionData {
  readonly title: string;
  /** What the torch names of its parameters begin with. */
  readonly scope: string;
  readonly kind: Section['kind'];
  /** Sections with the same letter have the same ops, types and attributes. */
  readonly shape: number;
  readonly elements: number;
  readonly forward: readonly NodeData[];
  readonly backward: readonly NodeData[];
}

export interface NodeData {
  /** Name in the program's text, `%7`. */
  readonly n: string;
  readonly op: number;
  readonly loc: number;
  /** Types of the results. */
  readonly t: readonly number[];
  /** Names of the operands. */
  readonly a: readonly string[];
  readonly attrs?: number;
  readonly flops?: number;
  /** Instruction; −1 for a constant. */
  readonly i: number;
  /** A forward node that the backward computes again. */
  readonly again?: true;
  /** Of a collective: why it is there, and the types of what travels. */
  readonly why?: number;
  readonly from?: readonly number[];
  /** Nodes in the body of a tiled op. */
  readonly body?: readonly NodeData[];
}

export interface MemoryData {
  readonly name: string;
  readonly labels: readonly number[];
  readonly kinds: readonly number[];
  /** Instruction of the loss; instructions after it are backward. */
  readonly loss: number;
  readonly arena: BufferData;
  /** Types of inputs and outputs: there before and after a run. */
  readonly persistent: readonly number[];
  readonly flops: string;
}

export interface BufferData {
  readonly instructions: number;
  readonly type: readonly number[];
  readonly first: readonly number[];
  readonly last: readonly number[];
}

export interface SegmentData {
  readonly file: string;
  readonly kind: string;
  readonly program: string;
  /** Instructions that call it. */
  readonly calls: readonly number[];
}

/** Longest attributes, names and labels that are shown. */
const MAX_TEXT = 240;

export function reportData(source: ReportSource): ReportData {
  const strings = new Strings();
  const main = ['train', 'eval'].find((name) => source.programs.has(name));
  const found = main === undefined ? undefined : source.programs.get(main);
  return {
    model: modelOf(source.manifest),
    program: main ?? '',
    sections: found === undefined ? [] : sectionData(found, source.manifest, strings),
    memory: [...source.programs].map(([name, { program }]) =>
      memoryOf(name, program, source.flops.get(name) ?? '0', strings),
    ),
    segments: [...source.programs].flatMap(([name, { program }]) => segmentsOf(name, program)),
    strings: strings.all,
  };
}

class Strings {
  readonly all: string[] = [];
  readonly #index = new Map<string, number>();

  index(text: string): number {
    const known = this.#index.get(text);
    if (known !== undefined) return known;
    this.#index.set(text, this.all.length);
    return this.all.push(text) - 1;
  }
}

const elementsOf = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

/** Layer 2 before layer 10. */
const naturally = new Intl.Collator('en', { numeric: true });
const byTorchName = (a: ParameterEntry, b: ParameterEntry): number =>
  naturally.compare(a.torchName ?? a.name, b.torchName ?? b.name);

function modelOf(manifest: ReportManifest): object {
  const { name, source, ithaca, vocabulary, maxDegree, maxDocument, recognized, notes, optimizer } = manifest;
  return {
    name,
    source,
    ithaca,
    vocabulary,
    loss: { kind: manifest.loss.kind, detail: lossText(manifest.loss).slice(manifest.loss.kind.length + 2) },
    maxDegree,
    maxDocument,
    // Pairs, because an object with a key such as __proto__ would lose it.
    recognized: Object.entries(recognized),
    notes,
    optimizer: Object.entries(optimizer),
    passes: manifest.passes.map((pass) => pass.name),
    parameters: manifest.parameters.toSorted(byTorchName).map((p) => ({
      name: p.name,
      torch: p.torchName ?? '',
      transposed: p.torchLayout === 'transposed',
      shape: p.shape,
      trained: p.trainable,
      reason: p.reason,
      tied: p.tiedTo?.name ?? '',
      weight: p.weight.kind,
    })),
  };
}

function sectionData(
  { graph, program }: ReportProgram,
  manifest: ReportManifest,
  strings: Strings,
): SectionData[] {
  const describe = describer(graph, program, strings);
  const torch = new Map(manifest.parameters.map((p) => [p.name, p]));
  const shapes = new Map<string, number>();
  return sectionsOf(graph).map((section) => {
    const read = parametersOf(section.forward);
    const entries = read.flatMap((name) => torch.get(name) ?? []);
    const key = section.forward.map(signatureOf).join('\n');
    const shape = shapes.get(key) ?? shapes.size;
    shapes.set(key, shape);
    return {
      title: titleOf(section),
      scope: commonScope(entries.flatMap((p) => p.torchName ?? [])),
      kind: section.kind,
      shape,
      elements: entries.reduce((sum, p) => sum + elementsOf(p.shape), 0),
      forward: section.forward.map(describe),
      backward: section.backward.map(describe),
    };
  });
}

function titleOf({ kind, index, forward }: Section): string {
  if (kind === 'layer') return `layer ${index}`;
  if (kind === 'whole') return 'model';
  if (kind === 'before') return 'embedding';
  return forward.some((node) => node.op === 'tiled' || node.op === 'cross_entropy')
    ? 'head and loss'
    : 'head';
}

const signatureOf = (node: Node): string =>
  [
    node.op,
    printAttrs(node.attrs),
    ...node.operands.map((v) => printType(v.type)),
    ...node.results.map((v) => printType(v.type)),
  ].join(' ');

function parametersOf(nodes: readonly Node[]): string[] {
  const names = new Set<string>();
  for (const { operands } of nodes)
    for (const { node } of operands)
      if (node.op === 'input' && node.attrs['role'] === 'parameter') names.add(String(node.attrs['name']));
  return [...names];
}

/** `model.layers.3` of `model.layers.3.mlp.up_proj.weight` and its like. */
function commonScope(names: readonly string[]): string {
  const split = names.map((name) => name.split('.').slice(0, -1));
  const [first = []] = split;
  const length = split.reduce((n, other) => {
    const differs = first.findIndex((part, i) => i >= n || other[i] !== part);
    return differs < 0 ? n : Math.min(n, differs);
  }, first.length);
  return first.slice(0, length).join('.');
}

function describer(graph: Graph, program: Program, strings: Strings): (node: Node) => NodeData {
  const instructions = instructionsOf(graph, program);
  const users = usersOf(graph);
  const names = nameValues(graph);
  const repeated = repeatedNodes(topologicalOrder(graph));
  return (node) => ({
    ...describeNode(node, names, strings),
    i: instructions.get(node) ?? -1,
    ...(repeated.has(node) && node.op !== 'constant' ? { again: true as const } : {}),
    ...(isCollective(opDef(node.op)) || node.op === 'shard'
      ? {
          why: strings.index(whyCollective(node, users.get(node) ?? [])),
          from: node.operands.map((v) => strings.index(printType(v.type))),
        }
      : {}),
    ...(node.region === undefined ? {} : { body: bodyOf(node.region, strings) }),
  });
}

function bodyOf(region: Graph, strings: Strings): NodeData[] {
  const names = nameValues(region);
  return topologicalOrder(region)
    .filter((node) => node.op !== 'input')
    .map((node) => ({ ...describeNode(node, names, strings), i: -1 }));
}

function describeNode(
  node: Node,
  names: ReturnType<typeof nameValues>,
  strings: Strings,
): Omit<NodeData, 'i'> {
  const attrs = printAttrs(node.attrs).trim();
  const flops = flopsOf(node).key;
  return {
    n: nodeName(node, names),
    op: strings.index(node.op),
    loc: strings.index(shorten(node.loc ?? '')),
    t: node.results.map((v) => strings.index(printType(v.type))),
    a: node.operands.map((v) => shorten(names.get(v)!)),
    ...(attrs === '' ? {} : { attrs: strings.index(shorten(attrs)) }),
    ...(flops === '0' ? {} : { flops: strings.index(flops) }),
  };
}

const shorten = (text: string): string => (text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text);

function memoryOf(name: string, program: Program, flops: string, strings: Strings): MemoryData {
  const { buffers, instructions, labels } = program;
  const arena = buffers.filter(({ kind }) => kind === 'arena');
  const loss = program.outputs.find((output) => output.name === 'loss_sum');
  return {
    name,
    labels: labels.map((label) => strings.index(shorten(label))),
    kinds: instructions.map((i) => strings.index(i.kind === 'collective' ? i.op : i.kind)),
    loss: loss === undefined || loss.buffer < 0 ? instructions.length : buffers[loss.buffer]!.first,
    arena: {
      instructions: instructions.length,
      type: arena.map(({ type }) => strings.index(type)),
      first: arena.map(({ first }) => first),
      last: arena.map(({ last }) => last),
    },
    persistent: buffers.flatMap(({ kind, type }) => (kind === 'arena' ? [] : [strings.index(type)])),
    flops,
  };
}

function segmentsOf(name: string, { instructions, segments, kernels }: Program): SegmentData[] {
  const called = (matches: (instruction: Instruction) => boolean): number[] =>
    instructions.flatMap((instruction, i) => (matches(instruction) ? [i] : []));
  return [
    ...segments.map(({ file }, index) => {
      const calls = called((i) => (i.kind === 'run' || i.kind === 'tiled') && i.segment === index);
      return { file, kind: instructions[calls[0] ?? -1]?.kind ?? 'run', program: name, calls };
    }),
    ...kernels.map(({ file, op }, index) => {
      const calls = called(
        (i) => (i.kind === 'attention' || i.kind === 'attention_vjp') && i.kernel === index,
      );
      return { file, kind: op, program: name, calls };
    }),
  ];
}
