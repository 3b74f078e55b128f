import { z } from 'zod';
import { UserError, invariant } from '../../errors.js';
import { windowOfSymbol } from '../../ir/ops/attention-mask.js';
import { BYTES_PER_ELEMENT, followingRange, type RankBinding } from '../../ir/placement.js';
import { constantOf, evaluateSize, parseSize } from '../../ir/size.js';
import { parseType } from '../../ir/type.js';
import { COST } from '../../package/paths.js';
import type { KernelInfo, Program } from '../../package/program.js';
import type { Package } from '../../package/read.js';
import { mostQueryRows } from '../executor/tiles.js';
import { layoutArena } from '../memory/arena.js';
import { bindProgram } from '../memory/bind.js';
import { lruCache } from '../memory/lru.js';
import { temporariesOf } from '../memory/peak.js';
import { momentSizes } from '../session/memory.js';
import type { Attention, ProgramWork } from './physical-cost.js';

/**
 * What a train program of a package does, for a world of `ranks`.
 * @throws UserError for a package whose costs cannot be read, or do not grow with tokens and attended pairs
 */
export function workOf(pkg: Package, ranks: number, name = 'train'): ProgramWork {
  const program = pkg.program(name);
  const { manifest } = pkg;
  // The attention with the fewest heads allows the fewest ranks, and leaves them the least even shares.
  const narrowest = program.kernels
    .filter(({ op }) => op === 'attention')
    .sort((a, b) => a.heads - b.heads || a.kvHeads - b.kvHeads)[0];
  return {
    name: manifest.name,
    ...flopsOf(pkg, name),
    heads: narrowest?.heads ?? manifest.maxDegree,
    kvHeads: narrowest?.kvHeads ?? manifest.maxDegree,
    ...exchangedOf(program),
    ...worldWork(program, pkg.program('update')),
    launches: program.instructions.length,
    peakBytes: peakOf(program, { ranks, stateBytes: stateBytes(pkg, ranks) }),
  };
}

const costSchema = z.record(z.string(), z.looseObject({ flops: z.string().max(65_536) }));

/** Splits the polynomial of cost.json into what tokens, pairs and micro-batches add. */
function flopsOf(
  pkg: Package,
  program: string,
): Pick<ProgramWork, 'flopsPerToken' | 'flopsPerMicroBatch' | 'flopsPerPair' | 'attention'> {
  const invalid = (what: string): UserError =>
    new UserError(`package ${pkg.directory}: ${COST}: ${what}`, 'compile the model again');
  const parsed = costSchema.safeParse(JSON.parse(Buffer.from(pkg.bytes(COST)).toString('utf8')));
  const flops = parsed.data?.[program]?.flops;
  if (flops === undefined) throw invalid(`holds no FLOPs of program ${program}`);
  let [flopsPerToken, flopsPerMicroBatch, flopsPerPair] = [0, 0, 0];
  const masks: { attention: Attention; flops: number }[] = [];
  for (const { coefficient, symbols } of parseSize(flops).terms) {
    const [symbol, more] = symbols;
    const attention = symbol === undefined ? undefined : attentionOf(symbol);
    if (more !== undefined || (symbol !== undefined && symbol !== 'S' && attention === undefined))
      throw invalid(`FLOPs grow with ${symbols.join('*')}, expected S and attended pairs A_…`);
    if (symbol === undefined) flopsPerMicroBatch += coefficient;
    else if (attention === undefined) flopsPerToken += coefficient;
    else {
      masks.push({ attention, flops: coefficient });
      flopsPerPair += coefficient;
    }
  }
  const attention: Attention =
    masks.length === 1
      ? masks[0]!.attention
      : {
          mixed: masks.map((mask) => ({ attention: mask.attention, share: mask.flops / flopsPerPair })),
        };
  return { flopsPerToken, flopsPerMicroBatch, flopsPerPair, attention };
}

function attentionOf(symbol: string): Attention | undefined {
  if (symbol === 'A_causal') return 'causal';
  if (symbol === 'A_full') return 'full';
  return windowOfSymbol(symbol);
}

/** All-to-alls, and the bytes a token of what they exchange: a head dim that follows others is one of K/V heads. */
function exchangedOf(
  program: Program,
): Pick<ProgramWork, 'exchanges' | 'exchangedTensors' | 'queryBytesPerToken' | 'kvBytesPerToken'> {
  let [exchanges, exchangedTensors, queryBytesPerToken, kvBytesPerToken] = [0, 0, 0, 0];
  const oneToken = new Map([['S', 1]]);
  for (const instruction of program.instructions) {
    if (instruction.kind !== 'collective' || instruction.op !== 'all_to_all') continue;
    exchanges++;
    const { from, to, operands, results } = instruction;
    invariant(from !== undefined && to !== undefined, 'an all_to_all without dims');
    exchangedTensors += operands.length;
    operands.forEach((operand, i) => {
      const source = parseType(program.buffers[operand]!.type);
      const target = parseType(program.buffers[results[i]!]!.type);
      const heads = constantOf(source.dims[from]!.size) === undefined ? target.dims[to] : source.dims[from];
      const bytes = source.dims.reduce((n, d) => n * evaluateSize(d.size, oneToken), BYTES_PER_ELEMENT);
      if (heads?.split?.of === undefined) queryBytesPerToken += bytes;
      else kvBytesPerToken += bytes;
    });
  }
  return { exchanges, exchangedTensors, queryBytesPerToken, kvBytesPerToken };
}

