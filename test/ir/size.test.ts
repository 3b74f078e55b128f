import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.js';
import {
  addSizes,
  constantOf,
  constantSize,
  divideSizes,
  evaluateSize,
  mulSizes,
  parseSize,
  productOfSizes,
  sameSize,
  signOfSize,
  subSizes,
  symbolSize,
  type Size,
} from '../../src/ir/size.js';

const monomial = fc
  .tuple(fc.integer({ min: -9, max: 9 }), fc.array(fc.constantFrom('S', 'T', 'H_2'), { maxLength: 2 }))
  .map(([c, symbols]) => productOfSizes([c, ...symbols.map(symbolSize)]));
const size = fc
  .array(monomial, { maxLength: 4 })
  .map((terms) => terms.reduce<Size>(addSizes, constantSize(0)));
const values = fc.tuple(fc.nat(50), fc.nat(50), fc.nat(50)).map(
  ([s, t, h]) =>
    new Map([
      ['S', s],
      ['T', t],
      ['H_2', h],
    ]),
);
const RUNS = { seed: 3, numRuns: 300 };

describe('sizes are polynomials', () => {
  it('add, subtract and multiply like their values', () => {
    fc.assert(
      fc.property(size, size, values, (a, b, at) => {
        const [x, y] = [evaluateSize(a, at), evaluateSize(b, at)];
        expect(evaluateSize(addSizes(a, b), at)).toBe(x + y);
        expect(evaluateSize(subSizes(a, b), at)).toBe(x - y);
        expect(evaluateSize(mulSizes(a, b), at) + 0).toBe(x * y + 0);
      }),
      RUNS,
    );
  });

  it('have one form: ring laws hold on the keys', () => {
    fc.assert(
      fc.property(size, size, size, (a, b, c) => {
        expect(addSizes(a, b).key).toBe(addSizes(b, a).key);
        expect(mulSizes(a, b).key).toBe(mulSizes(b, a).key);
        expect(addSizes(addSizes(a, b), c).key).toBe(addSizes(a, addSizes(b, c)).key);
        expect(mulSizes(mulSizes(a, b), c).key).toBe(mulSizes(a, mulSizes(b, c)).key);
        expect(mulSizes(a, addSizes(b, c)).key).toBe(addSizes(mulSizes(a, b), mulSizes(a, c)).key);
        expect(subSizes(a, a).key).toBe('0');
        expect(mulSizes(a, 1).key).toBe(a.key);
      }),
      RUNS,
    );
  });

  it('print and parse', () => {
    fc.assert(
      fc.property(size, (a) => {
        expect(parseSize(a.key)).toEqual(a);
      }),
      RUNS,
    );
    expect(parseSize('2*S*H + 3 + S*2*H + -3').key).toBe('4*H*S');
  });

  it('divide exactly or not at all', () => {
    fc.assert(
      fc.property(size, monomial, (a, b) => {
        const quotient = divideSizes(a, b);
        if (quotient !== undefined) expect(mulSizes(quotient, b).key).toBe(a.key);
        expect(divideSizes(mulSizes(a, b), b)?.key).toBe(constantOf(b) === 0 ? undefined : a.key);
      }),
      RUNS,
    );
    expect(divideSizes(parseSize('S + 1'), parseSize('S + 1'))?.key).toBe('1');
    expect(divideSizes(parseSize('S + 2'), 2)).toBeUndefined();
    expect(divideSizes(12, 0)).toBeUndefined();
    expect(divideSizes(0, 0)).toBeUndefined();
  });

  it('know their sign when it is the same for all symbols ≥ 1', () => {
    fc.assert(
      fc.property(size, values, (a, at) => {
        const sign = signOfSize(a);
        const positive = new Map([...at].map(([k, v]) => [k, v + 1]));
        if (sign !== undefined) expect(Math.sign(evaluateSize(a, positive))).toBe(sign);
      }),
      RUNS,
    );
    expect(['3*S + -2', '-1*S', '0', 'S + -1'].map((t) => signOfSize(parseSize(t)))).toEqual([
      1,
      -1,
      0,
      undefined,
    ]);
  });

  it.each(['', 'S +', '3*', 'S S', '1.5', '2^3', '-S', '99999999999999999999', '9007199254740991*S + S'])(
    'refuse %j',
    (text) => {
      const parse = (): Size =>
        text.includes('S + S') ? addSizes(parseSize('9007199254740991*S'), symbolSize('S')) : parseSize(text);
      expect(parse).toThrow(UserError);
    },
  );

  it('name an unbound symbol', () => {
    expect(() => evaluateSize(symbolSize('S'), new Map())).toThrow(/symbol S .* not bound/);
    expect(sameSize(symbolSize('S'), parseSize('1*S'))).toBe(true);
  });
});
