import { expect, test } from 'vitest';
import type { RankBinding } from '../../../src/ir/placement.js';
import { layoutArena } from '../../../src/runtime/memory/arena.js';
import { bindProgram } from '../../../src/runtime/memory/bind.js';
import { planPeak, temporariesOf } from '../../../src/runtime/memory/peak.js';
import { everyKind } from '../../package/fixture.js';

const rankOf = (tokens: number, degree: number, index: number): RankBinding => ({
  sp: { index, degree },
  world: { index, degree },
  symbols: new Map([['S', tokens]]),
});

const program = everyKind();

test('temporaries of every kind of instruction, on a rank with 3 of 9 tokens and one head', () => {
  const bound = bindProgram(program, rankOf(9, 4, 0));
  expect(bound.shapes[1]).toEqual([3, 4, 8]);
  const run = 4 * (3 * 8 + 3);
  const attention = 4 * 2 * 9 * 9;
  const tiled = 4 * (3 * 100 + 3) + 4 * 3 * 50;
  expect([...temporariesOf(bound)]).toEqual([run, 0, attention, 0, tiled, 0]);
});

test('a tile is never longer than the rows, and rows longer than a tile cost one tile', () => {
  const tiled = (tokens: number): number => temporariesOf(bindProgram(program, rankOf(tokens, 1, 0)))[4]!;
  expect(tiled(0)).toBe(0);
  expect(tiled(32)).toBe(32 * tiled(1));
  expect(tiled(1000)).toBe(tiled(32));
});

test('attention is bounded by the longest document and the rows of one call', () => {
  const bound = bindProgram(program, rankOf(100, 1, 0));
  const attention = (options: object): number => temporariesOf(bound, options)[2]!;
  expect(attention({})).toBe(4 * 2 * 4 * 100 * 100);
  expect(attention({ longestDocument: 10 })).toBe(4 * 2 * 4 * 10 * 10);
  expect(attention({ longestDocument: 50, queryRows: 8 })).toBe(4 * 2 * 4 * 8 * 50);
  expect(attention({ longestDocument: 5000 })).toBe(attention({}));
  expect(temporariesOf(bindProgram(program, rankOf(100, 5, 4)))[2]).toBe(0);
});

test("attention keeps a rank's columns of a relative bias beside the whole table", () => {
  const { kernels, instructions, buffers } = program;
  const biased = {
    ...program,
    kernels: kernels.map((k) => ({ ...k, inputs: [...k.inputs, 'bias'] })),
    buffers: [...buffers, { type: 'f32[7, 4]', kind: 'input' as const, first: 0, last: 9 }],
    instructions: instructions.map((i) =>
      i.kind === 'attention' ? { ...i, operands: [...i.operands, buffers.length] } : i,
    ),
  };
  for (const [degree, heads] of [
    [1, 4],
    [2, 2],
  ] as const) {
    const [one, other] = [program, biased].map(
      (p) => temporariesOf(bindProgram(p, rankOf(100, degree, 0)))[2]!,
    );
    expect(other! - one!).toBe(4 * 7 * heads);
  }
});

test('the peak is arena, temporaries and what persists', () => {
  const rank = rankOf(9, 4, 0);
  const plan = planPeak(program, rank);
  const bound = bindProgram(program, rank);
  expect(plan.arenaBytes).toBe(layoutArena(bound).bytes);
  expect(plan.persistentBytes).toBe(4 * (3 + 9 + 1 + 64 + 16));
  expect(plan.temporariesBytes).toBe(temporariesOf(bound)[plan.instruction]);
  expect(plan.instruction).toBe(4);
  expect(plan.peakBytes).toBe(plan.arenaBytes + plan.temporariesBytes + plan.persistentBytes);
  const copied = temporariesOf(bound, { copiesResults: true });
  expect(copied[0]).toBe(temporariesOf(bound)[0]! + bound.bytes[1]!);
  expect(copied[4]).toBe(temporariesOf(bound)[4]! + 4);
});

test('bool takes one byte inside ONNX Runtime', () => {
  const segments = program.segments.map((segment) => ({ ...segment, temporaries: [['bool[S@sp, 7]']] }));
  const bound = bindProgram({ ...program, segments }, rankOf(5, 1, 0));
  expect(temporariesOf(bound)[0]).toBe(35);
});
