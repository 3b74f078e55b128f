import { unreachable } from '../errors.js';
import type { Instruction, Program } from './program.js';

/** Which buffers an instruction touches. Lists keep the instruction's order; unread results (−1) are left out. */
export interface Access {
  readonly reads: readonly number[];
  readonly writes: readonly number[];
  /** Those of `writes` whose old content is added to, so that it must be there. */
  readonly adds: readonly number[];
}

export function accessOf(instruction: Instruction, program: Program): Access {
  switch (instruction.kind) {
    case 'run': {
      const segment = program.segments[instruction.segment];
      const adds = instruction.outputs.filter((_, i) => segment?.accumulates.includes(segment.outputs[i]!));
      return { reads: instruction.inputs, writes: instruction.outputs, adds };
    }
    case 'attention':
    case 'attention_vjp':
      return { reads: used(instruction.operands), writes: used(instruction.results), adds: [] };
    case 'tiled':
      return {
        reads: instruction.operands,
        writes: used(instruction.results.map((result) => result.buffer)),
        adds: [],
      };
    case 'collective':
      return { reads: instruction.operands, writes: instruction.results, adds: [] };
    case 'shard':
      return { reads: [instruction.operand], writes: [instruction.result], adds: [] };
    default:
      return unreachable(instruction);
  }
}

const used = (buffers: readonly number[]): number[] => buffers.filter((buffer) => buffer >= 0);

/** Every ONNX model a program runs. */
export const modelsOf = ({ segments, kernels }: Program): readonly { readonly file: string }[] => [
  ...segments,
  ...kernels.flatMap((kernel) => (kernel.mapped === undefined ? [kernel] : [kernel, kernel.mapped])),
];