/** What micro-batches and updates move between all ranks: nothing by tokens, so sizes are those of parameters. */
function worldWork(
  train: Program,
  update: Program,
): Pick<ProgramWork, 'gatherBytes' | 'gathers' | 'settleBytes' | 'settles'> {
  const [inMicroBatch, inStep] = [worldTraffic(train), worldTraffic(update)];
  return {
    gatherBytes: inMicroBatch.bytes,
    gathers: inMicroBatch.calls,
    settleBytes: inStep.bytes,
    settles: inStep.calls,
  };
}

/** Whole tensors that collectives of the world gather or scatter; a sum over all ranks scatters and gathers. */
function worldTraffic({ instructions, buffers }: Program): { bytes: number; calls: number } {
  let [bytes, calls] = [0, 0];
  for (const instruction of instructions) {
    if (instruction.kind !== 'collective' || instruction.axis !== 'world') continue;
    calls++;
    const { op, operands, results } = instruction;
    const times = op === 'all_reduce' ? 2 : 1;
    for (const buffer of op === 'all_gather' ? results : operands)
      bytes += times * wholeBytes(buffers[buffer]!.type);
  }
  return { bytes, calls };
}

const wholeBytes = (type: string): number =>
  parseType(type).dims.reduce((n, d) => n * evaluateSize(d.size, new Map()), BYTES_PER_ELEMENT);

function stateBytes(pkg: Package, ranks: number): number {
  let elements = 0;
  for (const { own } of momentSizes(pkg.program('update'), 0, ranks).values()) elements += own;
  return elements * BYTES_PER_ELEMENT;
}

interface PeakContext {
  readonly ranks: number;
  /** AdamW's moments on the rank that has most. */
  readonly stateBytes: number;
}

/** A planner that runs as long as a training run meets ever new sizes. */
const KNOWN_PEAKS = 1 << 16;

/** Lengths from each of which documents up to the next are counted as the worst of them. */
const STEPS_PER_DOUBLING = 4;

/**
 * Peak of the fullest rank of a group, whatever documents its tokens are: buffers laid out as they will be, inside
 * instructions the most that documents of any length up to all tokens need. So it does not fall with more tokens,
 * as the peak of one document does where attention is cut into tiles of fewer rows.
 */
function peakOf(program: Program, context: PeakContext): ProgramWork['peakBytes'] {
  const { get: once } = lruCache<number>(KNOWN_PEAKS);
  const bind = (degree: number, index: number, tokens: number): RankBinding => ({
    sp: { index, degree },
    world: { index: 0, degree: context.ranks },
    symbols: new Map([['S', tokens]]),
  });
  const insideBytes = (degree: number, index: number, from: number, to: number): number =>
    once(`${degree} ${index} ${from} ${to}`, () => {
      const rows = program.kernels.map((kernel) =>
        mostQueryRows(kernel, Math.ceil(kernel.heads / degree), { from, to }),
      );
      const options = { longestDocument: to, queryRows: Math.max(1, ...rows) };
      const inside = temporariesOf(bindProgram(program, bind(degree, index, to)), options);
      return inside.reduce((a, b) => Math.max(a, b), 0);
    });
  const onRank = (degree: number, index: number, tokens: number): number => {
    const bound = bindProgram(program, bind(degree, index, tokens));
    let kept = layoutArena(bound).bytes + context.stateBytes;
    program.buffers.forEach(({ kind }, i) => (kept += kind === 'arena' ? 0 : bound.bytes[i]!));
    let inside = 0;
    for (let step = 0, from = 1; from <= tokens;) {
      const next = Math.max(from + 1, Math.ceil(2 ** (++step / STEPS_PER_DOUBLING)));
      inside = Math.max(inside, insideBytes(degree, index, from, Math.min(tokens, next - 1)));
      from = next;
    }
    return kept + inside;
  };
  return (degree, tokens) =>
    once(`${degree} ${tokens}`, () =>
      fullestRanks(program.kernels, degree).reduce(
        (most, index) => Math.max(most, onRank(degree, index, tokens)),
        0,
      ),
    );
}

/** Ranks of which one is fullest: tokens never rise with the index, heads may, where K/V heads are shared. */
function fullestRanks(kernels: readonly KernelInfo[], degree: number): readonly number[] {
  const chosen: { index: number; held: readonly number[] }[] = [];
  for (let index = 0; index < degree; index++) {
    const held = kernels.flatMap(({ heads, kvHeads }) =>
      [heads, kvHeads].map((count) => {
        const { start, end } = followingRange(count, heads, degree, index);
        return end - start;
      }),
    );
    if (!chosen.some((other) => other.held.every((n, i) => n >= held[i]!))) chosen.push({ index, held });
  }
  return chosen.map(({ index }) => index);
}
