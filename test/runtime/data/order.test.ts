import { assert, array, integer, maxSafeInteger, property } from 'fast-check';
import { describe, expect, test } from 'vitest';
import { UserError } from '../../../src/errors.js';
import { createCorpusBuilder } from '../../../src/runtime/data/corpus.js';
import type { Corpus, Document } from '../../../src/runtime/data/document.js';
import { createDataOrder, permutationOf } from '../../../src/runtime/data/order.js';
import { packDocuments } from '../../../src/runtime/data/pack.js';
import { createRandom, randomBelow, xoshiro128 } from '../../../src/runtime/data/random.js';
import { spreadDocuments } from '../../../src/runtime/data/spread.js';

/** Documents of the given lengths; the ids of document i are all i. */
function corpusOf(lengths: readonly number[]): Corpus {
  const builder = createCorpusBuilder();
  for (const [index, length] of lengths.entries())
    builder.add(
      'f.jsonl',
      index + 1,
      Array.from({ length }, () => index),
    );
  return builder.finish();
}

const documentsOf = (lengths: readonly number[]): Document[] => {
  const corpus = corpusOf(lengths);
  return lengths.map((_, index) => corpus.document(index));
};
const numbersOf = (documents: readonly Document[]) => documents.map(({ ids }) => ids[0]!);

describe('random numbers', () => {
  test('follow the published generator', () => {
    const random = xoshiro128(1, 2, 3, 4);
    const published = [11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849];
    expect(published.map(() => random())).toEqual(published);
  });

  test('are these, on every machine', () => {
    const random = createRandom(17, 0);
    expect([random(), random(), random(), random()]).toMatchInlineSnapshot(`
      [
        2215022442,
        1225966756,
        3753494597,
        469350531,
      ]
    `);
  });

  test('differ with every part of the seed', () => {
    const first = (...seed: number[]) => createRandom(...seed)();
    const seeds = [[0], [1], [0, 0], [0, 1], [1, 0], [2 ** 32], [2 ** 33], [-1]];
    expect(new Set(seeds.map((seed) => first(...seed))).size).toBe(seeds.length);
  });

  test('are uniform', () => {
    const random = createRandom(3);
    const counts = Array.from({ length: 10 }, () => 0);
    for (let draw = 0; draw < 100_000; draw++) counts[randomBelow(random, 10)]!++;
    const chiSquared = counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0);
    expect(chiSquared).toBeLessThan(27.9); // 0.1 % of fair generators exceed it
  });

  test('a shuffle is a permutation, another each epoch', () => {
    assert(
      property(integer({ min: 1, max: 300 }), maxSafeInteger(), (count, seed) => {
        const order = permutationOf(count, seed, 0);
        expect([...order].sort((a, b) => a - b)).toEqual([...Array(count).keys()]);
        expect(permutationOf(count, seed, 0)).toEqual(order);
        if (count > 20) expect(permutationOf(count, seed, 1)).not.toEqual(order);
      }),
      { numRuns: 50, seed: 1 },
    );
  });
});

describe('createDataOrder', () => {
  test('every document comes once an epoch, across batches of any size', () => {
    const corpus = corpusOf([2, 2, 2, 2, 2, 2, 2]);
    const order = createDataOrder(corpus, 5);
    const seen: number[] = [];
    for (let batch = 0; batch < 7; batch++) seen.push(...numbersOf(order.nextBatch({ documents: 3 })));
    expect(order.position).toEqual({ epoch: 3, index: 0 });
    for (let epoch = 0; epoch < 3; epoch++) {
      expect(seen.slice(epoch * 7, epoch * 7 + 7).sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    }
  });

  test('a token budget is filled and not exceeded, except by one document alone', () => {
    const corpus = corpusOf([3, 9, 1, 4, 1, 5, 2, 6, 30]);
    const order = createDataOrder(corpus, 1);
    let carried = 0;
    for (let batch = 0; batch < 40; batch++) {
      const documents = order.nextBatch({ tokens: 10 });
      const tokens = documents.reduce((sum, { ids }) => sum + ids.length, 0);
      expect(documents.length).toBeGreaterThan(0);
      if (documents.length > 1) expect(tokens).toBeLessThanOrEqual(10);
      if (batch > 0) expect(carried + documents[0]!.ids.length).toBeGreaterThan(10);
      carried = tokens;
    }
  });

  test('both budgets: whichever is reached first', () => {
    const order = createDataOrder(corpusOf([4, 4, 4, 4, 4, 4, 4, 4, 4, 4]), 1);
    expect(order.nextBatch({ tokens: 100, documents: 3 })).toHaveLength(3);
    expect(order.nextBatch({ tokens: 8, documents: 3 })).toHaveLength(2);
  });

  test('goes on from a saved position as if it had never stopped', () => {
    assert(
      property(
        array(integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 12 }),
        integer(),
        (lengths, seed) => {
          const corpus = corpusOf(lengths);
          const order = createDataOrder(corpus, seed);
          for (let batch = 0; batch < 4; batch++) order.nextBatch({ tokens: 11 });
          const resumed = createDataOrder(corpus, seed, JSON.parse(JSON.stringify(order.position)));
          for (let batch = 0; batch < 4; batch++) {
            expect(numbersOf(resumed.nextBatch({ tokens: 11 }))).toEqual(
              numbersOf(order.nextBatch({ tokens: 11 })),
            );
          }
          expect(resumed.position).toEqual(order.position);
        },
      ),
      { numRuns: 50, seed: 1 },
    );
  });

  test('refuses a position outside the corpus and a batch without budget', () => {
    const corpus = corpusOf([1, 1]);
    expect(() => createDataOrder(corpus, 0, { epoch: 0, index: 2 })).toThrow(/position 2 of 2/);
    expect(() => createDataOrder(corpus, 0, { epoch: -1, index: 0 })).toThrow(/epoch -1/);
    expect(() => createDataOrder(corpus, 0).nextBatch({})).toThrow(/without budget/);
  });
});

