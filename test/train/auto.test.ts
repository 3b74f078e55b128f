import { appendFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Package } from '../../src/package/read.js';
import { loadCorpus } from '../../src/runtime/data/load.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { workOf } from '../../src/runtime/planner/work.js';
import { autoSpreader } from '../../src/train/auto.js';
import type { TrainFlags } from '../../src/train/settings.js';
import { compiledModel, packageFolder } from '../runtime/session/packages.js';
import { gradientError } from '../support/tiny.js';
import {
  checkpointBytes,
  copyOf,
  tailedLengths,
  trainNew,
  trainOn,
  writeDocuments,
  type Trained,
} from './runs.js';

const { folder, remove } = packageFolder();
afterAll(remove);
const at = (name: string): string => path.join(folder, name);
const flags: TrainFlags = {
  data: ['tail.jsonl'],
  ranks: 3,
  sp: 'auto',
  steps: 4,
  batchTokens: 700,
  saveEvery: 2,
  keep: 3,
  lr: 1e-3,
};

let pkg: Package;
let whole: Trained;

beforeAll(async () => {
  pkg = await compiledModel(folder, 'llama');
  writeDocuments(at('tail.jsonl'), tailedLengths(60, 400));
  whole = await trainNew(pkg, at('whole'), flags);
});

describe('groups chosen for every step', () => {
  it('of 8 ranks give the gradients and losses of one rank, degrees being any', async () => {
    const corpus = await loadCorpus([at('tail.jsonl')], { vocabulary: 256 });
    const documents = Array.from({ length: corpus.count }, (_, i) => corpus.document(i));
    const one = await TrainingSession.open(pkg, { ranks: 1 });
    const eight = await TrainingSession.open(pkg, { ranks: 8 });
    const degrees = new Set<number>();
    try {
      for (const maxTokensPerGroup of [undefined, 240]) {
        const spreader = await autoSpreader(pkg, {
          ranks: 8,
          seed: 0,
          maxTokensPerGroup,
          onFallback: (reason) => expect.unreachable(reason),
        });
        for (const [step, given] of [documents.slice(0, 20), documents.slice(20, 33)].entries()) {
          const batch = given.filter(({ ids }) => ids.length <= (maxTokensPerGroup ?? Infinity));
          const { microBatches } = await spreader.plan(batch);
          for (const lane of microBatches.flatMap(({ lanes }) => lanes))
            if (lane.documents.length > 0) degrees.add(lane.ranks.length);
          const alone = [{ lanes: [{ ranks: [0], documents: batch }] }];
          const [expected, found] = [await one.gradients(alone), await eight.gradients(microBatches)];
          const { worst, error } = gradientError(expected.gradients, found.gradients);
          expect(error, worst).toBeLessThan(1e-5);
          const losses = [
            (await one.step(alone, { lr: 1e-3, step })).loss,
            (await eight.step(microBatches, { lr: 1e-3, step })).loss,
          ] as const;
          expect(Math.abs(losses[0] - losses[1])).toBeLessThan(1e-5);
        }
        await spreader.close();
      }
    } finally {
      await one.close();
      await eight.close();
    }
    // Uneven shares of the 8 heads too.
    expect([...degrees].filter((degree) => 8 % degree !== 0)).not.toEqual([]);
    expect(degrees.size).toBeGreaterThan(2);
  });

  it('are recorded, with what was predicted and measured', () => {
    for (const { micro_batches, plan, tokens, groups, predicted_ms, plan_wait_ms, ms } of whole.metrics) {
      expect(plan).toMatchObject({ solver: 'ithaca', cut_short: false, replayed: false });
      expect(plan!.bound_ms).toBeLessThanOrEqual(plan!.objective_ms!);
      expect(predicted_ms).toBeLessThanOrEqual(plan!.objective_ms! + 0.01);
      expect([plan!.gap! >= 0, plan_wait_ms >= 0, ms > 0]).toEqual([true, true, true]);
      let sum = 0;
      const seen = new Set<number>();
      micro_batches.forEach((microBatch, m) => {
        const { groups: own } = microBatch;
        expect(own.flatMap(({ ranks }) => ranks)).toEqual([0, 1, 2]);
        expect(own.map((group) => group.tokens)).toEqual(groups[m]);
        for (const group of own) {
          sum += group.tokens;
          group.documents.forEach((index) => seen.add(index));
          expect(group.degree).toBe(group.ranks.length);
          expect(group.peak_bytes).toBeGreaterThan(0);
          expect(group.predicted_ms).toBeLessThanOrEqual(microBatch.predicted_ms);
        }
        expect(microBatch.ms).toBeGreaterThan(0);
        if (process.platform === 'linux') expect(microBatch.cpu_ms).toBeLessThanOrEqual(microBatch.ms + 5);
      });
      expect([sum, seen.size]).toEqual([tokens, Math.max(...seen) + 1]);
    }
    const { prediction } = whole.result;
    expect(prediction!.steps).toBe(3);
    expect(prediction!.median).toBeGreaterThanOrEqual(prediction!.least);
  });
});

