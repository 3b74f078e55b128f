import { unreachable, UserError } from '../errors.js';
import { constantOf } from '../ir/size.js';
import { printType, type Type } from '../ir/type.js';
import { accessOf } from './access.js';
import { attentionOperands, attentionResults, extrasOf } from './attention-operands.js';
import { checkedDim, checkedType, KERNEL_SYMBOLS, SYMBOLS, TILE_SYMBOLS } from './check-type.js';
import type { Instruction, KernelInfo, Program, SegmentInfo, TileModel } from './program.js';

/**
 * What a schema cannot say about a program. Rules:
 * - every index is in range, every type and dim parses, sizes are bounded and use known symbols only;
 * - inputs bind exactly the `input` buffers, outputs name exactly the `output` buffers (or inputs passed through);
 * - a segment's last inputs are what its outputs are added to;
 * - an instruction has as many operands and results as its segment, kernel or collective takes;
 * - every buffer is written before it is read, an `arena` buffer exactly once, by `first`, and is alive until
 *   its last use; `input` buffers are never written; no instruction writes a buffer twice or one it reads.
 *
 * @param what the program in an error message
 * @throws UserError naming the instruction, buffer or segment
 */
export function checkProgram(program: Program, what: string): void {
  const fail = (message: string): never => {
    throw new UserError(`${what}: ${message}`);
  };
  const within = <T>(where: string, action: () => T): T => {
    try {
      return action();
    } catch (error) {
      if (error instanceof UserError) return fail(`${where}: ${error.message}`);
      throw error;
    }
  };
  const types = checkBuffers(program, within);
  checkBinding(program, fail);
  program.segments.forEach((segment, i) => within(`segment ${i}`, () => checkSegment(segment)));
  program.kernels.forEach((kernel, i) => within(`kernel ${i}`, () => checkKernel(kernel)));
  if (program.labels.length !== program.instructions.length)
    fail(`${program.labels.length} labels for ${program.instructions.length} instructions`);
  program.instructions.forEach((instruction, i) =>
    within(labelOf(program, i), () => checkInstruction(instruction, program, types)),
  );
  checkUses(program, fail);
}

const labelOf = (program: Program, index: number): string =>
  `instruction ${index} (${program.labels[index] ?? ''})`;

type Within = <T>(where: string, action: () => T) => T;
type Fail = (message: string) => never;

function need(condition: boolean, message: string): asserts condition {
  if (!condition) throw new UserError(message);
}

function checkBuffers(program: Program, within: Within): readonly Type[] {
  // Thousands of buffers share a few dozen types.
  const known = new Map<string, Type>();
  return program.buffers.map(({ type: text }, i) => {
    const type = known.get(text) ?? within(`buffer ${i}`, () => checkedType(text, SYMBOLS));
    known.set(text, type);
    return type;
  });
}

function checkBinding(program: Program, fail: Fail): void {
  const { buffers } = program;
  const names = new Set<string>();
  const bound = new Set<number>();
  for (const { name, buffer } of program.inputs) {
    if (buffers[buffer]?.kind !== 'input') fail(`input ${name} names buffer ${buffer}, which is no input`);
    if (names.has(name) || bound.has(buffer)) fail(`input ${name} is bound twice`);
    names.add(name);
    bound.add(buffer);
  }
  const outputs = new Set<string>();
  for (const { name, buffer } of program.outputs) {
    if (outputs.has(name)) fail(`output ${name} is declared twice`);
    outputs.add(name);
    if (buffer === -1) continue;
    const kind = buffers[buffer]?.kind;
    if (kind === undefined || kind === 'arena')
      fail(`output ${name} names buffer ${buffer}, which does not outlive the run`);
    bound.add(buffer);
  }
  buffers.forEach(({ kind }, i) => {
    if (kind !== 'arena' && !bound.has(i)) fail(`buffer ${i} is an ${kind} without a name`);
  });
}

