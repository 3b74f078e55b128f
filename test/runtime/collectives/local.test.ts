import { afterEach, describe, expect, it } from 'vitest';
import { RankPool } from '../../../src/runtime/ranks/pool.js';
import { expected, type Call, type Outcome } from './calls.js';
import { randomCalls, randomGroups, seeded } from './random-calls.js';

const entry = new URL('./rank.ts', import.meta.url);
let pool: RankPool<readonly Call[], readonly Outcome[]> | undefined;

afterEach(async () => {
  await pool?.close();
  expect(pool?.alive ?? 0).toBe(0);
});

async function start(world: number, outboxBytes?: number): Promise<NonNullable<typeof pool>> {
  pool = await RankPool.start({ world, entry, outboxBytes });
  return pool;
}

const bits = (array: Outcome['results'][number] | undefined): number[] =>
  array === undefined ? [] : [...new Int32Array(array.buffer, array.byteOffset, array.length)];

/** Runs the steps on all ranks at their own pace and compares every destination bit for bit. */
async function check(
  world: number,
  steps: readonly (readonly Call[])[][],
  outboxBytes?: number,
): Promise<void> {
  const ranks = await start(world, outboxBytes);
  const mine = (rank: number): Call[] =>
    steps.flatMap((groups) =>
      groups.flatMap((calls) => calls.filter((_, i) => calls[i]?.group.ranks[i] === rank)),
    );
  const wanted = Array.from({ length: world }, (): Outcome[] => []);
  for (const calls of steps.flat()) {
    expected(calls).forEach((outcome, i) => wanted[calls[0]?.group.ranks[i] ?? -1]?.push(outcome));
  }
  const outcomes = await ranks.broadcast(mine);
  outcomes.forEach((got, rank) => {
    const where = (step: number): string => `rank ${rank}, call ${step}: ${mine(rank)[step]?.kind}`;
    expect(got.length).toBe(wanted[rank]?.length);
    got.forEach((outcome, step) => {
      const want = wanted[rank]?.[step];
      outcome.results.forEach((result, k) =>
        expect(bits(result), where(step)).toEqual(bits(want?.results[k])),
      );
      expect(outcome.bytesSent, where(step)).toBe(want?.bytesSent);
    });
  });
}

describe('local collectives equal a computation in one place', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('for random calls in random groups of %i ranks', async (world) => {
    const random = seeded(world);
    const steps = Array.from({ length: 30 }, () =>
      randomGroups(random, world).map((group) => randomCalls(random, group, 40)),
    );
    await check(world, steps);
  });

  it.each([2, 3, 5])('when payloads exceed the outbox, on %i ranks', async (world) => {
    const random = seeded(100 + world);
    const steps = Array.from({ length: 25 }, () =>
      randomGroups(random, world).map((group) => randomCalls(random, group, 300)),
    );
    await check(world, steps, 32 * world + 16 * random(world * 4));
  });

  it('with hundreds of buffers in one all-reduce', async () => {
    const random = seeded(7);
    const group = { ranks: [0, 1, 2] };
    const lengths = Array.from({ length: 300 }, () => random(50));
    const calls = group.ranks.map((): Call => ({
      kind: 'all-reduce',
      group,
      parts: lengths.map((length) => ({ dst: Float32Array.from({ length }, () => random(1000) / 7) })),
    }));
    await check(3, [[calls]]);
  });

  it('keeping the bits of integers and of NaN payloads', async () => {
    const group = { ranks: [0, 1] };
    const odd = (rank: number): Int32Array => Int32Array.of(0x7fa00001 + rank, -1, 0x7f800001, 5);
    const calls = group.ranks.map((rank): Call => ({
      kind: 'all-gather',
      group,
      parts: [{ src: odd(rank), dst: new Int32Array(8), counts: [4, 4] }],
    }));
    await check(2, [[calls]]);
  });
});