test('packing restarts positions and keeps each document its labels', () => {
  const builder = createCorpusBuilder();
  builder.add('f', 1, [5, 6, 7]);
  builder.add('f', 2, [8]);
  builder.add('f', 3, [9, 10], [-100, 3]);
  const corpus = builder.finish();
  expect(packDocuments([0, 1, 2].map((index) => corpus.document(index)))).toEqual({
    tokens: Int32Array.of(5, 6, 7, 8, 9, 10),
    positions: Int32Array.of(0, 1, 2, 0, 0, 1),
    documents: Int32Array.of(0, 0, 0, 1, 2, 2),
    labels: Int32Array.of(6, 7, -100, -100, 3, -100),
    token_types: Int32Array.of(0, 0, 0, 0, 0, 0),
    lengths: Int32Array.of(3, 3, 3, 1, 2, 2),
  });
  expect(packDocuments([]).tokens).toEqual(new Int32Array(0));
});

describe('spreadDocuments', () => {
  const lengthsOf = (spread: ReturnType<typeof spreadDocuments>) =>
    spread.map((lanes) => lanes.map((lane) => lane.map(({ ids }) => ids.length)));

  test('longest first, lanes of like cost together, order within a lane kept', () => {
    const documents = documentsOf([1, 8, 2, 5, 4]);
    expect(lengthsOf(spreadDocuments(documents, 2))).toEqual([
      [
        [8, 2],
        [1, 5, 4],
      ],
    ]);
    const limited = spreadDocuments(documents, 2, { maxTokensPerLane: 8 });
    expect(lengthsOf(limited)).toEqual([
      [[8], [5]],
      [[4], [1, 2]],
    ]);
    expect(spreadDocuments(documents, 2, { maxTokensPerLane: 8 })).toEqual(limited);
  });

  test('counts the square of a length', () => {
    const lengths = [100, 30, 30, 30, 30];
    const even = lengthsOf(spreadDocuments(documentsOf(lengths), 2, { balancedLength: 1e9 }));
    const steep = lengthsOf(spreadDocuments(documentsOf(lengths), 2, { balancedLength: 1 }));
    expect(even).toEqual([[[30, 30, 30, 30], [100]]]);
    expect(steep).toEqual([[[100], [30, 30, 30, 30]]]);
  });

  test('a lane may be empty, a batch too', () => {
    expect(lengthsOf(spreadDocuments(documentsOf([3]), 3))).toEqual([[[3], [], []]]);
    expect(spreadDocuments([], 3)).toEqual([]);
  });

  test('a document longer than a lane is refused by name', () => {
    const spread = () => spreadDocuments(documentsOf([3, 12]), 2, { maxTokensPerLane: 11 });
    expect(spread).toThrow(UserError);
    expect(spread).toThrow(/f\.jsonl:2: the document has 12 tokens, a group has room for 11/);
  });

  test('every document once, every lane within its limit, no micro-batch empty', () => {
    const lengths = array(integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 40 });
    assert(
      property(
        lengths,
        integer({ min: 1, max: 5 }),
        integer({ min: 50, max: 120 }),
        (sizes, lanes, limit) => {
          const spread = spreadDocuments(documentsOf(sizes), lanes, { maxTokensPerLane: limit });
          expect(numbersOf(spread.flat(2)).sort((a, b) => a - b)).toEqual([...sizes.keys()]);
          for (const microBatch of spread) {
            expect(microBatch).toHaveLength(lanes);
            expect(microBatch.flat().length).toBeGreaterThan(0);
            for (const lane of microBatch) {
              expect(lane.reduce((sum, { ids }) => sum + ids.length, 0)).toBeLessThanOrEqual(limit);
              expect(numbersOf(lane)).toEqual(numbersOf(lane).toSorted((a, b) => a - b));
            }
          }
        },
      ),
      { numRuns: 200, seed: 1 },
    );
  });
});
