import { createHash } from 'node:crypto';
import { invariant } from '../../errors.js';
import {
  inputName,
  inputRole,
  nodesReaching,
  numberAttr,
  numbersAttr,
  type Graph,
  type Node,
  type Value,
} from '../../ir/graph.js';
import type { TileResult } from '../../ir/ops/tiled.js';
import { constantOf } from '../../ir/size.js';
import { printType, type Axis } from '../../ir/type.js';
import type { Instruction, KernelInfo, Program, SegmentInfo, TileModel } from '../../package/program.js';
import { isInstruction } from '../schedule.js';
import { attentionLowering, resultsOf, type AttentionLowering } from './attention.js';
import { interned, type Interned } from './interned.js';
import type { AttentionModel } from './ort/lowered.js';
import { lowerSegment, type Segment } from './ort/segment.js';
import { segmentKey } from './segment-key.js';

/** ONNX models by their path in the package; programs share them by content. */
export type SegmentFiles = Map<string, Uint8Array>;

/** A group of nodes that becomes one instruction. */
interface Group {
  readonly nodes: readonly Node[];
  readonly standalone: boolean;
}

/** Consecutive compute nodes between standalone instructions. Constants go into every segment that reads them. */
function groupsOf(order: readonly Node[]): Group[] {
  const groups: { nodes: Node[]; standalone: boolean }[] = [];
  for (const node of order) {
    if (node.op === 'input' || node.op === 'constant') continue;
    const standalone = isInstruction(node);
    const last = groups.at(-1);
    if (!standalone && last !== undefined && !last.standalone) last.nodes.push(node);
    else groups.push({ nodes: [node], standalone });
  }
  return groups;
}

interface Emitter {
  readonly files: SegmentFiles;
  readonly segments: Interned<SegmentInfo>;
  readonly kernels: Interned<KernelInfo>;
  readonly attention: AttentionLowering;
  /** Segments by `segmentKey`. */
  readonly lowered: Map<string, number>;
  readonly buffer: (value: Value) => number;
}

/** Adds a model to the package's files, under the hash of its bytes. */
function addFile(files: SegmentFiles, bytes: Uint8Array): string {
  const file = `segments/${createHash('sha256').update(bytes).digest('hex').slice(0, 32)}.onnx`;
  files.set(file, bytes);
  return file;
}

function addSegment(emitter: Emitter, segment: Segment, accumulate: ReadonlySet<Value> = new Set()): number {
  const key = segmentKey(segment, accumulate);
  const known = emitter.lowered.get(key);
  if (known !== undefined) return known;
  const lowered = lowerSegment(segment, { accumulate });
  const index = emitter.segments.indexOf({
    file: addFile(emitter.files, lowered.bytes),
    inputs: [...lowered.inputs],
    outputs: [...lowered.outputs],
    sizes: [...lowered.sizes],
    accumulates: lowered.outputs.filter((_, i) => accumulate.has(segment.outputs[i]!)),
    temporaries: lowered.temporaries.map((set) => [...set]),
  });
  emitter.lowered.set(key, index);
  return index;
}

/** Values a group reads from outside, in order of first use, constants excepted. */
function readsOf(group: Group, attention: AttentionLowering): Value[] {
  const inside = new Set(group.nodes);
  const reads = new Set<Value>();
  for (const node of group.nodes) {
    const taken = node.op.startsWith('attention') ? attention.taken(node) : undefined;
    node.operands.forEach((v, i) => {
      if (!inside.has(v.node) && v.node.op !== 'constant' && taken?.[i] !== false) reads.add(v);
    });
  }
  return [...reads];
}

const constantsOf = (group: Group): Node[] => [
  ...new Set(group.nodes.flatMap((n) => n.operands.map((v) => v.node).filter((m) => m.op === 'constant'))),
];

function runInstruction(
  emitter: Emitter,
  group: Group,
  escapes: (v: Value) => boolean,
): Instruction | undefined {
  const inputs = readsOf(group, emitter.attention);
  const outputs = group.nodes.flatMap((n) => n.results.filter(escapes));
  if (outputs.length === 0) return undefined;
  const segment = addSegment(emitter, { inputs, nodes: [...constantsOf(group), ...group.nodes], outputs });
  return { kind: 'run', segment, inputs: inputs.map(emitter.buffer), outputs: outputs.map(emitter.buffer) };
}

const tileModel = (files: SegmentFiles, model: AttentionModel): TileModel => ({
  file: addFile(files, model.bytes),
  inputs: [...model.inputs],
  outputs: [...model.outputs],
  temporaries: model.temporaries.map((set) => [...set]),
});

