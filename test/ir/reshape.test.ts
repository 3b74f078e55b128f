import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { builderAt } from '../../src/ir/build.js';
import { makeInput, type Graph } from '../../src/ir/graph.js';
import { TypeMismatch } from '../../src/ir/op.js';
import { reshapeAttrs } from '../../src/ir/ops/define.js';
import { productOfSizes, toSize, type SizeLike } from '../../src/ir/size.js';
import { dim, parseType, printType, tensorType, type Dim, type Split, type Type } from '../../src/ir/type.js';
import { evaluateSharded, evaluateWhole, wholeShape } from '../support/mesh.js';
import { distance, randomOf, randomTensor } from '../support/random.js';

const b = builderAt(undefined);

const reshaped = (type: string, shape: readonly SizeLike[]): string =>
  printType(b.one('reshape', [makeInput('x', 'data', parseType(type))], { shape: shape.map(plain) }).type);

const plain = (size: SizeLike): SizeLike => {
  const { key } = toSize(size);
  return /^\d+$/.test(key) ? Number(key) : size;
};

/** Factors of a tensor's elements, in row-major order, cut into dims in two ways. */
const scheme = fc
  .record({
    factors: fc.array(fc.constantFrom<SizeLike>(1, 2, 3, 4, 6), { minLength: 1, maxLength: 5 }),
    tokens: fc.option(fc.nat(4), { nil: undefined }),
    cuts: fc.tuple(fc.array(fc.boolean(), { maxLength: 6 }), fc.array(fc.boolean(), { maxLength: 6 })),
    split: fc.nat(5),
    unit: fc.constantFrom(1, 2, 3, 4, 6, 12),
    pending: fc.boolean(),
  })
  .map(({ factors, tokens, cuts, ...rest }) => {
    const all = [...factors];
    if (tokens !== undefined) all.splice(Math.min(tokens, all.length), 0, parseType('f32[S]').dims[0]!.size);
    const shapes = cuts.map((cut) => {
      const dims: SizeLike[][] = [[]];
      all.forEach((factor, i) => {
        if (i > 0 && cut[i] !== false) dims.push([]);
        dims[dims.length - 1]!.push(factor);
      });
      return dims.map((group) => productOfSizes(group));
    });
    return { from: shapes[0]!, to: shapes[1]!, ...rest };
  });

function placed(from: readonly SizeLike[], at: number, unit: number): Type | undefined {
  const dims = from.map((size, i): Dim => {
    const split: Split | undefined = i === at ? { axis: 'sp', unit } : undefined;
    return dim(size, split);
  });
  try {
    return parseType(printType(tensorType('f32', dims)));
  } catch {
    return undefined;
  }
}

function expectShardedIsWhole(graph: Graph, lane: { degree: number; tokens: number }): void {
  const random = randomOf(1);
  const type = graph.inputs[0]!.type;
  const values = new Map([['x', randomTensor(random, wholeShape(type, lane.tokens))]]);
  const whole = evaluateWhole(graph, lane.tokens, values).get('y')!;
  const sharded = evaluateSharded(graph, [lane], [values], random)[0]!.get('y')!;
  expect(distance(sharded, whole)).toBe(0);
}

describe('reshape across a split dim', () => {
  it('is right wherever it is accepted, and the reshape back restores the placement', () => {
    let accepted = 0;
    fc.assert(
      fc.property(scheme, ({ from, to, split, unit }) => {
        const type = placed(from, split % from.length, unit);
        if (type === undefined) return;
        const x = makeInput('x', 'data', type);
        let y;
        try {
          y = b.one('reshape', [x], { shape: to.map(plain) });
        } catch (error) {
          expect(error).toBeInstanceOf(TypeMismatch);
          return;
        }
        accepted++;
        expect(printType(b.one('reshape', [y], reshapeAttrs(type)).type)).toBe(printType(type));
        const graph: Graph = { name: 'r', axes: ['sp'], inputs: [x], outputs: [{ name: 'y', value: y }] };
        for (const lane of [
          { degree: 2, tokens: 5 },
          { degree: 3, tokens: 1 },
          { degree: 5, tokens: 0 },
        ])
          expectShardedIsWhole(graph, lane);
      }),
      { numRuns: 800, seed: 1 },
    );
    expect(accepted).toBeGreaterThan(150);
  });

  it('never refuses to regroup a whole tensor', () => {
    fc.assert(
      fc.property(scheme, ({ from, to, pending }) => {
        const type = tensorType('f32', [...from], pending ? 'sp' : undefined);
        const y = b.one('reshape', [makeInput('x', 'data', type)], { shape: to.map(plain) });
        expect(printType(y.type)).toBe(printType(tensorType('f32', [...to], pending ? 'sp' : undefined)));
      }),
      { numRuns: 400, seed: 2 },
    );
  });

  it.each([
    ['f32[S@sp, 4, 3]', ['S', 12], 'f32[S@sp, 12]'],
    ['f32[S, 12@sp, 64]', ['S', 768], 'f32[S, 768@sp/64]'],
    ['f32[S, 768@sp/64]', ['S', 12, 64], 'f32[S, 12@sp, 64]'],
    ['f32[S, 2@sp(8), 64]', ['S', 128], 'f32[S, 128@sp/64(8)]'],
    ['f32[1, S@sp, 4]', ['S', 4], 'f32[S@sp, 4]'],
    ['f32[S@sp, 3]', ['3*S'], 'f32[3*S@sp/3]'],
    ['f32[S, 1@sp, 64]', ['S', 64], 'f32[S, 64@sp/64]'],
    ['f32[S, 64@sp/64]', ['S', 1, 64], 'f32[S, 1, 64@sp/64]'],
    ['f32[8]{U:sp}', [2, 4], 'f32[2, 4]{U:sp}'],
  ])('%s to [%s] is %s', (type, shape, expected) => {
    const sizes = shape.map((s) => (typeof s === 'number' ? s : parseType(`f32[${s}]`).dims[0]!.size));
    expect(reshaped(type, sizes)).toBe(expected);
  });

  it('puts a split of one piece where it is told', () => {
    const x = makeInput('x', 'data', parseType('f32[S, 64@sp/64]'));
    const shape = [x.type.dims[0]!.size, 1, 64];
    expect(printType(b.one('reshape', [x], { shape, split: 1 }).type)).toBe('f32[S, 1@sp, 64]');
    for (const split of [0, 3, -1])
      expect(() => b.one('reshape', [x], { shape, split })).toThrow(TypeMismatch);
  });

  it.each([
    ['f32[2, S@sp]', ['2*S'], /only as the leading factor/],
    ['f32[24@sp/6]', ['3', '8'], /straddle/],
    ['f32[4@sp, 6]', ['2', '12'], /straddle/],
    ['f32[1@sp]', [], /must be whole/],
    ['f32[4, 1@sp]', ['4'], /must be whole/],
    ['f32[4]', ['5'], /cannot reshape \[4\] to \[5\]/],
    ['f32[S]', ['4'], /cannot reshape \[S\] to \[4\]/],
  ])('refuses %s to [%s]', (type, shape, message) => {
    const sizes = shape.map((s) => parseType(`f32[${s}]`).dims[0]!.size);
    expect(() => reshaped(type, sizes)).toThrow(TypeMismatch);
    expect(() => reshaped(type, sizes)).toThrow(message);
  });
});
