import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import onnxProto from 'onnx-proto';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { emit } from '../../src/ir/build.js';
import { makeInput, type Attrs, type Node, type Value } from '../../src/ir/graph.js';
import type { Tensor as Reference } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';
import { opDef } from '../../src/ir/ops/index.js';
import { localShape, type RankBinding } from '../../src/ir/placement.js';
import { symbolSize } from '../../src/ir/size.js';
import { parseType } from '../../src/ir/type.js';
import { executionOrder } from '../../src/passes/emit/ort/liveness.js';
import { lowerSegment, type Segment } from '../../src/passes/emit/ort/segment.js';
import { createSession, ortTensor, random, rankOf, runSegment, sizesFeed } from './ort-session.js';

const input = (name: string, type: string): Value => makeInput(name, 'data', parseType(type));
const one = (op: string, operands: readonly Value[], attrs: Attrs = {}): Value =>
  emit(op, operands, attrs)[0]!;
const segmentOf = (
  inputs: readonly Value[],
  outputs: readonly Value[],
  nodes: readonly Value[],
): Segment => ({
  inputs,
  outputs,
  nodes: [...new Set(nodes.map((v): Node => v.node))],
});

const drawn = (value: Value, rank: RankBinding, next: () => number): Reference => {
  const shape = localShape(value.type, rank);
  return tensor(
    shape,
    Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => Math.fround(next() - 0.5)),
  );
};

/** Reference values of a segment on one rank. */
function evaluate(segment: Segment, rank: RankBinding, inputs: readonly Reference[]): Reference[] {
  const values = new Map(segment.inputs.map((v, i) => [v, inputs[i]!]));
  for (const node of segment.nodes) {
    const results = opDef(node.op).eval!({
      types: node.operands.map((v) => v.type),
      attrs: node.attrs,
      region: undefined,
      inputs: node.operands.map((v) => values.get(v)!),
      shapes: node.results.map((r) => localShape(r.type, rank)),
      rank,
      run: () => [],
    });
    node.results.forEach((r, i) => values.set(r, results[i]!));
  }
  return segment.outputs.map((v) => values.get(v)!);
}

const differ = (a: readonly number[], b: ArrayLike<number>): number => {
  expect(a.length).toBe(b.length);
  return Math.max(0, ...a.map((x, i) => Math.abs(x - b[i]!)));
};

async function checkSegment(segment: Segment): Promise<void> {
  const lowered = lowerSegment(segment);
  const next = random(7);
  for (const tokens of [7, 1, 0])
    for (let index = 0; index < 3; index++) {
      const rank = rankOf(3, index, tokens);
      const operands = segment.inputs.map((v) => drawn(v, rank, next));
      const feeds = operands.map((t, i) => ortTensor(segment.inputs[i]!.type.dtype, t));
      const actual = await runSegment(lowered, segment.outputs, rank, feeds);
      evaluate(segment, rank, operands).forEach((t, i) =>
        expect(differ(actual[i]!, t.data), `output ${i}, S = ${tokens}, rank ${index}`).toBeLessThan(1e-5),
      );
    }
}

/** A projection with a bias, its heads apart, scaled; `names` must not matter. */
function projection(names: readonly string[]): Segment {
  const [x, w, b] = [
    input(names[0]!, 'f32[S@sp, 6]'),
    input(names[1]!, 'f32[8, 6]'),
    input(names[2]!, 'f32[8]'),
  ];
  const turned = one('transpose', [w], { perm: [1, 0] });
  const product = one('matmul', [x, turned]);
  const sum = one('add', [b, product]);
  const heads = one('reshape', [sum], { shape: [symbolSize('S'), 2, 4] });
  const soft = one('softmax', [heads], { dim: -1 });
  const back = one('reshape', [soft], { shape: [symbolSize('S'), 8] });
  return segmentOf([x, w, b], [back, sum], [turned, product, sum, heads, soft, back]);
}

