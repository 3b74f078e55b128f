import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, type Attrs, type Graph } from '../../src/ir/graph.js';
import { TypeMismatch, type Tensor } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';
import { localHeadMap } from '../../src/ir/ops/attention-heads.js';
import { attendedPairs, pairsSymbol, visible } from '../../src/ir/ops/attention-mask.js';
import { followingRange, shardRange } from '../../src/ir/placement.js';
import { parseType } from '../../src/ir/type.js';
import { evaluateSharded, evaluateWhole, type Values } from '../support/mesh.js';
import { distance, randomOf, randomTensor } from '../support/random.js';

const MASKS: readonly Attrs[] = [
  { mask: 'causal', scale: 0.6 },
  { mask: 'full', scale: 0.6 },
  { mask: 'window', window: 3, scale: 0.6 },
];

/** Rows of the relative bias where the attributes have `before`. */
const OFFSETS = 5;

interface Heads {
  readonly heads: number;
  readonly kvHeads: number;
}

function attentionGraph({ heads, kvHeads }: Heads, attrs: Attrs): Graph {
  const kv = kvHeads === heads ? `${heads}@sp` : `${kvHeads}@sp(${heads})`;
  const inputs = [
    makeInput('q', 'data', parseType(`f32[S, ${heads}@sp, 3]`)),
    makeInput('k', 'data', parseType(`f32[S, ${kv}, 3]`)),
    makeInput('v', 'data', parseType(`f32[S, ${kv}, 2]`)),
    makeInput('documents', 'data', parseType('i32[S]')),
    ...(attrs['before'] === undefined
      ? []
      : [makeInput('bias', 'data', parseType(`f32[${OFFSETS}, ${heads}]`))]),
  ];
  const [out, lse] = builderAt(undefined)('attention', inputs, attrs);
  return {
    name: 'a',
    axes: ['sp'],
    inputs,
    outputs: [
      { name: 'out', value: out! },
      { name: 'lse', value: lse! },
    ],
  };
}

function randomValues(
  { heads, kvHeads }: Heads,
  lengths: readonly number[],
  seed: number,
): Map<string, Tensor> {
  const random = randomOf(seed);
  const documents = lengths.flatMap((n, d) => Array.from({ length: n }, () => d));
  const tokens = documents.length;
  return new Map([
    ['q', randomTensor(random, [tokens, heads, 3])],
    ['k', randomTensor(random, [tokens, kvHeads, 3])],
    ['v', randomTensor(random, [tokens, kvHeads, 2])],
    ['documents', tensor([tokens], documents)],
    ['bias', randomTensor(random, [OFFSETS, heads])],
  ]);
}

/** One step of the key at a time, as far as the bias goes. */
function biasOf(values: Values, { before }: Attrs, offset: number, head: number): number {
  if (before === undefined) return 0;
  const bias = values.get('bias')!;
  let row = before as number;
  for (let at = 0; at < offset; at++) if (row < OFFSETS - 1) row++;
  for (let at = 0; at > offset; at--) if (row > 0) row--;
  return bias.data[row * bias.shape[1]! + head]!;
}

/** Softmax attention spelled out: a dense masked score matrix per head, K/V heads repeated. */
function naive(values: Values, { heads, kvHeads }: Heads, attrs: Attrs): Tensor {
  const [q, k, v, documents] = ['q', 'k', 'v', 'documents'].map((name) => values.get(name)!) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const tokens = documents.data.length;
  const out = tensor([tokens, heads, 2]);
  for (let h = 0; h < heads; h++) {
    const shared = Math.floor(h / (heads / kvHeads));
    for (let i = 0; i < tokens; i++) {
      const weights = Array.from({ length: tokens }, (_, j) => {
        const back = i - j;
        const allowed =
          attrs['mask'] === 'full' ||
          (attrs['mask'] === 'causal' ? back >= 0 : back >= 0 && back < (attrs['window'] as number));
        if (!allowed || documents.data[i] !== documents.data[j]) return 0;
        let score = 0;
        for (let d = 0; d < 3; d++)
          score += q.data[(i * heads + h) * 3 + d]! * k.data[(j * kvHeads + shared) * 3 + d]!;
        return Math.exp(score * (attrs['scale'] as number) + biasOf(values, attrs, j - i, h));
      });
      const total = weights.reduce((a, b) => a + b, 0);
      for (let d = 0; d < 2; d++)
        out.data[(i * heads + h) * 2 + d] = weights.reduce(
          (sum, w, j) => sum + (w / total) * v.data[(j * kvHeads + shared) * 2 + d]!,
          0,
        );
    }
  }
  return out;
}