function checkSegment(segment: SegmentInfo): void {
  const { inputs, outputs, sizes, accumulates, temporaries } = segment;
  need(new Set(inputs).size === inputs.length, 'two inputs have the same name');
  need(new Set(outputs).size === outputs.length, 'two outputs have the same name');
  sizes.forEach((dim) => checkedDim(dim, TILE_SYMBOLS));
  need(new Set(accumulates).size === accumulates.length, 'it accumulates an output twice');
  const last = inputs.slice(operandsOf(segment));
  for (const name of accumulates)
    need(
      outputs.includes(name) && last.includes(`acc_${name}`),
      `it accumulates ${name}, without an output of that name and a last input acc_${name}`,
    );
  for (const set of temporaries) for (const type of set) checkedType(type, TILE_SYMBOLS);
}

const KERNEL_INPUTS: ReadonlySet<string> = new Set(
  'q k v out lse g glse bias dk_acc dv_acc dbias_acc head_map head_onehot slopes offset'.split(' '),
);
const KERNEL_OUTPUTS: ReadonlySet<string> = new Set(['out', 'lse', 'dq', 'dk', 'dv', 'dbias']);

function checkTileModel({ inputs, outputs, temporaries }: TileModel): void {
  for (const name of inputs) need(KERNEL_INPUTS.has(name), `it takes ${name}, which attention does not have`);
  for (const name of outputs) need(KERNEL_OUTPUTS.has(name), `it gives ${name}, which attention does not`);
  for (const set of temporaries) for (const type of set) checkedType(type, KERNEL_SYMBOLS);
}

function checkKernel(kernel: KernelInfo): void {
  const { heads, kvHeads, headSize, valueSize, mask, window, ahead, slopes } = kernel;
  checkTileModel(kernel);
  if (kernel.mapped !== undefined) {
    checkTileModel(kernel.mapped);
    const [one, other] = [extrasOf(kernel), extrasOf(kernel.mapped)];
    need(one.bias === other.bias && one.glse === other.glse, 'its models do not take the same operands');
  }
  need(headSize > 0 && valueSize > 0, 'head sizes must be positive');
  need(kvHeads > 0 && heads % kvHeads === 0, `${heads} query heads do not share ${kvHeads} K/V heads`);
  need((mask === 'window') === (window !== undefined), `a ${mask} mask and window ${window ?? 'absent'}`);
  need(window === undefined || window > 0, 'the window is empty');
  need(ahead === undefined || mask === 'window', `a ${mask} mask that looks ahead`);
  need(slopes === undefined || slopes.length === heads, `${slopes?.length} slopes for ${heads} heads`);
}

function checkInstruction(instruction: Instruction, program: Program, types: readonly Type[]): void {
  const { reads, writes } = accessOf(instruction, program);
  for (const buffer of [...reads, ...writes]) need(buffer < types.length, `there is no buffer ${buffer}`);
  switch (instruction.kind) {
    case 'run': {
      const segment = segmentOf(program, instruction.segment);
      counts('inputs', instruction.inputs.length, operandsOf(segment));
      counts('outputs', instruction.outputs.length, segment.outputs.length);
      return;
    }
    case 'attention':
    case 'attention_vjp': {
      const kernel = program.kernels[instruction.kernel];
      need(kernel !== undefined, `there is no kernel ${instruction.kernel}`);
      need(kernel.op === instruction.kind, `its kernel computes ${kernel.op}`);
      return checkAttention(instruction, kernel, types);
    }
    case 'tiled':
      return checkTiled(instruction, segmentOf(program, instruction.segment), types);
    case 'collective':
      return checkCollective(instruction, types);
    case 'shard':
      need(types[instruction.operand]!.dims.length > 0, 'its operand has no dims');
      need(types[instruction.result]!.dims.length > 0, 'its result has no dims');
      return;
    default:
      unreachable(instruction);
  }
}

function checkAttention(
  { kind, operands, results }: Extract<Instruction, { kind: 'attention' | 'attention_vjp' }>,
  kernel: KernelInfo,
  types: readonly Type[],
): void {
  const extras = extrasOf(kernel);
  const [taken, given] = [attentionOperands(kind, extras), attentionResults(kind, extras)];
  counts('operands', operands.length, taken.length);
  counts('results', results.length, given.length);
  for (const [i, name] of taken.entries()) {
    const needed = [kernel, kernel.mapped].some((model) => model?.inputs.includes(name));
    need(
      !(needed || name === 'documents') || operands[i]! >= 0,
      `its kernel takes ${name}, which it is not given`,
    );
  }
  const tables = [operands[taken.indexOf('bias')], results[given.indexOf('dbias')]];
  for (const buffer of tables) if (buffer !== undefined && buffer >= 0) checkBias(types[buffer]!, kernel);
}

