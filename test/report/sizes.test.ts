import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { exchangesOf } from '../../src/cli/exchanges.js';
import { localBytes as bytesInIr, type RankBinding } from '../../src/ir/placement.js';
import { attendedPairs as pairsInIr } from '../../src/ir/ops/attention-mask.js';
import { evaluateSize, parseSize } from '../../src/ir/size.js';
import { parseType } from '../../src/ir/type.js';
import {
  attendedPairs,
  documentLengths,
  evaluate,
  fullestRank,
  liveBytes,
  localBytes,
  sentBytes,
} from '../../src/report/client/sizes.js';
import { bindProgram } from '../../src/runtime/memory/bind.js';
import { lowered } from '../support/lowered.js';
import { modelFolder } from '../support/oracle.js';

/** The page has arithmetic of its own, because it runs in a browser: it must agree with the compiler's. */

const group = fc.record({ tokens: fc.integer({ min: 1, max: 300 }), degree: fc.integer({ min: 1, max: 9 }) });

const bindingOf = (tokens: number, degree: number, index: number): RankBinding => ({
  sp: { index, degree },
  world: { index, degree },
  symbols: new Map([['S', tokens]]),
});

test('bytes of a value on each rank are those of the IR', () => {
  const types = [
    'f32[]',
    'f32[S@sp, 64]',
    'i32[S]',
    'f32[S, 8@sp, 4]',
    'f32[S, 2@sp(8), 4]{U:sp}',
    'f32[S, 3@sp(12), 4]',
    'f32[768@world, 4]',
    'f32[96@sp/8, 4]',
    'f32[(3*S + 1), 5]',
    'f32[64, 64]{U:sp}',
  ];
  fc.assert(
    fc.property(fc.constantFrom(...types), group, (type, { tokens, degree }) => {
      for (let index = 0; index < degree; index++)
        expect(localBytes(type, { tokens, degree, index })).toBe(
          bytesInIr(parseType(type), bindingOf(tokens, degree, index)),
        );
    }),
  );
});

test('polynomials and attended pairs are those of the IR', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(
      lengths,
      fc.constantFrom('A_causal', 'A_full', 'A_window_7', 'A_window_7_3'),
      (documents, symbol) => {
        const pairs = pairsInIr(symbol, documents);
        expect(attendedPairs(symbol, documents)).toBe(pairs);
        const tokens = documents.reduce((sum, n) => sum + n, 0);
        const text = `-3*S*S + 512*${symbol} + 7*S + 11`;
        const symbols = new Map([
          ['S', tokens],
          [symbol, pairs],
        ]);
        expect(evaluate(text, documents)).toBe(evaluateSize(parseSize(text), symbols));
      },
    ),
  );
});

test('a row is cut into documents no longer than the model takes', () => {
  expect(documentLengths(100, undefined)).toEqual([100]);
  expect(documentLengths(100, 40)).toEqual([34, 33, 33]);
  expect(documentLengths(1, 40)).toEqual([1]);
});

test('bytes of exchanges and of live memory are those of the compiler', async () => {
  const { programs } = await lowered(modelFolder('llama'));
  const program = programs.get('train')!;
  const arena = program.buffers.filter(({ kind }) => kind === 'arena');
  const types = [...new Set(arena.map(({ type }) => type))];
  const data = {
    instructions: program.instructions.length,
    type: arena.map(({ type }) => types.indexOf(type)),
    first: arena.map(({ first }) => first),
    last: arena.map(({ last }) => last),
  };
  for (const [tokens, degree] of [
    [64, 1],
    [61, 2],
    [128, 3],
    [7, 8],
  ] as const) {
    for (const { from, to, bytes } of exchangesOf(program, { tokens, degree })) {
      const moved = from.map((type, i) => [type, to[i]!] as const);
      expect(sentBytes('all_to_all', moved, { tokens, degree })).toBe(bytes);
    }
    let most = 0;
    for (let index = 0; index < degree; index++) {
      const bound = bindProgram(program, bindingOf(tokens, degree, index));
      const expected = program.instructions.map((_, at) =>
        program.buffers.reduce(
          (sum, b, i) => sum + (b.kind === 'arena' && b.first <= at && at <= b.last ? bound.bytes[i]! : 0),
          0,
        ),
      );
      expect(liveBytes(types, data, { tokens, degree, index })).toEqual(expected);
      most = Math.max(most, ...expected);
    }
    expect(fullestRank(types, data, { tokens, degree }).peak).toBe(most);
  }
});