const GROUPS: readonly Heads[] = [
  { heads: 4, kvHeads: 4 },
  { heads: 8, kvHeads: 2 },
  { heads: 6, kvHeads: 3 },
  { heads: 5, kvHeads: 1 },
];
const PACKINGS = [[7], [1, 4, 2], [3, 3], []];

describe('attention', () => {
  const biased = [
    { mask: 'causal', scale: 0.6, before: 4 },
    { mask: 'full', scale: 0.6, before: 1 },
  ];
  const cases = GROUPS.flatMap((g) =>
    [...MASKS, ...biased].map((attrs) => [g.heads, g.kvHeads, attrs] as const),
  );

  it.each(cases)(
    'of %i heads on %i K/V heads %j is the naive one on any number of ranks',
    (heads, kvHeads, attrs) => {
      const graph = attentionGraph({ heads, kvHeads }, attrs);
      for (const lengths of PACKINGS) {
        const values = randomValues({ heads, kvHeads }, lengths, heads);
        const expected = naive(values, { heads, kvHeads }, attrs);
        const tokens = values.get('documents')!.data.length;
        const whole = evaluateWhole(graph, tokens, values);
        expect(distance(whole.get('out')!, expected)).toBeLessThan(1e-12);
        for (const degree of [2, 3, 5, 8]) {
          const [sharded] = evaluateSharded(graph, [{ degree, tokens }], [values], randomOf(1));
          expect(distance(sharded!.get('out')!, expected)).toBeLessThan(1e-12);
          expect(distance(sharded!.get('lse')!, whole.get('lse')!)).toBeLessThan(1e-12);
        }
      }
    },
  );

  it.each(MASKS.map((attrs) => [attrs] as const))(
    'of packed documents is that of each alone: %j',
    (attrs) => {
      const group = { heads: 4, kvHeads: 2 };
      const graph = attentionGraph(group, attrs);
      const lengths = [4, 1, 6];
      const packed = randomValues(group, lengths, 1);
      const out = evaluateWhole(graph, 11, packed).get('out')!;
      let start = 0;
      for (const length of lengths) {
        const rows = (t: Tensor): Tensor => {
          const row = t.data.length / t.shape[0]!;
          return {
            shape: [length, ...t.shape.slice(1)],
            data: t.data.slice(start * row, (start + length) * row),
          };
        };
        const alone = new Map([...packed].map(([name, t]) => [name, rows(t)]));
        expect(distance(evaluateWhole(graph, length, alone).get('out')!, rows(out))).toBe(0);
        start += length;
      }
    },
  );

  it('survives scores far outside the range of exp', () => {
    const graph = attentionGraph({ heads: 1, kvHeads: 1 }, { mask: 'full', scale: 1 });
    const values = new Map([
      ['q', tensor([2, 1, 3], [1e3, 0, 0, -1e3, 0, 0])],
      ['k', tensor([2, 1, 3], [1e3, 0, 0, 0, 0, 0])],
      ['v', tensor([2, 1, 2], [1, 2, 3, 4])],
      ['documents', tensor([2])],
    ]);
    expect([...evaluateWhole(graph, 2, values).get('out')!.data]).toEqual([1, 2, 3, 4]);
  });

  it.each(MASKS.map((attrs) => [attrs] as const))('counts the pairs it sees: %j', (attrs) => {
    const lengths = [1, 2, 3, 7, 0, 12];
    let pairs = 0;
    for (const s of lengths)
      for (let i = 0; i < s; i++) for (let j = 0; j < s; j++) pairs += Number(visible(attrs, i, j));
    expect(attendedPairs(pairsSymbol(attrs), lengths)).toBe(pairs);
  });

  it('maps every query head to the K/V head it reads', () => {
    for (const { heads, kvHeads } of GROUPS)
      for (const degree of [1, 2, 3, 5, 8])
        for (let rank = 0; rank < degree; rank++) {
          const { start } = followingRange(kvHeads, heads, degree, rank);
          const queries = shardRange(heads, degree, rank);
          expect(localHeadMap(heads, kvHeads, degree, rank).map((m) => m + start)).toEqual(
            Array.from({ length: queries.end - queries.start }, (_, h) =>
              Math.floor((queries.start + h) / (heads / kvHeads)),
            ),
          );
        }
  });
});

