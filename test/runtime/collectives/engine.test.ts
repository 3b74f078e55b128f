import { describe, expect, it } from 'vitest';
import { copyElements, viewMemory } from '../../../src/runtime/collectives/copy.js';
import { evenShards, sumFloat64, type Block } from '../../../src/runtime/collectives/engine.js';
import { localCollectives } from '../../../src/runtime/collectives/local.js';
import { createMesh } from '../../../src/runtime/collectives/mesh.js';

const alone = { ranks: [0] };

describe('a group of one', () => {
  it('copies locally and sends nothing', () => {
    const collectives = localCollectives(createMesh({ world: 2 }), 0);
    const sum = sumFloat64(collectives, alone, Float64Array.of(0.1, 2 ** 60));
    expect([...sum]).toEqual([0.1, 2 ** 60]);
    const dst = new Float32Array(3);
    collectives.reduceScatter(alone, [{ src: Float32Array.of(1, 2, 3), dst, counts: [3] }]);
    expect([...dst]).toEqual([1, 2, 3]);
    collectives.allReduce(alone, [dst]);
    collectives.barrier(alone);
    expect(collectives.counters).toMatchObject({ exchanges: 0, bytesSent: 0, waitMs: 0 });
  });

  it('refuses blocks outside their buffer, counts that do not add up and groups without the rank', () => {
    const collectives = localCollectives(createMesh({ world: 2 }), 0);
    const src = new Float32Array(10);
    const send = (block: Block): void =>
      collectives.allToAll(alone, [{ src, dst: src, sends: [[block]], recvs: [[block]], accumulate: false }]);
    expect(() => send({ offset: 4, rows: 2, rowStride: 4, cols: 3 })).toThrow(
      'does not fit a buffer of 10 elements',
    );
    expect(() => send({ offset: -1, rows: 1, rowStride: 4, cols: 3 })).toThrow('does not fit');
    expect(() => collectives.allGather(alone, [{ src, dst: src, counts: [9] }])).toThrow(
      'shards of [9] elements',
    );
    expect(() => collectives.barrier({ ranks: [1] })).toThrow('on the group [1]');
    expect(() => collectives.barrier({ ranks: [1, 0] })).toThrow('on the group [1, 0]');
    expect(() => collectives.barrier({ ranks: [0, 2] })).toThrow('on the group [0, 2]');
  });
});

describe('copies', () => {
  it('keep the bits of integers and NaNs in runs of any length and alignment', () => {
    const patterns = [-1, -100, 0x7fa00001, 0x7f800001, 0x7ff00000, -0x00100000, 1, 0];
    for (let round = 0; round < 200; round++) {
      for (const make of [Float32Array, Int32Array]) {
        const words = Int32Array.from({ length: 80 }, (_, k) => patterns[(k * 7 + round) % 8] ?? 0);
        const dst = viewMemory(new make(100));
        copyElements(viewMemory(new make(words.buffer)), round % 3, dst, round % 5, 40 + (round % 37));
        const count = 40 + (round % 37);
        expect([...dst.words.subarray(round % 5, (round % 5) + count)]).toEqual([
          ...words.subarray(round % 3, (round % 3) + count),
        ]);
      }
    }
  });
});

describe('even shards', () => {
  it('give the remainder to the first', () => {
    expect(evenShards(10, 4)).toEqual([3, 3, 2, 2]);
    expect(evenShards(2, 3)).toEqual([1, 1, 0]);
    expect(evenShards(0, 2)).toEqual([0, 0]);
  });
});