describe('a run that goes on', () => {
  it('is the uninterrupted one, bit for bit, with the same plans', async () => {
    const copy = copyOf(at('whole'), at('resumed'), 2);
    const { metrics } = await trainOn(copy);
    expect(metrics.map(({ groups }) => groups)).toEqual(whole.metrics.map(({ groups }) => groups));
    expect(metrics.map(({ plan }) => plan!.replayed)).toEqual([false, false, true, true]);
    checkpointBytes(copy, 4).forEach((bytes, i) =>
      expect(bytes.equals(checkpointBytes(at('whole'), 4)[i]!)).toBe(true),
    );
  });

  it('repeats the recorded plan, whatever the planner would say; a wrong one is planned anew', async () => {
    const copy = copyOf(at('whole'), at('other'), 2);
    const [third, fourth] = structuredClone(whole.metrics.slice(2)) as [
      Trained['metrics'][0],
      Trained['metrics'][0],
    ];
    const all = third.micro_batches.flatMap(({ groups }) => groups.flatMap((group) => group.documents));
    const group = {
      ranks: [0, 1, 2],
      degree: 3,
      tokens: third.tokens,
      documents: all,
      predicted_ms: 1,
    };
    const lines = [
      ...whole.metrics.slice(0, 2),
      { ...third, micro_batches: [{ groups: [group], predicted_ms: 1, ms: 1 }] },
      // The same document twice.
      { ...fourth, micro_batches: [...fourth.micro_batches, ...fourth.micro_batches] },
    ];
    writeFileSync(
      path.join(copy, 'metrics.jsonl'),
      `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`,
    );
    appendFileSync(path.join(copy, 'metrics.jsonl'), '{"step": 5, "micro_b');
    const { metrics } = await trainOn(copy);
    expect(metrics).toHaveLength(4);
    expect(metrics.map(({ plan }) => plan!.replayed)).toEqual([false, false, true, false]);
    expect(metrics[2]!.groups).toEqual([[third.tokens]]);
    expect(metrics[3]!.groups).toEqual(whole.metrics[3]!.groups);
    expect(Math.abs(metrics[3]!.loss - whole.metrics[3]!.loss)).toBeLessThan(1e-5);
  });

  it('takes other ranks, with plans for them', async () => {
    const copy = copyOf(at('whole'), at('fewer'), 2);
    const { metrics } = await trainOn(copy, { ranks: 2 });
    expect(metrics[3]!.plan!.replayed).toBe(false);
    expect(metrics[3]!.micro_batches[0]!.groups.flatMap(({ ranks }) => ranks)).toEqual([0, 1]);
    expect(Math.abs(metrics[3]!.loss - whole.metrics[3]!.loss)).toBeLessThan(1e-4);
  });
});

