import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { Value } from '../../src/ir/graph.js';
import type { Tensor as Reference } from '../../src/ir/op.js';
import { localShape, localSize, type RankBinding } from '../../src/ir/placement.js';
import { parseType, type DType } from '../../src/ir/type.js';
import type { LoweredSegment } from '../../src/passes/emit/ort/lowered.js';

/** A rank of a group of `degree` ranks that hold `tokens` tokens. */
export const rankOf = (degree: number, index: number, tokens: number): RankBinding => ({
  sp: { index, degree },
  world: { index, degree },
  symbols: new Map([['S', tokens]]),
});

export const createSession = (bytes: Uint8Array, threads = 1): Promise<InferenceSession> =>
  InferenceSession.create(bytes, { intraOpNumThreads: threads, logSeverityLevel: 3 });

export function ortTensor(dtype: DType, { shape, data }: Reference): Tensor {
  if (dtype === 'f32') return new Tensor('float32', Float32Array.from(data), shape);
  if (dtype === 'i32') return new Tensor('int32', Int32Array.from(data), shape);
  return new Tensor('bool', Uint8Array.from(data), shape);
}

export const zerosOf = (dtype: DType, shape: readonly number[]): Tensor =>
  ortTensor(dtype, { shape, data: new Float64Array(shape.reduce((n, d) => n * d, 1)) });

export const dataOf = (value: Tensor): number[] => Array.from(value.data as Float32Array, Number);

/** The input `sizes`, as the runtime binds it. */
export const sizesFeed = (lowered: LoweredSegment, rank: RankBinding): Record<string, Tensor> =>
  lowered.sizes.length === 0
    ? {}
    : {
        sizes: new Tensor(
          'int64',
          BigInt64Array.from(lowered.sizes, (text) =>
            BigInt(localSize(parseType(`f32[${text}]`).dims[0]!, rank)),
          ),
          [lowered.sizes.length],
        ),
      };

/** Runs a segment on one rank, outputs written into tensors of their local shapes. */
export async function runSegment(
  lowered: LoweredSegment,
  outputs: readonly Value[],
  rank: RankBinding,
  inputs: readonly Tensor[],
): Promise<number[][]> {
  const session = await createSession(lowered.bytes);
  const feeds: Record<string, Tensor> = sizesFeed(lowered, rank);
  lowered.inputs.forEach((name, i) => (feeds[name] = inputs[i]!));
  const fetches: Record<string, Tensor> = {};
  outputs.forEach((value, i) => {
    fetches[lowered.outputs[i]!] = zerosOf(value.type.dtype, localShape(value.type, rank));
  });
  await session.run(feeds, fetches);
  await session.release();
  return lowered.outputs.map((name) => dataOf(fetches[name]!));
}

/** A repeatable source of numbers in [0, 1) (mulberry32). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
