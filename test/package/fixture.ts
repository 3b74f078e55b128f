import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readOnnxModel } from '../../src/ir/onnx/decode.js';
import type { Manifest, ParameterEntry } from '../../src/package/manifest.js';
import type { BufferInfo, Instruction, Program } from '../../src/package/program.js';
import type { PackageContents } from '../../src/package/write.js';

/** Small packages made by hand, around a real model. */

export const MODEL_FILE = fileURLToPath(new URL('../../test/models/llama/model.onnx', import.meta.url));

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export const SEGMENT_BYTES = Buffer.from('not run by these tests');
export const SEGMENT_FILE = `segments/${sha256(SEGMENT_BYTES)}.onnx`;

/** What `makeProgram` needs of an instruction: which buffers it reads and writes. */
export interface Step {
  readonly reads: readonly number[];
  readonly writes: readonly number[];
}

export interface ProgramShape {
  readonly name?: string;
  readonly buffers: readonly Pick<BufferInfo, 'type' | 'kind'>[];
  readonly steps: readonly Step[];
}

/** A valid program of `run` instructions, each with a segment of its own shape; lifetimes follow from the steps. */
export function makeProgram({ name = 'train', buffers, steps }: ProgramShape): Program {
  const arities = [...new Set(steps.map(({ reads, writes }) => `${reads.length},${writes.length}`))];
  const uses = (b: number): number[] =>
    steps.flatMap(({ reads, writes }, i) => (reads.includes(b) || writes.includes(b) ? [i] : []));
  const named = (kind: BufferInfo['kind']): number[] =>
    buffers.flatMap((buffer, i) => (buffer.kind === kind ? [i] : []));
  return {
    version: 1,
    name,
    buffers: buffers.map((buffer, i) => ({ ...buffer, first: uses(i)[0] ?? 0, last: uses(i).at(-1) ?? 0 })),
    inputs: named('input').map((buffer) => ({ name: `in${buffer}`, role: 'data', buffer })),
    outputs: named('output').map((buffer) => ({ name: `out${buffer}`, buffer })),
    segments: arities.map((arity) => {
      const [inputs, outputs] = arity.split(',').map(Number) as [number, number];
      return {
        file: SEGMENT_FILE,
        inputs: Array.from({ length: inputs }, (_, i) => `x${i}`),
        outputs: Array.from({ length: outputs }, (_, i) => `y${i}`),
        sizes: ['S@sp'],
        accumulates: [],
        temporaries: [['f32[S@sp, 8]', 'f32[S@sp]'], ['f32[16]']],
      };
    }),
    kernels: [],
    instructions: steps.map(({ reads, writes }): Instruction => ({
      kind: 'run',
      segment: arities.indexOf(`${reads.length},${writes.length}`),
      inputs: [...reads],
      outputs: [...writes],
    })),
    labels: steps.map((_, i) => `run of 1 op (node_${i})`),
  };
}

/** in0 → b1 → b2 (b1 still read later) → out3, through a collective, attention and a tiled body. */
export function everyKind(name = 'train'): Program {
  const base = makeProgram({
    name,
    buffers: [
      { type: 'i32[S@sp]', kind: 'input' },
      { type: 'f32[S@sp, 4, 8]', kind: 'arena' },
      { type: 'f32[S, 4@sp, 8]', kind: 'arena' },
      { type: 'i32[S]', kind: 'input' },
      { type: 'f32[S, 4@sp, 8]', kind: 'arena' },
      { type: 'f32[S, 4@sp]', kind: 'arena' },
      { type: 'f32[S@sp, 4, 8]', kind: 'arena' },
      { type: 'f32[]', kind: 'output' },
      { type: 'f32[64]', kind: 'input' },
      { type: 'f32[64@world]', kind: 'output' },
    ],
    steps: [
      { reads: [0], writes: [1] },
      { reads: [1], writes: [2] },
      { reads: [2, 3], writes: [4, 5] },
      { reads: [4], writes: [6] },
      { reads: [6, 8], writes: [7] },
      { reads: [8], writes: [9] },
    ],
  });
  const tiledSegment = {
    ...base.segments[0]!,
    inputs: ['x0', 'x1', 'acc_y0'],
    outputs: ['y0', 'y1'],
    sizes: ['T'],
    accumulates: ['y0'],
    temporaries: [['f32[T, 100]', 'f32[T]']],
  };
  const kernel: Program['kernels'][number] = {
    file: SEGMENT_FILE,
    inputs: ['q', 'k', 'v', 'offset'],
    outputs: ['out', 'lse'],
    temporaries: [['f32[Hl, Tq, Tk]', 'f32[Hl, Tq, Tk]'], ['f32[Hkvl, Tk, 8]']],
    op: 'attention',
    mask: 'causal',
    heads: 4,
    kvHeads: 4,
    headSize: 8,
    valueSize: 8,
  };
  return {
    ...base,
    segments: [base.segments[0]!, tiledSegment],
    kernels: [kernel],
    instructions: [
      base.instructions[0]!,
      { kind: 'collective', op: 'all_to_all', axis: 'sp', from: 1, to: 0, operands: [1], results: [2] },
      { kind: 'attention', kernel: 0, operands: [2, 2, 2, 3], results: [4, 5] },
      { kind: 'collective', op: 'all_to_all', axis: 'sp', from: 0, to: 1, operands: [4], results: [6] },
      {
        kind: 'tiled',
        segment: 1,
        tile: 32,
        operands: [6, 8],
        sliced: [true, false],
        results: [
          { buffer: 7, how: 'sum', type: 'f32[]' },
          { buffer: -1, how: 'stream', type: 'f32[T, 50]' },
        ],
      },
      { kind: 'shard', axis: 'world', operand: 8, result: 9 },
    ],
  };
}

/** Parameters of the model, where they lie in it. */
export function modelParameters(): ParameterEntry[] {
  return [...readOnnxModel(MODEL_FILE, { weights: true }).initializers.values()].flatMap((init) =>
    init.location.kind === 'inline' && init.dtype === 'f32'
      ? [
          {
            name: init.name,
            shape: [...init.dims],
            trainable: init.dims.length > 1,
            reason: 'a matrix',
            weight: {
              kind: 'model' as const,
              offset: init.location.offset,
              bytes: init.location.length,
              dtype: init.dtype,
            },
          },
        ]
      : [],
  );
}

export function makeContents(changes: Partial<Omit<Manifest, 'files'>> = {}): PackageContents {
  const model = readFileSync(MODEL_FILE);
  return {
    manifest: {
      format: 'ithaca-package',
      version: 1,
      ithaca: '0.1.0',
      name: 'llama',
      source: { file: 'llama.onnx', sha256: sha256(model), bytes: model.length },
      vocabulary: 96,
      loss: { kind: 'next-token', classes: 96 },
      maxDegree: 4,
      parameters: modelParameters(),
      passes: [{ name: 'ulysses', options: {} }],
      optimizer: { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1, zeroStage: 0 },
      recognized: { attention: 2 },
      notes: [],
      programs: ['train', 'eval'],
      ...changes,
    },
    programs: new Map([
      ['train', { program: everyKind('train'), text: 'graph @train () {\n}\n' }],
      ['eval', { program: everyKind('eval'), text: 'graph @eval () {\n}\n' }],
    ]),
    segments: new Map([[SEGMENT_FILE, SEGMENT_BYTES]]),
    sourceModel: MODEL_FILE,
    cost: { flops: 1 },
    report: '<!doctype html>\n',
    trace: { version: 1, locs: [], nodes: [], pipelines: [] },
  };
}
