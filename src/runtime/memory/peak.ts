import { unreachable } from '../../errors.js';
import { BYTES_PER_ELEMENT, localElements, type RankBinding } from '../../ir/placement.js';
import { parseType, type Type } from '../../ir/type.js';
import { attentionOperands, extrasOf } from '../../package/attention-operands.js';
import type { Instruction, Program } from '../../package/program.js';
import { layoutArena } from './arena.js';
import { bindProgram, type BoundBuffers } from './bind.js';

/** What a run of a program needs on one rank. The peak is the sum of the three parts. */
export interface PeakPlan {
  readonly peakBytes: number;
  /** Buffers between instructions, laid out. */
  readonly arenaBytes: number;
  /** Inside the one instruction that needs most. */
  readonly temporariesBytes: number;
  /** Inputs (parameters among them) and outputs: there before and after the run. */
  readonly persistentBytes: number;
  /** The instruction that `temporariesBytes` is of; −1 when none needs any. */
  readonly instruction: number;
}

export interface PeakOptions {
  /** Tokens of the longest document; default: the whole row is one. */
  readonly longestDocument?: number;
  /** Most query rows in one call of an attention model; default: a whole document, the upper bound. */
  readonly queryRows?: number;
  /** Whether the executor receives results in memory of its own and copies them (onnxruntime-node does). */
  readonly copiesResults?: boolean;
}

export function planPeak(program: Program, rank: RankBinding, options: PeakOptions = {}): PeakPlan {
  const bound = bindProgram(program, rank);
  const arenaBytes = layoutArena(bound).bytes;
  const persistentBytes = program.buffers.reduce(
    (sum, { kind }, i) => sum + (kind === 'arena' ? 0 : bound.bytes[i]!),
    0,
  );
  const inside = temporariesOf(bound, options);
  let instruction = -1;
  let temporariesBytes = 0;
  inside.forEach((bytes, i) => {
    if (bytes > temporariesBytes) [temporariesBytes, instruction] = [bytes, i];
  });
  return {
    peakBytes: arenaBytes + temporariesBytes + persistentBytes,
    arenaBytes,
    temporariesBytes,
    persistentBytes,
    instruction,
  };
}

/** Bytes that each instruction needs beside its operands and results, while it runs. */
export function temporariesOf(bound: BoundBuffers, options: PeakOptions = {}): Float64Array {
  const { program, rank } = bound;
  // Repeated layers run the same segments on the same sizes.
  const inRun = program.segments.map((segment) => once(() => largestSet(segment.temporaries, rank)));
  return Float64Array.from(program.instructions, (instruction) => {
    switch (instruction.kind) {
      case 'run':
        return inRun[instruction.segment]!() + copiedResults(bound, instruction.outputs, options);
      case 'attention':
      case 'attention_vjp':
        return attentionTemporaries(bound, instruction, options);
      case 'tiled':
        return tiledTemporaries(bound, instruction, options);
      case 'collective':
      case 'shard':
        return 0;
      default:
        return unreachable(instruction);
    }
  });
}

const once = <T>(make: () => T): (() => T) => {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
};

function copiedResults(bound: BoundBuffers, buffers: readonly number[], options: PeakOptions): number {
  if (options.copiesResults !== true) return 0;
  return buffers.reduce((sum, b) => sum + (b < 0 ? 0 : bound.bytes[b]!), 0);
}

type Tiled = Extract<Instruction, { kind: 'tiled' }>;
type Attention = Extract<Instruction, { kind: 'attention' | 'attention_vjp' }>;

/** Rows of the whole that a `tiled` instruction cuts into tiles, on this rank. */
export function tiledRows({ shapes }: BoundBuffers, { operands, sliced }: Tiled): number {
  return shapes[operands[sliced.indexOf(true)]!]![0]!;
}

/**
 * Inside one tile of `min(tile, rows)` rows. Operands are views and results are written in place, save those
 * that have no buffer: streamed, or read by nobody.
 */
export function tiledTemporaries(bound: BoundBuffers, instruction: Tiled, options: PeakOptions = {}): number {
  const tile = Math.min(instruction.tile, tiledRows(bound, instruction));
  if (tile === 0) return 0;
  const binding = { ...bound.rank, tile };
  const segment = bound.program.segments[instruction.segment]!;
  const results = instruction.results.reduce(
    (sum, { buffer, type }) =>
      sum + (buffer >= 0 && options.copiesResults !== true ? 0 : bytesInside(parsedType(type), binding)),
    0,
  );
  return largestSet(segment.temporaries, binding) + results;
}

/** Inside one call: a tile of query rows against all keys of the longest document. */
function attentionTemporaries(bound: BoundBuffers, instruction: Attention, options: PeakOptions): number {
  const { program, shapes, rank } = bound;
  const { operands, results } = instruction;
  const [tokens, heads] = shapes[operands[0]!] as readonly [number, number];
  const kvHeads = shapes[operands[1]!]![1]!;
  const keys = Math.min(tokens, options.longestDocument ?? tokens);
  const queries = Math.min(keys, options.queryRows ?? keys);
  if (heads === 0 || queries === 0) return 0;
  const symbols = new Map([
    ['Tq', queries],
    ['Tk', keys],
    ['Hl', heads],
    ['Hkvl', kvHeads],
    ['G', Math.ceil(heads / Math.max(1, kvHeads))],
  ]);
  const kernel = program.kernels[instruction.kernel]!;
  const [one, other] = [kernel, kernel.mapped].map((model) =>
    largestSet(model?.temporaries ?? [], { ...rank, symbols }),
  );
  const inside = Math.max(one!, other!);
  return inside + columnsOfBias(bound, instruction) + copiedResults(bound, results, options);
}

/** A rank's columns of the relative bias and of its cotangent, apart from the whole tables. */
function columnsOfBias({ program, shapes }: BoundBuffers, { kernel, kind, operands }: Attention): number {
  const { inputs } = program.kernels[kernel]!;
  const tables = ['bias', 'dbias_acc'].filter((name) => inputs.includes(name)).length;
  if (tables === 0) return 0;
  const at = attentionOperands(kind, extrasOf({ inputs })).indexOf('bias');
  const [rows] = shapes[operands[at]!] as readonly [number];
  return tables * rows * shapes[operands[0]!]![1]! * BYTES_PER_ELEMENT;
}

function largestSet(sets: readonly (readonly string[])[], rank: RankBinding): number {
  return sets.reduce(
    (most, set) =>
      Math.max(
        most,
        set.reduce((sum, text) => sum + bytesInside(parsedType(text), rank), 0),
      ),
    0,
  );
}

/** ONNX Runtime's own tensors: bool takes one byte an element there. */
const bytesInside = (type: Type, rank: RankBinding): number =>
  localElements(type, rank) * (type.dtype === 'bool' ? 1 : BYTES_PER_ELEMENT);

const types = new Map<string, Type>();
const MAX_TYPES = 10_000;

function parsedType(text: string): Type {
  const known = types.get(text);
  if (known !== undefined) return known;
  if (types.size >= MAX_TYPES) types.clear();
  const type = parseType(text);
  types.set(text, type);
  return type;
}
