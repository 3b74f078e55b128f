import { afterEach, describe, expect, it } from 'vitest';
import { RankFailure, RankPool } from '../../../src/runtime/ranks/pool.js';
import type { Disagreement, FaultKind, Order } from './rank.js';

const entry = new URL('./rank.ts', import.meta.url);
let pool: RankPool<Order, unknown> | undefined;

afterEach(async () => {
  await pool?.close();
  expect(pool?.alive ?? 0).toBe(0);
  pool = undefined;
});

async function start(world: number, idleGraceMs?: number): Promise<RankPool<Order, unknown>> {
  const labelOf = (step: number, rank: number): string => `step ${step} of rank ${rank}`;
  pool = await RankPool.start({ world, entry, data: { seed: 5 }, labelOf, idleGraceMs });
  return pool;
}

/** @returns how the promise failed and after how many milliseconds */
async function failureOf(promise: Promise<unknown>): Promise<{ failure: RankFailure; ms: number }> {
  const from = performance.now();
  const failure = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (!(failure instanceof RankFailure)) throw new Error(`expected a RankFailure, got ${String(failure)}`);
  return { failure, ms: performance.now() - from };
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('a rank pool', () => {
  it('answers requests in order, by rank', async () => {
    const ranks = await start(3);
    const base = { world: 3, data: { seed: 5 } };
    expect(await ranks.broadcast((rank) => ({ type: 'echo', value: 10 * rank }))).toEqual([
      { ...base, rank: 0, value: 0 },
      { ...base, rank: 1, value: 10 },
      { ...base, rank: 2, value: 20 },
    ]);
    const replies = await Promise.all([1, 2, 3].map((value) => ranks.request(1, { type: 'echo', value })));
    expect(replies).toEqual([1, 2, 3].map((value) => ({ ...base, rank: 1, value })));
    expect(await ranks.broadcast({ type: 'steps', steps: 20 })).toEqual([3, 3, 3]);
  });

  it('tells ranks of an interrupt', async () => {
    const ranks = await start(2);
    const replies = ranks.broadcast({ type: 'wait-for-interrupt' });
    ranks.interrupt();
    expect(await replies).toEqual(['interrupted', 'interrupted']);
    expect(await ranks.broadcast({ type: 'steps', steps: 3 })).toEqual([1, 1]);
  });

  it('refuses requests once closed, and rejects what is unanswered', async () => {
    const ranks = await start(2);
    const stuck = ranks.request(0, { type: 'steps', steps: 1 });
    const rejected = expect(stuck).rejects.toThrow('the rank pool is closed');
    await ranks.close();
    await rejected;
    await expect(ranks.request(0, { type: 'echo', value: 1 })).rejects.toThrow('the rank pool is closed');
  });

  it('fails to start when the entry is no rank', async () => {
    const started = RankPool.start({ world: 2, entry: new URL('../../../src/errors.ts', import.meta.url) });
    const { failure } = await failureOf(started);
    expect(failure.message).toMatch(
      /^rank \d failed: its thread ended, with exit code 0, before it was ready$/,
    );
  });
});

describe('a failing rank ends the run within a second', () => {
  const messages: Record<FaultKind, string> = {
    throw: 'boom',
    'user-error': 'token 9 is outside the vocabulary',
    exit: 'its thread ended, with exit code 7',
    uncaught: 'late boom',
    hang: 'its thread ended, with exit code 1',
  };
  const cases = (['throw', 'exit', 'uncaught', 'user-error'] as const).flatMap((how) =>
    [0, 1, 6].map((at) => ({ how, at, rank: (at + 1) % 3 })),
  );

  it.each(cases)('when rank $rank does $how at step $at', async ({ how, at, rank }) => {
    const ranks = await start(3);
    const { failure, ms } = await failureOf(
      ranks.broadcast({ type: 'steps', steps: 9, fault: { rank, at, how } }),
    );
    expect(failure.message).toBe(`rank ${rank} failed at step ${at} of rank ${rank}: ${messages[how]}`);
    expect(failure.hint).toBe(how === 'user-error' ? 'use the right tokenizer' : undefined);
    expect(ms).toBeLessThan(1000);
    await expect(ranks.request(0, { type: 'echo', value: 1 })).rejects.toBe(failure);
    const from = performance.now();
    await ranks.close();
    expect(performance.now() - from).toBeLessThan(1000);
  });

  it('when a rank that computes is terminated while the others wait for it', async () => {
    const ranks = await start(3);
    const run = failureOf(
      ranks.broadcast({ type: 'steps', steps: 9, fault: { rank: 2, at: 4, how: 'hang' } }),
    );
    await sleep(150);
    const from = performance.now();
    await ranks.terminate(2);
    const { failure } = await run;
    expect(failure.message).toBe(`rank 2 failed at step 4 of rank 2: ${messages.hang}`);
    expect(performance.now() - from).toBeLessThan(1000);
  });

  it('when a rank that waits is terminated', async () => {
    const ranks = await start(3);
    const run = failureOf(
      ranks.broadcast({ type: 'steps', steps: 9, fault: { rank: 2, at: 4, how: 'hang' } }),
    );
    await sleep(150);
    const from = performance.now();
    await ranks.terminate(0);
    expect((await run).failure.message).toBe(`rank 0 failed at step 4 of rank 0: ${messages.hang}`);
    await ranks.close();
    expect(performance.now() - from).toBeLessThan(1000);
  });

  it.each([0, 1, 2, 3, 5, 9])('when a rank is terminated %i ms into its exchanges', async (delay) => {
    const ranks = await start(3);
    const run = failureOf(ranks.broadcast({ type: 'steps', steps: 1e9 }));
    await sleep(delay);
    const from = performance.now();
    await ranks.terminate(1);
    const { failure } = await run;
    expect(failure.rank).toBe(1);
    expect(failure.message).toMatch(
      /^rank 1 failed( at step \d+ of rank 1)?: its thread ended, with exit code 1$/,
    );
    expect(performance.now() - from).toBeLessThan(1000);
  });

  it('but not before a rank is out of native code', async () => {
    const ranks = await start(2);
    const run = ranks.broadcast({ type: 'native', ms: 600 });
    await sleep(50);
    const from = performance.now();
    await ranks.terminate(1);
    expect(performance.now() - from).toBeGreaterThan(400);
    await Promise.allSettled([run]);
    expect(ranks.failure?.rank).toBe(1);
    await ranks.close();
  });

  it('when a rank dies idle', async () => {
    const ranks = await start(2);
    await ranks.broadcast({ type: 'steps', steps: 2 });
    await ranks.terminate(1);
    await sleep(20);
    const { failure } = await failureOf(ranks.broadcast({ type: 'steps', steps: 2 }));
    expect(failure.rank).toBe(1);
  });
});

describe('ranks that disagree', () => {
  const messages: Record<Disagreement, RegExp> = {
    kind: /^ranks \d and \d disagree: (?=.*is in barrier of ranks 0, 1, 2)(?=.*is in all-reduce of ranks 0, 1, 2)/,
    group:
      /^ranks \d and \d disagree: (?=.*is in all-reduce of ranks 0, 1, 2 )(?=.*is in (all-reduce of ranks 0, 1 |barrier))/,
    bytes:
      /^ranks \d and \d disagree: rank \d is in all-reduce of ranks 0, 1, 2 and sends rank \d \d+ bytes; rank/,
    parts: /^ranks \d and \d disagree: .*expects \d+ bytes from rank \d, in parts of other sizes$/,
    circle: /^ranks wait for each other: (?=.*rank 0 is in barrier of ranks 0, 1 and waits for rank 1)/,
    absent: /^rank [12] is in barrier of ranks 0, [12], but rank 0 has finished its work without joining it$/,
  };

  it.each(['kind', 'group', 'bytes', 'parts', 'circle'] as const)(
    'about %s all throw the same error',
    async (how) => {
      const ranks = await start(3);
      const replies = await ranks.broadcast({ type: 'disagree', how });
      expect(replies[0]).toMatch(messages[how]);
      expect(new Set(replies).size).toBe(1);
    },
  );

  it('because one has finished do not wait for ever', async () => {
    const ranks = await start(3, 300);
    const order: Order = { type: 'disagree', how: 'absent' };
    const echo: Order = { type: 'echo', value: 0 };
    const replies = await ranks.broadcast((rank) => (rank === 0 ? echo : order));
    expect(replies[1]).toMatch(messages.absent);
    expect(replies[2]).toBe(replies[1]);
  });
});
