import { invariant, unreachable } from '../../errors.js';
import type { RankBinding } from '../../ir/placement.js';
import type { Instruction, Program } from '../../package/program.js';
import { layoutArena, type Layout } from '../memory/arena.js';
import { bindProgram, parsedBuffers, type BoundBuffers } from '../memory/bind.js';
import { checkLayout, describeFinding } from '../memory/check.js';
import { attentionStep } from './attention.js';
import { collectiveStep, shardStep } from './exchange.js';
import type { RunContext } from './host.js';
import { elementsAt, type Elements } from './onnx.js';
import { runStep, tiledStep } from './segment.js';
import { makeViews, type Binding, type OutputMemory, type Views } from './views.js';

export type Step = (context: RunContext) => void;

/** A program with sizes and memory: running it makes no tensors and lays out nothing. */
export interface BoundProgram {
  readonly program: Program;
  readonly steps: readonly Step[];
  /** Data inputs by name: to be filled before each run. */
  readonly data: ReadonlyMap<string, Int32Array | Float32Array>;
  readonly arenaBytes: number;
}

const checked = new WeakSet<Layout>();

/** Sizes of a program on a rank, and a layout that was checked. */
export function planMemory(program: Program, rank: RankBinding): { bound: BoundBuffers; layout: Layout } {
  const bound = bindProgram(program, rank);
  const layout = layoutArena(bound);
  if (!checked.has(layout)) {
    const findings = checkLayout(program, bound, layout);
    invariant(
      findings.length === 0,
      `the arena of program ${program.name} is wrong: ${findings[0] === undefined ? '' : describeFinding(findings[0], program)}`,
    );
    checked.add(layout);
  }
  return { bound, layout };
}

/** @param scratch memory of at least `bytes`, that nobody else uses during an instruction */
export function bindSteps(
  bound: BoundBuffers,
  layout: Layout,
  arena: ArrayBuffer,
  binding: Binding,
  scratch: (bytes: number) => ArrayBuffer,
): BoundProgram {
  const { program } = bound;
  const data = dataMemory(bound);
  const outputs = outputMemory(program, binding);
  const added = new Map<number, Elements>();
  const inputNames = new Map(program.inputs.map(({ buffer, name }) => [buffer, name]));
  const views = makeViews(bound, layout, arena, (buffer) => {
    const name = inputNames.get(buffer);
    if (name !== undefined) return data.get(name) ?? binding.input(name);
    return added.get(buffer) ?? outputs.get(buffer)!.array;
  });
  const streams = program.outputs.filter(({ buffer }) => buffer < 0).map(({ name }) => name);
  const streamed = program.instructions.flatMap((i) => (i.kind === 'tiled' ? i.results : []));
  invariant(
    streamed.filter(({ how }) => how === 'stream').length === streams.length,
    `program ${program.name} streams other results than its outputs`,
  );
  const steps = program.instructions.map((instruction, at): Step => {
    const sums = addedBy(instruction, at, program, outputs);
    placeSums(sums, bound, added, scratch);
    const step = stepOf(
      instruction,
      program,
      views,
      (b) => outputs.get(b)?.add === true && !added.has(b),
      streams,
    );
    return sums.length === 0 ? step : thenAdd(step, sums, views, outputs);
  });
  checkAliases(program, views);
  return { program, steps, data, arenaBytes: layout.bytes };
}

function stepOf(
  instruction: Instruction,
  program: Program,
  views: Views,
  keeps: (buffer: number) => boolean,
  streams: readonly string[],
): Step {
  switch (instruction.kind) {
    case 'run':
      return runStep(instruction, program.segments[instruction.segment]!, views);
    case 'tiled':
      return tiledStep(instruction, program.segments[instruction.segment]!, views, keeps, streams);
    case 'attention':
    case 'attention_vjp':
      return attentionStep(instruction, program.kernels[instruction.kernel]!, views);
    case 'collective':
      return collectiveStep(instruction, views);
    case 'shard':
      return shardStep(instruction, views);
    default:
      return unreachable(instruction);
  }
}