/** The runtime takes a rank's columns out of a table that is whole. */
function checkBias(type: Type, { heads }: KernelInfo): void {
  const [rows, columns] = type.dims.map(({ size, split }) => (split ? undefined : constantOf(size)));
  need(
    type.dtype === 'f32' && type.dims.length === 2 && rows !== undefined && columns === heads,
    `its bias is ${printType(type)}, expected f32[offsets, ${heads}]`,
  );
}

function segmentOf(program: Program, index: number): SegmentInfo {
  const segment = program.segments[index];
  need(segment !== undefined, `there is no segment ${index}`);
  return segment;
}

/** The models take what they add to as well; instructions do not name it again. */
const operandsOf = ({ inputs, accumulates }: SegmentInfo): number => inputs.length - accumulates.length;

function counts(what: string, has: number, takes: number): void {
  need(has === takes, `it has ${has} ${what}, expected ${takes}`);
}

function checkTiled(
  instruction: Extract<Instruction, { kind: 'tiled' }>,
  segment: SegmentInfo,
  types: readonly Type[],
): void {
  const { operands, sliced, results } = instruction;
  counts('operands', operands.length, operandsOf(segment));
  counts('slice flags', sliced.length, operands.length);
  counts('results', results.length, segment.outputs.length);
  need(sliced.includes(true), 'no operand is sliced');
  operands.forEach((buffer, i) =>
    need(!sliced[i] || types[buffer]!.dims.length > 0, `operand ${i} is sliced and has no dims`),
  );
  results.forEach(({ buffer, how, type: text }, i) => {
    const type = checkedType(text, TILE_SYMBOLS);
    need(how !== 'stream' || buffer === -1, `result ${i} is streamed and has a buffer`);
    need(how !== 'concat' || type.dims.length > 0, `result ${i} is concatenated and has no dims`);
    const adds = segment.accumulates.includes(segment.outputs[i]!);
    need(adds === (how === 'sum'), `result ${i} is ${how}, its segment ${adds ? 'adds' : 'does not add'}`);
  });
}

function checkCollective(
  instruction: Extract<Instruction, { kind: 'collective' }>,
  types: readonly Type[],
): void {
  const { op, operands, results, from, to } = instruction;
  counts('results', results.length, operands.length);
  if (op !== 'all_to_all') return;
  need(from !== undefined && to !== undefined && from !== to, 'it needs two dims, from and to');
  for (const buffer of [...operands, ...results])
    need(Math.max(from, to) < types[buffer]!.dims.length, `buffer ${buffer} has no dim ${from} or ${to}`);
}

/** Replays the reads and writes, in order. */
function checkUses(program: Program, fail: Fail): void {
  const { buffers } = program;
  const written = buffers.map(({ kind }) => kind === 'input');
  program.instructions.forEach((instruction, i) => {
    const { reads, writes, adds } = accessOf(instruction, program);
    const here = labelOf(program, i);
    const isAdded = new Set(adds);
    for (const b of reads) {
      if (!written[b]) fail(`${here} reads buffer ${b} before it is written`);
      if (buffers[b]!.kind === 'arena' && buffers[b]!.last < i)
        fail(`${here} reads buffer ${b}, which lives only to instruction ${buffers[b]!.last}`);
    }
    const overwritten = new Set(reads);
    for (const b of writes) {
      const { kind, first, last } = buffers[b]!;
      if (overwritten.has(b)) fail(`${here} writes buffer ${b}, which it also reads or writes`);
      overwritten.add(b);
      if (kind === 'input') fail(`${here} writes buffer ${b}, an input`);
      if (kind === 'arena') {
        if (isAdded.has(b)) fail(`${here} adds to buffer ${b}, which holds nothing yet`);
        if (written[b]) fail(`${here} writes buffer ${b} a second time`);
        if (first !== i || last < i)
          fail(`${here} writes buffer ${b}, said to live from ${first} to ${last}`);
      }
      written[b] = true;
    }
  });
  for (const { name, buffer } of program.outputs)
    if (buffer >= 0 && !written[buffer]) fail(`output ${name} is never written`);
}