describe('attention refuses', () => {
  const ok = ['f32[S, 4@sp, 3]', 'f32[S, 2@sp(4), 3]', 'f32[S, 2@sp(4), 2]', 'i32[S]'];
  const attrs = { mask: 'causal', scale: 1 };
  const build = (types: readonly string[], more: Attrs = {}): unknown =>
    builderAt(undefined)(
      'attention',
      types.map((t, i) => makeInput(`x${i}`, 'data', parseType(t))),
      { ...attrs, ...more },
    );

  it('nothing of a lawful one', () => expect(() => build(ok)).not.toThrow());

  it.each([
    [0, 'f32[S@sp, 4, 3]'],
    [0, 'f32[S, 4, 3@sp]'],
    [0, 'f32[S, 4@sp/2, 3]'],
    [0, 'f32[S, 4@world, 3]'],
    [0, 'f32[S, 2@sp(4), 3]'],
    [0, 'f32[S, 4@sp, 2]'],
    [0, 'f32[S, H, 3]'],
    [0, 'f32[S, 12]'],
    [0, 'i32[S, 4@sp, 3]'],
    [0, 'f32[S, 4, 3]{U:sp}'],
    [1, 'f32[S, 2, 3]'],
    [1, 'f32[S, 4@sp, 3]'],
    [1, 'f32[S, 2@sp(8), 3]'],
    [1, 'f32[R, 2@sp(4), 3]'],
    [2, 'f32[S, 2@sp, 3]'],
    [3, 'f32[S]'],
    [3, 'i32[S@sp]'],
    [3, 'i32[S, 1]'],
  ])('operand %i of %s', (at, type) => {
    expect(() => build(ok.map((t, i) => (i === at ? type : t)))).toThrow(TypeMismatch);
  });

  it.each([
    [[], {}],
    [['f32[5, 4]'], { before: 2 }],
  ])('nothing of one with the operands %j and %j', (more, bias) =>
    expect(() => build([...ok, ...more], bias)).not.toThrow(),
  );

  it.each([
    [[], { before: 0 }],
    [['f32[5, 4]'], {}],
    [['f32[5, 4]'], { before: 5 }],
    [['f32[5, 4]'], { before: -1 }],
    [['f32[5, 4]'], { before: 0.5 }],
    [['f32[0, 4]'], { before: 0 }],
    [['f32[5, 2]'], { before: 0 }],
    [['f32[S, 4]'], { before: 0 }],
    [['f32[5, 4@sp]'], { before: 0 }],
    [['f32[5, 4]{U:sp}'], { before: 0 }],
    [['i32[5, 4]'], { before: 0 }],
    [['f32[5]'], { before: 0 }],
  ])('a bias %j with %j', (more, bias) => expect(() => build([...ok, ...more], bias)).toThrow(TypeMismatch));

  it.each([{ mask: 'sliding' }, { mask: 'window' }, { mask: 'window', window: 0 }, { scale: '1' }])(
    'attributes %j',
    (more) => expect(() => build(ok, more as Attrs)).toThrow(TypeMismatch),
  );
});