function attentionInstruction(emitter: Emitter, node: Node, escapes: (v: Value) => boolean): Instruction {
  const { model, mapped } = emitter.attention.models(node);
  const op = node.op as 'attention' | 'attention_vjp';
  const [q, k, v] = node.operands.map((operand) => operand.type);
  const constant = (type: typeof q, at: number): number => constantOf(type!.dims[at]!.size)!;
  const taken = emitter.attention.taken(node);
  const mask = node.attrs['mask'] as KernelInfo['mask'];
  const kernel = emitter.kernels.indexOf({
    ...tileModel(emitter.files, model),
    ...(mapped === undefined ? {} : { mapped: tileModel(emitter.files, mapped) }),
    op,
    mask,
    ...(mask === 'window' ? { window: numberAttr(node.attrs, 'window') } : {}),
    ...(node.attrs['ahead'] === undefined ? {} : { ahead: numberAttr(node.attrs, 'ahead') }),
    heads: constant(q, 1),
    kvHeads: constant(k, 1),
    headSize: constant(q, 2),
    valueSize: constant(v, 2),
    ...(node.attrs['slopes'] === undefined ? {} : { slopes: [...numbersAttr(node.attrs, 'slopes')] }),
  });
  const names = resultsOf(node);
  const results = node.results.map((r, i) => {
    const given = model.outputs.includes(names[i]!);
    invariant(given || !escapes(r), `result ${i} of ${op} is read, but its kernel does not give it`);
    return given && escapes(r) ? emitter.buffer(r) : -1;
  });
  return {
    kind: op,
    kernel,
    operands: node.operands.map((v, i) => (taken[i] ? emitter.buffer(v) : -1)),
    results,
  };
}

function tiledInstruction(
  emitter: Emitter,
  node: Node,
  escapes: (v: Value) => boolean,
  streamed: ReadonlySet<Value>,
): Instruction {
  const region = node.region!;
  const slices = numbersAttr(node.attrs, 'slice');
  invariant(
    slices.every((s) => s <= 0),
    'the ort executor tiles dim 0 only',
  );
  const kinds = node.attrs['results'] as readonly TileResult[];
  const accumulate = new Set(region.outputs.filter((_, i) => kinds[i] === 'sum').map((o) => o.value));
  const inner = (region.order ?? nodesReaching(region.outputs.map((o) => o.value))).filter(
    (n) => n.op !== 'input',
  );
  const segment = addSegment(
    emitter,
    { inputs: region.inputs, nodes: inner, outputs: region.outputs.map((o) => o.value) },
    accumulate,
  );
  return {
    kind: 'tiled',
    segment,
    tile: numberAttr(node.attrs, 'tile'),
    operands: node.operands.map(emitter.buffer),
    sliced: slices.map((s) => s === 0),
    results: node.results.map((value, i) => {
      const stream = streamed.has(value);
      return {
        buffer: stream || !escapes(value) ? -1 : emitter.buffer(value),
        how: stream ? 'stream' : kinds[i]!,
        type: printType(region.outputs[i]!.value.type),
      };
    }),
  };
}

function collectiveInstruction(emitter: Emitter, node: Node): Instruction {
  const operands = node.operands.map(emitter.buffer);
  const results = node.results.map(emitter.buffer);
  if (node.op === 'shard')
    return { kind: 'shard', axis: node.attrs['axis'] as Axis, operand: operands[0]!, result: results[0]! };
  const heads = node.attrs['heads'] as number | undefined;
  const dims =
    node.op === 'all_to_all'
      ? { from: numberAttr(node.attrs, 'from'), to: numberAttr(node.attrs, 'to') }
      : {};
  return {
    kind: 'collective',
    op: node.op as 'all_to_all',
    axis: (node.attrs['axis'] as Axis | undefined) ?? 'sp',
    ...dims,
    ...(heads === undefined ? {} : { heads }),
    operands,
    results,
  };
}

function emitGroup(
  emitter: Emitter,
  group: Group,
  escapes: (v: Value) => boolean,
  streamed: ReadonlySet<Value>,
): Instruction | undefined {
  if (!group.standalone) return runInstruction(emitter, group, escapes);
  const node = group.nodes[0]!;
  if (node.op === 'attention' || node.op === 'attention_vjp')
    return attentionInstruction(emitter, node, escapes);
  if (node.op === 'tiled') return tiledInstruction(emitter, node, escapes, streamed);
  return collectiveInstruction(emitter, node);
}

/** Label of a run that makes a constant. */
export const CONSTANT = 'constant';