describe('segments', () => {
  it('absorbs transposes and a bias, reshapes by local sizes', async () => {
    const lowered = lowerSegment(projection(['x', 'w', 'b']));
    expect(lowered.inputs).toEqual(['x0', 'x1', 'x2']);
    expect(lowered.outputs).toEqual(['y0', 'y1']);
    expect(lowered.sizes).toEqual(['S@sp']);
    await checkSegment(projection(['x', 'w', 'b']));
  });

  it('merges a split dim with its unit', async () => {
    const x = input('x', 'f32[12@sp, 2, 3]');
    const flat = one('reshape', [x], { shape: [72] });
    const twice = one('add', [flat, flat]);
    expect(lowerSegment(segmentOf([x], [twice], [flat, twice])).sizes).toEqual(['72@sp/6']);
    await checkSegment(segmentOf([x], [twice], [flat, twice]));
  });

  it('gives isomorphic segments the same bytes, different ones others', () => {
    const first = lowerSegment(projection(['x', 'w', 'b']));
    expect(lowerSegment(projection(['layer.9', 'odd name', '__proto__'])).bytes).toEqual(first.bytes);
    const other = projection(['x', 'w', 'b']);
    expect(lowerSegment({ ...other, outputs: [...other.outputs].reverse() }).bytes).not.toEqual(first.bytes);
  });

  it('takes a value twice as output, and an input as output', async () => {
    const x = input('x', 'f32[S@sp, 3]');
    const y = one('exp', [x]);
    await checkSegment(segmentOf([x], [y, y, x], [y]));
  });

  it('computes a transpose that is also an output', async () => {
    const [x, w] = [input('x', 'f32[S@sp, 3]'), input('w', 'f32[4, 3]')];
    const turned = one('transpose', [w], { perm: [1, 0] });
    const product = one('matmul', [x, turned]);
    await checkSegment(segmentOf([x, w], [product, turned], [turned, product]));
  });

  it('does not put a bias into a product that it widens', async () => {
    const [x, w, b] = [input('x', 'f32[S@sp, 3]'), input('w', 'f32[3, 1]'), input('b', 'f32[4]')];
    const product = one('matmul', [x, w]);
    const sum = one('add', [product, b]);
    await checkSegment(segmentOf([x, w, b], [sum], [product, sum]));
  });
});

describe('accumulated outputs', () => {
  const x = input('x', 'f32[S@sp, 6]');
  const g = input('g', 'f32[S@sp, 4]');
  const turned = one('transpose', [x], { perm: [1, 0] });
  const product = one('matmul', [turned, g]);
  const ids = input('ids', 'i32[S@sp]');
  const table = one('gather_vjp', [ids, g], { rows: 5 });
  const plain = one('reduce_sum', [g], { dims: [0], keep: false });
  const cases: [string, Segment][] = [
    ['a product', segmentOf([x, g], [product], [turned, product])],
    ['rows of a table', segmentOf([ids, g], [table], [table])],
    ['any other value', segmentOf([g], [plain], [plain])],
  ];
  it.each(cases)('%s is added to its buffer in place', async (_, segment) => {
    const lowered = lowerSegment(segment, { accumulate: new Set(segment.outputs) });
    expect(lowered.inputs.at(-1)).toBe('acc_y0');
    const session = await createSession(lowered.bytes);
    const next = random(3);
    for (const tokens of [9, 0]) {
      const rank = rankOf(2, 1, tokens);
      const operands = segment.inputs.map((v) => {
        const t = drawn(v, rank, next);
        return v.type.dtype === 'i32'
          ? { shape: t.shape, data: t.data.map((n) => Math.floor((n + 0.5) * 5)) }
          : t;
      });
      const shape = localShape(segment.outputs[0]!.type, rank);
      const elements = shape.reduce((n, d) => n * d, 1);
      // A view inside a larger arena: what is around it must stay.
      const arena = new Float32Array(elements + 32).fill(1);
      const buffer = new Tensor('float32', arena.subarray(16, 16 + elements), shape);
      const feeds: Record<string, Tensor> = sizesFeed(lowered, rank);
      operands.forEach((t, i) => (feeds[`x${i}`] = ortTensor(segment.inputs[i]!.type.dtype, t)));
      feeds['acc_y0'] = buffer;
      for (let run = 0; run < 3; run++) await session.run(feeds, { y0: buffer });
      const [value] = evaluate(segment, rank, operands);
      const expected = value!.data.map((v) => 1 + 3 * v);
      expect(differ(Array.from(arena.subarray(16, 16 + elements)), expected)).toBeLessThan(1e-5);
      expect(arena.subarray(0, 16)).toEqual(new Float32Array(16).fill(1));
      expect(arena.subarray(16 + elements)).toEqual(new Float32Array(16).fill(1));
    }
    await session.release();
  });

  it('adds repeated ids up on several threads', async () => {
    const lowered = lowerSegment(segmentOf([ids, g], [table], [table]));
    const session = await createSession(lowered.bytes, 2);
    const tokens = 4096;
    const feeds = {
      ...sizesFeed(lowered, rankOf(1, 0, tokens)),
      x0: new Tensor(
        'int32',
        Int32Array.from({ length: tokens }, (_, i) => i % 5),
        [tokens],
      ),
      x1: new Tensor('float32', new Float32Array(tokens * 4).fill(1), [tokens, 4]),
    };
    const { y0 } = await session.run(feeds);
    for (let row = 0; row < 5; row++)
      expect((y0!.data as Float32Array)[row * 4]).toBe(Math.floor((tokens - row - 1) / 5) + 1);
    await session.release();
  });
});

