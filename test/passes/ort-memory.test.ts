import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { emit } from '../../src/ir/build.js';
import { makeInput, type Attrs, type Value } from '../../src/ir/graph.js';
import { evaluateSize } from '../../src/ir/size.js';
import { parseType, type Type } from '../../src/ir/type.js';
import { lowerAttention } from '../../src/passes/emit/ort/attention.js';
import type { Temporaries } from '../../src/passes/emit/ort/lowered.js';
import { lowerSegment } from '../../src/passes/emit/ort/segment.js';

/** Bytes of the largest set, bool being one byte inside models. */
function peakBytes(temporaries: Temporaries, symbols: ReadonlyMap<string, number>): number {
  const bytesOf = (text: string): number => {
    const { dtype, dims } = parseType(text);
    return dims.reduce((n, d) => n * evaluateSize(d.size, symbols), dtype === 'bool' ? 1 : 4);
  };
  return Math.max(0, ...temporaries.map((set) => set.reduce((sum, text) => sum + bytesOf(text), 0)));
}

/**
 * Runs a model in a process of its own, without a memory arena, and prints by how many bytes its peak
 * resident memory grew; inputs and outputs are touched before.
 */
const MEASURE = `
const [, path, text] = process.argv;
const ort = require('onnxruntime-node');
const { feeds, fetches } = JSON.parse(text);
const make = ({ dtype, shape, fill }) => {
  const n = shape.reduce((a, b) => a * b, 1);
  if (dtype === 'i64') return new ort.Tensor('int64', new BigInt64Array(n).fill(BigInt(fill)), shape);
  if (dtype === 'i32') return new ort.Tensor('int32', new Int32Array(n).fill(fill), shape);
  return new ort.Tensor('float32', new Float32Array(n).fill(fill), shape);
};
const all = (specs) => Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, make(spec)]));
const peak = () => process.resourceUsage().maxRSS * 1024;
(async () => {
  const session = await ort.InferenceSession.create(path, {
    intraOpNumThreads: 1, enableCpuMemArena: false, enableMemPattern: false, logSeverityLevel: 3,
  });
  const [inputs, outputs] = [all(feeds), all(fetches)];
  const before = peak();
  await session.run(inputs, outputs);
  console.log(peak() - before);
})();
`;

interface Spec {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly fill: number;
}

let folder = '';
beforeAll(() => (folder = mkdtempSync(join(tmpdir(), 'ithaca-memory-'))));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function measure(bytes: Uint8Array, feeds: Record<string, Spec>, fetches: Record<string, Spec>): number {
  const path = join(folder, 'model.onnx');
  writeFileSync(path, bytes);
  const text = JSON.stringify({ feeds, fetches });
  return Number(
    execFileSync(process.execPath, ['-e', MEASURE, path, text], { stdio: ['ignore', 'pipe', 'ignore'] }),
  );
}

const specOf = (type: Type, symbols: ReadonlyMap<string, number>): Spec => ({
  dtype: type.dtype,
  shape: type.dims.map((d) => evaluateSize(d.size, symbols)),
  fill: type.dtype === 'i32' ? 1 : 0.01,
});

const MIB = 2 ** 20;
const SYMBOLS = new Map([['S', 4096]]);
const [X, W] = ['f32[S, 2048]', 'f32[2048]'];

/** The plan must cover what happens, and not by far. */
function compare(measured: number, planned: number): void {
  expect(measured / MIB).toBeLessThan(planned / MIB + 8);
  expect(measured / MIB).toBeGreaterThan(0.75 * (planned / MIB) - 8);
}

describe.skipIf(process.platform !== 'linux')('planned temporaries against resident memory', () => {
  const cases: [string, readonly string[], Attrs][] = [
    ['rms_norm_vjp', [X, W, X], { eps: 1e-5 }],
    ['layer_norm_vjp', [X, W, X], { eps: 1e-5 }],
    ['gelu_vjp', [X, X], { approximate: 'tanh' }],
    ['silu', [X], {}],
    ['cross_entropy', [X, 'i32[S]'], {}],
    ['cross_entropy_vjp', [X, 'i32[S]', 'f32[]'], {}],
    ['correct', [X, 'i32[S]'], {}],
    ['soft_cross_entropy', [X, 'i32[S]', 'i32[S, 64]', 'f32[S, 64]'], { temperature: 2 }],
    ['soft_cross_entropy_vjp', [X, 'i32[S]', 'i32[S, 64]', 'f32[S, 64]', 'f32[]'], { temperature: 2 }],
    ['squared_error', [X, X, 'i32[S]'], {}],
    ['document_sum', [X, 'i32[S]'], {}],
    ['gather_vjp', ['i32[S]', X], { rows: 64 }],
  ];
  it.each(cases)('%s', (op, types, attrs) => {
    const inputs: Value[] = types.map((text, i) => makeInput(`i${i}`, 'data', parseType(text)));
    const results = emit(op, inputs, attrs);
    const lowered = lowerSegment({ inputs, nodes: [results[0]!.node], outputs: results });
    const named = (values: readonly Value[], names: readonly string[]): Record<string, Spec> =>
      Object.fromEntries(values.map((v, i) => [names[i]!, specOf(v.type, SYMBOLS)]));
    const feeds = named(inputs, lowered.inputs);
    if (lowered.sizes.length > 0)
      feeds['sizes'] = { dtype: 'i64', shape: [lowered.sizes.length], fill: 4096 };
    const measured = measure(lowered.bytes, feeds, named(results, lowered.outputs));
    compare(measured, peakBytes(lowered.temporaries, SYMBOLS));
  });

  it.each([
    ['causal', { mask: 'causal' }],
    ['full', { mask: 'full' }],
    ['with a relative bias', { mask: 'full', before: 100 }],
  ])('attention, %s, forward and backward', (_, attrs) => {
    const bias = 'before' in attrs ? ['f32[201, 4]'] : [];
    const operands = ['f32[S, 4, 16]', 'f32[S, 4, 16]', 'f32[S, 4, 16]', 'i32[S]', ...bias];
    const inputs = operands.map((text, i) => makeInput(`i${i}`, 'data', parseType(text)));
    const { forward, backward } = lowerAttention(
      emit('attention', inputs, { ...attrs, scale: 0.25 })[0]!.node,
    );
    const [Tq, Tk, Hl] = [1024, 2048, 4];
    const symbols = new Map([
      ['Tq', Tq],
      ['Tk', Tk],
      ['Hl', Hl],
      ['Hkvl', Hl],
      ['G', 1],
    ]);
    const f32 = (...shape: number[]): Spec => ({ dtype: 'f32', shape, fill: 0.01 });
    const [query, key] = [f32(Tq, Hl, 16), f32(Tk, Hl, 16)];
    const all: Record<string, Spec> = {
      lse: f32(Tq, Hl),
      offset: { dtype: 'i64', shape: [1], fill: Tk - Tq },
    };
    for (const name of ['q', 'out', 'g', 'dq']) all[name] = query;
    for (const name of ['bias', 'dbias', 'dbias_acc']) all[name] = f32(201, Hl);
    for (const name of ['k', 'v', 'dk', 'dv', 'dk_acc', 'dv_acc']) all[name] = key;
    const pick = (names: readonly string[]): Record<string, Spec> =>
      Object.fromEntries(names.map((name) => [name, all[name]!]));
    for (const model of [forward, backward])
      compare(
        measure(model.bytes, pick(model.inputs), pick(model.outputs)),
        peakBytes(model.temporaries, symbols),
      );
  });
});
