import { describe, expect, test } from 'vitest';
import { checkProgram } from '../../src/package/check.js';
import { programSchema, type Program } from '../../src/package/program.js';
import { everyKind } from './fixture.js';

/** A program as plain JSON, so that tests can damage it. */
type Loose = { -readonly [K in keyof Program]: Program[K] } & {
  buffers: { type: string; kind: string; first: number; last: number }[];
  instructions: Record<string, unknown>[];
};

const check = (change: (program: Loose) => unknown): void => {
  const program = structuredClone(everyKind()) as unknown as Loose;
  change(program);
  checkProgram(programSchema.parse(program), 'train/program.json');
};

test('a program with every kind of instruction is accepted', () => {
  expect(() => check(() => undefined)).not.toThrow();
});

const refused: readonly (readonly [string, (program: Loose) => unknown, RegExp])[] = [
  ['a type that is none', (p) => (p.buffers[1]!.type = 'f32[S@sp'), /buffer 1: .*is not a type/],
  ['a symbol of a tile outside one', (p) => (p.buffers[1]!.type = 'f32[T]'), /unknown symbol T/],
  ['a negative dim', (p) => (p.buffers[1]!.type = 'f32[-3]'), /negative/],
  ['an absurd size', (p) => (p.buffers[1]!.type = `f32[${2 ** 41}]`), /out of bounds/],
  ['a split that does not divide', (p) => (p.buffers[1]!.type = 'f32[10@sp/3]'), /not a multiple/],
  ['17 dims', (p) => (p.buffers[1]!.type = `f32[${Array(17).fill('1').join(', ')}]`), /more than 16 dims/],
  ['an input that is no input buffer', (p) => (p.inputs[0]!.buffer = 1), /input in0 names buffer 1/],
  ['two inputs of one name', (p) => (p.inputs[1]!.name = 'in0'), /in0 is bound twice/],
  ['an unbound input', (p) => p.inputs.pop(), /buffer 8 is an input without a name/],
  ['an output in the arena', (p) => (p.outputs[0]!.buffer = 6), /does not outlive the run/],
  ['an output out of range', (p) => (p.outputs[0]!.buffer = 99), /names buffer 99/],
  ['a label too few', (p) => p.labels.pop(), /5 labels for 6 instructions/],
  ['a segment out of range', (p) => (p.instructions[0]!['segment'] = 7), /instruction 0 .*no segment 7/],
  ['a buffer out of range', (p) => (p.instructions[0]!['inputs'] = [77]), /there is no buffer 77/],
  ['an operand too many', (p) => (p.instructions[0]!['inputs'] = [0, 3]), /it has 2 inputs, expected 1/],
  ['a result too few', (p) => (p.instructions[0]!['outputs'] = []), /it has 0 outputs, expected 1/],
  ['a kernel of the other kind', (p) => (p.instructions[2]!['kind'] = 'attention_vjp'), /computes attention/],
  [
    'attention on three operands',
    (p) => (p.instructions[2]!['operands'] = [2, 2, 2]),
    /3 operands, expected 4/,
  ],
  ['a bias that is not given', (p) => p.kernels[0]!.inputs.push('bias'), /4 operands, expected 5/],
  [
    'a bias that has no column for each head',
    (p) => (p.kernels[0]!.inputs.push('bias'), (p.instructions[2]!['operands'] = [2, 2, 2, 3, 3])),
    /its bias is .*expected f32\[offsets, 4\]/,
  ],
  [
    'models that differ in what they take',
    (p) => {
      const { file, inputs, outputs, temporaries } = p.kernels[0]!;
      p.kernels[0]!.mapped = { file, inputs: [...inputs, 'bias'], outputs, temporaries };
    },
    /do not take the same operands/,
  ],
  ['heads that do not fit', (p) => (p.kernels[0]!.kvHeads = 3), /kernel 0: 4 query heads do not share 3/],
  ['a window without a size', (p) => (p.kernels[0]!.mask = 'window'), /a window mask and window absent/],
  ['tiles of nothing', (p) => (p.instructions[4]!['sliced'] = [false, false]), /no operand is sliced/],
  ['a flag too few', (p) => (p.instructions[4]!['sliced'] = [true]), /1 slice flags, expected 2/],
  ['an exchange without dims', (p) => delete p.instructions[1]!['to'], /needs two dims/],
  ['an exchange of a dim that is not there', (p) => (p.instructions[1]!['to'] = 3), /no dim 1 or 3/],
  ['a shard of a scalar', (p) => (p.buffers[8]!.type = 'f32[]'), /its operand has no dims/],
  [
    'a sum that its segment does not add',
    (p) => (p.segments[1]!.accumulates = []),
    /has 2 operands, expected 3/,
  ],
  ['an accumulator that is no input', (p) => (p.segments[1]!.inputs[2] = 'x2'), /accumulates y0, without/],
  [
    'a temporary that is no type',
    (p) => (p.segments[0]!.temporaries = [['many']]),
    /segment 0: .*not a type/,
  ],
  ['a size that is no dim', (p) => (p.segments[0]!.sizes = ['S@sp(']), /segment 0: .*is not a dim/],
  ['a value read before it is written', (p) => p.instructions.reverse(), /before it is written/],
  ['a value written twice', (p) => (p.instructions[3]!['results'] = [1]), /writes buffer 1 a second time/],
  ['an input that is written', (p) => (p.instructions[0]!['outputs'] = [3]), /writes buffer 3, an input/],
  ['an operand that is overwritten', (p) => (p.instructions[0]!['outputs'] = [0]), /which it also reads/],
  ['a life that ends too early', (p) => (p.buffers[1]!.last = 0), /lives only to instruction 0/],
  ['a life that starts too late', (p) => (p.buffers[1]!.first = 1), /said to live from 1 to 1/],
  [
    'an output that is never written',
    (p) => (p.outputs.push({ name: 'x', buffer: 10 }), p.buffers.push({ ...p.buffers[9]! })),
    /output x is never written/,
  ],
];

describe('checkProgram refuses', () => {
  test.each(refused)('%s', (_, change, message) => {
    expect(() => check(change)).toThrow(message);
    expect(() => check(change)).toThrow(/^train\/program.json: [^\n]*$/);
  });
});