describe('temporaries', () => {
  it('counts what is alive together, reusing dying operands', () => {
    const x = input('x', 'f32[S@sp, 6]');
    const [a, b] = [one('exp', [x]), one('sin', [x])];
    const sum = one('add', [a, b]);
    const root = one('tanh', [sum]);
    const y = one('neg', [root]);
    const lowered = lowerSegment(segmentOf([x], [y], [a, b, sum, root, y]));
    expect(lowered.temporaries).toEqual([['f32[S@sp, 6]', 'f32[S@sp, 6]', 'f32[S@sp, 6]']]);
    const t = one('tanh', [a]);
    const z = one('neg', [t]);
    const overwritten = lowerSegment(segmentOf([x], [z], [a, t, z]));
    expect(overwritten.temporaries).toEqual([['f32[S@sp, 6]']]);
  });

  it('keeps memory alive through its views', () => {
    const x = input('x', 'f32[S@sp, 6]');
    const a = one('exp', [x]);
    const view = one('reshape', [a], { shape: [symbolSize('S'), 2, 3] });
    const b = one('sin', [view]);
    const flat = one('reshape', [b], { shape: [symbolSize('S'), 6] });
    const y = one('add', [flat, a]);
    const z = one('tanh', [y]);
    expect(lowerSegment(segmentOf([x], [z], [a, view, b, flat, y, z])).temporaries).toEqual([
      ['f32[S@sp, 2, 3]', 'f32[S@sp, 6]', 'f32[S@sp, 6]'],
    ]);
  });

  it('counts nothing where every tensor is an input or an output', () => {
    const x = input('x', 'f32[S@sp, 6]');
    const y = one('exp', [x]);
    expect(lowerSegment(segmentOf([x], [y], [y])).temporaries).toEqual([]);
  });
});

describe('execution order', () => {
  it('is the one ONNX Runtime takes', async () => {
    const [x, w, g] = [input('x', 'f32[S@sp, 6]'), input('w', 'f32[6]'), input('g', 'f32[S@sp, 6]')];
    const norm = emit('layer_norm_vjp', [x, w, g], { eps: 1e-5 });
    const soft = one('softmax', [norm[0]!], { dim: -1 });
    const segment = segmentOf([x, w, g], [...norm, one('mul', [soft, x])], [norm[0]!, soft]);
    const last = segment.outputs.at(-1)!.node;
    const lowered = lowerSegment({ ...segment, nodes: [...segment.nodes, last] });
    const rank = rankOf(1, 0, 4);
    const feeds: Record<string, Tensor> = sizesFeed(lowered, rank);
    segment.inputs.forEach((v, i) => (feeds[`x${i}`] = ortTensor('f32', drawn(v, rank, random(i)))));
    const ran = await profiledOrder(lowered.bytes, feeds);
    const graph = onnxProto.onnx.ModelProto.decode(lowered.bytes).graph!;
    const ids = new Map<string, number>();
    const idOf = (name: string): number => ids.get(name) ?? (ids.set(name, ids.size), ids.size - 1);
    const nodes = graph.node!.map((node) => ({
      inputs: node.input!.filter((name) => name !== '').map(idOf),
      outputs: node.output!.filter((name) => name !== '').map(idOf),
    }));
    expect(ran).toEqual(executionOrder(nodes).map((i) => `n${i}`));
  });
});

/** Names of the nodes in the order in which an unoptimised session ran them. */
async function profiledOrder(bytes: Uint8Array, feeds: Record<string, Tensor>): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'ithaca-profile-'));
  try {
    const session = await InferenceSession.create(bytes, {
      enableProfiling: true,
      profileFilePrefix: join(folder, 'p'),
      graphOptimizationLevel: 'disabled',
      intraOpNumThreads: 1,
    });
    await session.run(feeds);
    session.endProfiling();
    await session.release();
    const events = JSON.parse(readFileSync(join(folder, readdirSync(folder)[0]!), 'utf8')) as {
      name: string;
    }[];
    return events.flatMap(({ name }) => /^(n\d+)_kernel_time$/.exec(name)?.[1] ?? []);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