function dataMemory(bound: BoundBuffers): Map<string, Int32Array | Float32Array> {
  const { types, typeOf } = parsedBuffers(bound.program);
  const found = new Map<string, Int32Array | Float32Array>();
  for (const { name, role, buffer } of bound.program.inputs) {
    if (role !== 'data') continue;
    const { dtype } = types[typeOf[buffer]!]!;
    invariant(dtype !== 'bool', `data input ${name} is bool`);
    const elements = bound.elements[buffer]!;
    found.set(name, dtype === 'i32' ? new Int32Array(elements) : new Float32Array(elements));
  }
  return found;
}

/** Memory of `output` buffers. Two names of one buffer are one value: the first one's memory holds it. */
function outputMemory(program: Program, binding: Binding): Map<number, OutputMemory> {
  const found = new Map<number, OutputMemory>();
  for (const { name, buffer } of program.outputs)
    if (buffer >= 0 && program.buffers[buffer]!.kind === 'output' && !found.has(buffer))
      found.set(buffer, binding.output(name));
  return found;
}

/** Buffers an instruction writes whose value must be made apart and added afterwards. Sums of tiles add in place. */
function addedBy(
  instruction: Instruction,
  at: number,
  program: Program,
  outputs: ReadonlyMap<number, OutputMemory>,
): number[] {
  const isAdded = (b: number): boolean => outputs.get(b)?.add === true && program.buffers[b]!.first === at;
  switch (instruction.kind) {
    case 'run':
      return instruction.outputs.filter(isAdded);
    case 'tiled':
      return instruction.results
        .filter(({ how, buffer }) => how !== 'sum' || program.buffers[buffer]?.last !== at)
        .map(({ buffer }) => buffer)
        .filter(isAdded);
    case 'attention':
    case 'attention_vjp':
    case 'collective':
      return instruction.results.filter(isAdded);
    case 'shard':
      return [instruction.result].filter(isAdded);
    default:
      return unreachable(instruction);
  }
}

/** Those that are read later keep their memory; the others share the scratch of the instruction. */
function placeSums(
  sums: readonly number[],
  bound: BoundBuffers,
  added: Map<number, Elements>,
  scratch: (bytes: number) => ArrayBuffer,
): void {
  const brief = sums.filter((b) => bound.program.buffers[b]!.first === bound.program.buffers[b]!.last);
  const aligned = (b: number): number => Math.ceil(bound.bytes[b]! / 64) * 64;
  const memory = scratch(brief.reduce((bytes, b) => bytes + aligned(b), 0));
  let at = 0;
  for (const b of sums) {
    const elements = bound.elements[b]!;
    added.set(b, brief.includes(b) ? elementsAt('f32', memory, at, elements) : new Float32Array(elements));
    if (brief.includes(b)) at += aligned(b);
  }
}

function thenAdd(
  step: Step,
  sums: readonly number[],
  views: Views,
  outputs: ReadonlyMap<number, OutputMemory>,
): Step {
  const pairs = sums.map((b) => {
    const target = outputs.get(b)!.array;
    invariant(target instanceof Float32Array, 'only f32 values are added up');
    return [views.floats(b), target] as const;
  });
  return (context) => {
    step(context);
    for (const [from, to] of pairs) addTo(to, from);
  };
}

export function addTo(to: Float32Array, from: Float32Array): void {
  for (let i = 0; i < to.length; i++) to[i] = to[i]! + from[i]!;
}

/** An output in an input's memory is written by the last instruction that reads the input, or after it. */
function checkAliases(program: Program, views: Views): void {
  const readers = new Map<ArrayBufferLike, { name: string; last: number; from: number; to: number }[]>();
  const place = (buffer: number): { memory: ArrayBufferLike; from: number; to: number } => {
    const { buffer: memory, byteOffset: from, byteLength } = views.array(buffer);
    return { memory, from, to: from + byteLength };
  };
  for (const { name, buffer } of program.inputs) {
    const { memory, from, to } = place(buffer);
    const known = readers.get(memory) ?? [];
    known.push({ name, last: program.buffers[buffer]!.last, from, to });
    readers.set(memory, known);
  }
  for (const { name, buffer } of program.outputs) {
    if (buffer < 0 || program.buffers[buffer]!.kind !== 'output') continue;
    const { memory, from, to } = place(buffer);
    for (const input of readers.get(memory) ?? [])
      invariant(
        to <= input.from || from >= input.to || input.last <= program.buffers[buffer]!.first,
        `output ${name} of program ${program.name} overwrites input ${input.name}, which is read later`,
      );
  }
}
