import { invariant } from '../errors.js';
import { BYTES_PER_ELEMENT, splitRange, type RankBinding } from '../ir/placement.js';
import { evaluateSize } from '../ir/size.js';
import { parseType, type Type } from '../ir/type.js';
import type { Instruction, Program } from '../package/program.js';

type AllToAll = Extract<Instruction, { kind: 'collective' }>;

/** One all-to-all of a program, for a group of a given degree and number of tokens. */
export interface Exchange {
  /** Index of its instruction. */
  readonly at: number;
  readonly label: string;
  readonly phase: 'forward' | 'backward';
  /** Types of what travels, before and after. */
  readonly from: readonly string[];
  readonly to: readonly string[];
  /** Bytes that all ranks of the group together send to others. */
  readonly bytes: number;
}

/**
 * Every all-to-all of a program: those before the loss are forward. Bytes follow from the types alone: a rank
 * sends each other rank the part of its shard that lies in the other's share.
 */
export function exchangesOf(
  program: Program,
  group: { readonly tokens: number; readonly degree: number },
): Exchange[] {
  const loss = lossAt(program);
  return program.instructions.flatMap((instruction, at) => {
    if (instruction.kind !== 'collective' || instruction.op !== 'all_to_all') return [];
    const types = (buffers: readonly number[]): string[] => buffers.map((b) => program.buffers[b]!.type);
    return {
      at,
      label: program.labels[at] ?? `instruction ${at}`,
      phase: at < loss ? ('forward' as const) : ('backward' as const),
      from: types(instruction.operands),
      to: types(instruction.results),
      bytes: bytesOf(program, instruction, group.tokens, group.degree),
    };
  });
}

/** The instruction that writes `loss_sum`; the end, where there is none. */
function lossAt({ outputs, buffers, instructions }: Program): number {
  const loss = outputs.find(({ name }) => name === 'loss_sum');
  return loss === undefined || loss.buffer < 0 ? instructions.length : buffers[loss.buffer]!.first;
}

function bytesOf(program: Program, instruction: AllToAll, tokens: number, degree: number): number {
  const { from, to, operands, results } = instruction;
  invariant(from !== undefined && to !== undefined, 'an all_to_all without dims');
  const ranks = Array.from({ length: degree }, (_, index): RankBinding => ({
    sp: { index, degree },
    world: { index, degree },
    symbols: new Map([['S', tokens]]),
  }));
  return operands.reduce((sum, operand, i) => {
    const source = parseType(program.buffers[operand]!.type);
    const target = parseType(program.buffers[results[i]!]!.type);
    const sizes = source.dims.map((d) => evaluateSize(d.size, ranks[0]!.symbols));
    const others = sizes.reduce((product, n, at) => (at === from || at === to ? product : product * n), 1);
    const held = ranks.map((rank) => lengthOn(source, from, sizes, rank));
    const taken = ranks.map((rank) => lengthOn(target, to, sizes, rank));
    const whole = held.reduce((total, n) => total + n, 0) * taken.reduce((total, n) => total + n, 0);
    const kept = held.reduce((total, n, rank) => total + n * taken[rank]!, 0);
    return sum + (whole - kept) * others * BYTES_PER_ELEMENT;
  }, 0);
}

function lengthOn(type: Type, dim: number, sizes: readonly number[], rank: RankBinding): number {
  const { split } = type.dims[dim]!;
  invariant(split !== undefined, 'an all_to_all of a dim that is not split');
  const { start, end } = splitRange(sizes[dim]!, split, rank.sp);
  return end - start;
}

export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headSize: number;
  readonly valueSize: number;
}

/** The attention of each layer, in order. */
export const attentionsOf = (program: Program): AttentionShape[] =>
  program.instructions.flatMap((i) => (i.kind === 'attention' ? [program.kernels[i.kernel]!] : []));

/**
 * What a group sends in a layer's forward pass where P divides the K/V heads: q and k one way, v and the output
 * with the values' head size. With equal head sizes this is S·(2H + 2·Hkv)·D·4·(P−1)/P.
 */
export function layerBytes(
  { heads, kvHeads, headSize, valueSize }: AttentionShape,
  tokens: number,
  degree: number,
): number {
  const elements = tokens * ((heads + kvHeads) * headSize + (kvHeads + heads) * valueSize);
  return (elements * BYTES_PER_ELEMENT * (degree - 1)) / degree;
}

/** Whether the heads of every rank are equally many, so that `layerBytes` is exact, however the tokens fall. */
export const isEven = (program: Program, degree: number): boolean =>
  attentionsOf(program).every(({ kvHeads, heads }) => kvHeads % degree === 0 && heads % degree === 0);
