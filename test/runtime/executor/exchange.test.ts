import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { emit } from '../../../src/ir/build.js';
import { makeInput, type Graph } from '../../../src/ir/graph.js';
import { interpret } from '../../../src/ir/interpret.js';
import { shardTensor } from '../../../src/ir/mesh.js';
import { tensor } from '../../../src/ir/ops/define.js';
import { localShape } from '../../../src/ir/placement.js';
import { parseType } from '../../../src/ir/type.js';
import type { AllToAllPart, Block } from '../../../src/runtime/collectives/engine.js';
import { allToAllPart, boxBlocks } from '../../../src/runtime/executor/exchange.js';
import { meshOfLanes, wholeShape } from '../../support/mesh.js';

/** Elements of blocks, in the order in which they travel. */
const indicesOf = (blocks: readonly Block[]): number[] =>
  blocks.flatMap(({ offset, rows, rowStride, cols }) =>
    Array.from({ length: rows * cols }, (_, i) => offset + Math.floor(i / cols) * rowStride + (i % cols)),
  );

/** What an engine does, in a line: everyone's payloads, in group order. */
function deliver(parts: readonly AllToAllPart[]): void {
  for (const part of parts) if (part.accumulate) part.dst.fill(0);
  parts.forEach((sender, s) =>
    parts.forEach((receiver, r) => {
      const [from, to] = [indicesOf(sender.sends[r]!), indicesOf(receiver.recvs[s]!)];
      expect(from.length).toBe(to.length);
      from.forEach((at, i) => {
        const value = sender.src[at]! + (receiver.accumulate ? receiver.dst[to[i]!]! : 0);
        receiver.dst[to[i]!] = value;
      });
    }),
  );
}

describe('all-to-alls', () => {
  it.each([
    // operand type, dims traded, query heads
    ['f32[S@sp, 6, 2]', 0, 1, 6],
    ['f32[S@sp, 2, 3]', 0, 1, 6],
    ['f32[S, 6@sp, 2]', 1, 0, 6],
    ['f32[S, 6@sp]', 1, 0, 6],
    ['f32[S, 2@sp(6), 2]', 1, 0, 6],
    ['f32[S, 2@sp(6), 2]{U:sp}', 1, 0, 6],
    ['f32[S, 3@sp(6), 2]{U:sp}', 1, 0, 6],
    ['f32[2, S@sp, 3, 6, 2]', 1, 3, 6],
  ])('of %s from dim %i to dim %i carry what the interpreter says', (text, from, to, heads) => {
    const type = parseType(text);
    const input = makeInput('x', 'data', type);
    const [result] = emit('all_to_all', [input], { from, to, heads });
    const graph: Graph = {
      name: 'exchange',
      axes: ['sp', 'world'],
      inputs: [input],
      outputs: [{ name: 'y', value: result! }],
    };
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 6 }), fc.integer({ min: 0, max: 9 }), (degree, tokens) => {
        const mesh = meshOfLanes([{ degree, tokens }]);
        const size = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);
        const shape = wholeShape(type, tokens);
        const whole = { shape, data: Float64Array.from({ length: size(shape) }, (_, i) => i) };
        const held = mesh.ranks.map((rank, r) => {
          if (type.pending === undefined) return shardTensor(whole, type, rank);
          const local = localShape(type, rank);
          return tensor(
            local,
            Array.from({ length: size(local) }, (_, i) => ((i + 5) * (r + 3)) % 101),
          );
        });
        const outputs = interpret(graph, mesh, (_, rank) => held[rank]!).get('y')!;
        const parts = mesh.ranks.map((rank, r) => {
          const target = localShape(result!.type, rank);
          return allToAllPart(
            { type, source: held[r]!.shape, target, arrival: result!.type },
            { from, to },
            rank.sp,
            Float32Array.from(held[r]!.data),
            new Float32Array(size(target)).fill(NaN),
          );
        });
        deliver(parts);
        parts.forEach(({ dst }, r) => expect(Array.from(dst)).toEqual(Array.from(outputs[r]!.data)));
      }),
      { numRuns: 40 },
    );
  });

  it('cut boxes out of row-major tensors in order', () => {
    const blocks = boxBlocks(
      [2, 3, 2, 4],
      [
        [3, { start: 1, end: 3 }],
        [1, { start: 1, end: 3 }],
      ],
    );
    const expected = [0, 1].flatMap((a) =>
      [1, 2].flatMap((b) => [0, 1].flatMap((c) => [1, 2].map((d) => ((a * 3 + b) * 2 + c) * 4 + d))),
    );
    expect(indicesOf(blocks)).toEqual(expected);
    expect(boxBlocks([0, 3], [[1, { start: 0, end: 2 }]])).toEqual([]);
  });
});