describe('a planner', () => {
  it('that dies is replaced by plans of one degree', async () => {
    const fault = { how: 'exit', batch: 2 } as const;
    const { metrics, notes } = await trainNew(
      pkg,
      at('dies'),
      { ...flags, ranks: 2, saveEvery: 9 },
      { fault },
    );
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(/^the planner failed \(its thread ended, with exit code 3\): from here on/);
    expect(metrics.map(({ plan }) => plan!.solver)).toEqual(['ithaca', 'ithaca', 'adaptive', 'adaptive']);
    metrics.forEach(({ loss }, i) => expect(Math.abs(loss - whole.metrics[i]!.loss)).toBeLessThan(1e-5));
  });

  it('slower than the steps is named once, with the numbers', async () => {
    // Asked for when step 2 begins, so not while ranks start.
    const fault = { how: 'slow', batch: 6, ms: 3000 } as const;
    const slow = { ...flags, ranks: 2, steps: 8, batchTokens: 50, saveEvery: 99 };
    const { metrics, notes } = await trainNew(pkg, at('slow'), slow, { fault });
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(
      /^the planner is slower than the steps: step \d+ took \d+ ms, its plan \d+ ms, for which the ranks waited \d+ ms/,
    );
    expect(Math.max(...metrics.slice(1).map(({ plan_wait_ms: ms }) => ms))).toBeGreaterThan(100);
  });

  it('that is ahead does not move a stopped run’s place in the data', async () => {
    const stopped = await trainNew(pkg, at('stopped'), flags, { stopAfter: 1 });
    expect(stopped.result).toMatchObject({ step: 1, stopped: true });
    await trainOn(at('stopped'));
    checkpointBytes(at('stopped'), 4).forEach((bytes, i) =>
      expect(bytes.equals(checkpointBytes(at('whole'), 4)[i]!)).toBe(true),
    );
  });
});

describe('memory', () => {
  const limited = (gib: number, more: TrainFlags = {}): Promise<Trained> =>
    trainNew(pkg, at(`limited-${gib}-${more.sp ?? ''}`), {
      ...flags,
      steps: 2,
      batchTokens: 1200,
      memoryGibPerRank: gib,
      ...more,
    });

  it('is kept to by every group', async () => {
    const gib = 4e-3;
    const { metrics } = await limited(gib);
    for (const { micro_batches, peak_bytes } of metrics) {
      expect(micro_batches.length).toBeGreaterThan(1);
      expect(peak_bytes).toBeLessThanOrEqual(gib * 2 ** 30);
      for (const { groups } of micro_batches)
        for (const group of groups) expect(group.peak_bytes).toBeLessThanOrEqual(gib * 2 ** 30);
    }
  });

  it('that holds no document, or no token, is refused with the numbers before ranks start', async () => {
    await expect(limited(3.2e-3, { sp: 1 })).rejects.toMatchObject({
      message: expect.stringMatching(
        /tail\.jsonl:\d+: the document has 400 tokens, the largest group \(degree 1\) has room for \d+ with 0\.00320 GiB on each rank$/,
      ) as unknown,
      hint: expect.stringMatching(
        /^it needs --memory-per-rank 0\.00\d+, or cut documents: --long split --max-tokens-per-group \d+$/,
      ) as unknown,
    });
    await expect(limited(1e-4)).rejects.toThrow(
      /^model needs 0\.00\d+ GiB on a rank for a single token, ranks have 0\.000100$/,
    );
  });
});

describe('a package with several checkpointing policies', () => {
  it('runs more again where documents would not fit otherwise, with the gradients of one that keeps all', async () => {
    const several = await compiledModel(folder, 'llama', { checkpoint: ['none', 'layers'] });
    const corpus = await loadCorpus([at('tail.jsonl')], { vocabulary: 256 });
    const documents = Array.from({ length: corpus.count }, (_, i) => corpus.document(i));
    const longest = Math.max(...documents.map(({ ids }) => ids.length));
    // Room for the longest on all ranks, when layers are run again.
    const [kept, again] = ['train', 'train_layers'].map((name) =>
      workOf(several, 2, name).peakBytes(2, longest),
    );
    const spreader = await autoSpreader(several, {
      ranks: 2,
      seed: 0,
      memoryGibPerRank: (kept! + 3 * again!) / 4 / 2 ** 30,
      onFallback: (reason) => expect.unreachable(reason),
    });
    const [two, one] = [
      await TrainingSession.open(several, { ranks: 2 }),
      await TrainingSession.open(pkg, { ranks: 1 }),
    ];
    try {
      const { microBatches, predicted } = await spreader.plan(documents);
      const lanes = microBatches.flatMap((microBatch) => microBatch.lanes);
      const programs = new Set(lanes.map(({ program }) => program));
      expect(programs).toContain('train_layers');
      expect(predicted.ms).toBeGreaterThan(0);
      const expected = await one.gradients([{ lanes: [{ ranks: [0], documents }] }]);
      const found = await two.gradients(microBatches);
      const { worst, error } = gradientError(expected.gradients, found.gradients);
      expect(error, worst).toBeLessThan(1e-5);
    } finally {
      await spreader.close();
      await two.close();
      await one.close();
    }
  });
});