/** Constants that an instruction reads, save for segments, which hold theirs: a model writes each into a buffer once. */
function constantInstructions(emitter: Emitter, group: Group, made: Set<Value>): Instruction[] {
  if (!group.standalone) return [];
  const read = group.nodes[0]!.operands.filter(({ node }) => node.op === 'constant');
  return [...new Set(read)].flatMap((value) => {
    if (made.has(value)) return [];
    made.add(value);
    const segment = addSegment(emitter, { inputs: [], nodes: [value.node], outputs: [value] });
    return [{ kind: 'run', segment, inputs: [], outputs: [emitter.buffer(value)] }];
  });
}

/** What an instruction is and where it came from, for errors and traces. */
function labelOf(group: Group): string {
  const places = [...new Set(group.nodes.flatMap((n) => (n.loc === undefined ? [] : [n.loc])))];
  const what = group.standalone ? group.nodes[0]!.op : `run of ${group.nodes.length} ops`;
  const where =
    places.length === 0
      ? ''
      : places.length === 1
        ? ` (${places[0]!})`
        : ` (${places[0]!} … ${places.at(-1)!})`;
  return `${what}${where}`;
}

/** Values that must exist outside their instruction: read by another, or an output of the program. */
function escaping(
  graph: Graph,
  groups: readonly Group[],
  attention: AttentionLowering,
): (v: Value) => boolean {
  const escaped = new Set(graph.outputs.map((o) => o.value));
  for (const group of groups) for (const v of readsOf(group, attention)) escaped.add(v);
  return (v) => escaped.has(v);
}

/** A scheduled graph as the program the runtime reads; its models are added to `files`. */
export function emitProgram(
  graph: Graph,
  files: SegmentFiles,
  streamedOutputs: readonly string[] = [],
): Program {
  invariant(graph.order !== undefined, 'a program is emitted from a scheduled graph');
  const groups = groupsOf(graph.order);
  const attention = attentionLowering(graph);
  const escapes = escaping(graph, groups, attention);
  const streamed = new Set(graph.outputs.filter((o) => streamedOutputs.includes(o.name)).map((o) => o.value));
  const outputs = new Set(graph.outputs.map((o) => o.value));
  const indices = new Map<Value, number>();
  const values: Value[] = [];
  const buffer = (value: Value): number => {
    if (!indices.has(value)) indices.set(value, values.push(value) - 1);
    return indices.get(value)!;
  };
  graph.inputs.forEach(buffer);
  const emitter: Emitter = {
    files,
    segments: interned(),
    kernels: interned(),
    attention,
    lowered: new Map(),
    buffer,
  };
  const instructions: Instruction[] = [];
  const labels: string[] = [];
  const constants = new Set<Value>();
  for (const group of groups) {
    for (const made of constantInstructions(emitter, group, constants)) {
      instructions.push(made);
      labels.push(CONSTANT);
    }
    const instruction = emitGroup(emitter, group, escapes, streamed);
    if (instruction === undefined) continue;
    instructions.push(instruction);
    labels.push(labelOf(group));
  }
  const kind = (value: Value): 'input' | 'output' | 'arena' =>
    value.node.op === 'input' ? 'input' : outputs.has(value) ? 'output' : 'arena';
  const uses = lifetimes(instructions, values.length);
  return {
    version: 1,
    name: graph.name,
    buffers: values.map((value, i) => ({ type: printType(value.type), kind: kind(value), ...uses[i]! })),
    inputs: graph.inputs.map((v) => ({ name: inputName(v), role: inputRole(v), buffer: buffer(v) })),
    outputs: graph.outputs.map(({ name, value }) => ({
      name,
      buffer: streamed.has(value) ? -1 : indices.get(value)!,
    })),
    segments: emitter.segments.list,
    kernels: emitter.kernels.list,
    instructions,
    labels,
  };
}

/** First and last instruction that touches each buffer. */
function lifetimes(instructions: readonly Instruction[], buffers: number): { first: number; last: number }[] {
  const uses = Array.from({ length: buffers }, () => ({ first: 0, last: 0, seen: false }));
  instructions.forEach((instruction, at) => {
    for (const index of [...readBuffers(instruction), ...writtenBuffers(instruction)]) {
      const use = uses[index]!;
      if (!use.seen) use.first = at;
      use.seen = true;
      use.last = at;
    }
  });
  return uses.map(({ first, last }) => ({ first, last }));
}

const readBuffers = (i: Instruction): readonly number[] =>
  (i.kind === 'run' ? i.inputs : i.kind === 'shard' ? [i.operand] : i.operands).filter((b) => b >= 0);

const writtenBuffers = (i: Instruction): readonly number[] =>
  (i.kind === 'run'
    ? i.outputs
    : i.kind === 'shard'
      ? [i.result]
      : i.kind === 'tiled'
        ? i.results.map((r) => r.buffer)
        : i.results
  ).filter((b) => b >= 0);
