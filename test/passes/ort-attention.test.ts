import { Tensor, type InferenceSession } from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import { emit } from '../../src/ir/build.js';
import { makeInput, type Attrs, type Node, type Value } from '../../src/ir/graph.js';
import type { Tensor as Reference } from '../../src/ir/op.js';
import { localHeadMap, localSlopes } from '../../src/ir/ops/attention-heads.js';
import { tensor } from '../../src/ir/ops/define.js';
import { opDef } from '../../src/ir/ops/index.js';
import { localShape, shardRange, type RankBinding } from '../../src/ir/placement.js';
import { parseType } from '../../src/ir/type.js';
import { lowerAttention } from '../../src/passes/emit/ort/attention.js';
import type { AttentionModel } from '../../src/passes/emit/ort/lowered.js';
import { createSession, random, rankOf } from './ort-session.js';

const [DEGREE, D, DV, TILE] = [3, 5, 4, 3];
const LENGTHS = [7, 1, 4];
/** Fewer than there are between the keys and the queries of the longest document. */
const OFFSETS = 5;
const TOKENS = LENGTHS.reduce((sum, n) => sum + n, 0);

const input = (name: string, type: string): Value => makeInput(name, 'data', parseType(type));

interface Nodes {
  readonly forward: Node;
  readonly backward: Node;
}

function attentionNodes(heads: number, kvHeads: number, attrs: Attrs, lse = false): Nodes {
  const kv = heads === kvHeads ? `${kvHeads}@sp` : `${kvHeads}@sp(${heads})`;
  const operands = [
    input('q', `f32[S, ${heads}@sp, ${D}]`),
    input('k', `f32[S, ${kv}, ${D}]`),
    input('v', `f32[S, ${kv}, ${DV}]`),
    input('documents', 'i32[S]'),
  ];
  const bias = attrs['before'] === undefined ? [] : [input('bias', `f32[${OFFSETS}, ${heads}]`)];
  const results = emit('attention', [...operands, ...bias], attrs);
  const g = input('g', `f32[S, ${heads}@sp, ${DV}]`);
  const glse = lse ? [input('glse', `f32[S, ${heads}@sp]`)] : [];
  const grads = emit('attention_vjp', [...operands, ...results, g, ...glse, ...bias], attrs);
  return { forward: results[0]!.node, backward: grads[0]!.node };
}

const drawn = (value: Value, rank: RankBinding, next: () => number): Reference => {
  const shape = localShape(value.type, rank);
  return tensor(
    shape,
    Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => Math.fround(4 * next() - 2)),
  );
};

const reference = (node: Node, rank: RankBinding, inputs: readonly Reference[]): readonly Reference[] =>
  opDef(node.op).eval!({
    types: node.operands.map((v) => v.type),
    attrs: node.attrs,
    region: undefined,
    inputs,
    shapes: node.results.map((r) => localShape(r.type, rank)),
    rank,
    run: () => [],
  });

interface Buffer {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

const bufferOf = ({ shape, data }: Reference): Buffer => ({ shape, data: Float32Array.from(data) });
const emptyLike = (shape: readonly number[]): Buffer => ({
  shape,
  data: new Float32Array(shape.reduce((n, d) => n * d, 1)),
});

/** Columns [start, end) of a matrix. */
const columns = ({ data, shape }: Buffer, start: number, end: number): Buffer => ({
  data: data.filter((_, i) => i % shape[1]! >= start && i % shape[1]! < end),
  shape: [shape[0]!, end - start],
});

/** Rows [start, end) of a buffer, without a copy. */
function rows({ data, shape }: Buffer, start: number, end: number): Tensor {
  const width = shape.slice(1).reduce((n, d) => n * d, 1);
  return new Tensor('float32', data.subarray(start * width, end * width), [end - start, ...shape.slice(1)]);
}

const int64 = (values: readonly number[]): Tensor =>
  new Tensor('int64', BigInt64Array.from(values, BigInt), [values.length]);

const sessions = new Map<AttentionModel, InferenceSession>();

afterAll(async () => {
  for (const session of sessions.values()) await session.release();
});

async function run(
  model: AttentionModel,
  given: Record<string, Tensor>,
  results: Record<string, Tensor>,
): Promise<void> {
  const session = sessions.get(model) ?? (await createSession(model.bytes));
  sessions.set(model, session);
  expect(Object.keys(results)).toEqual(model.outputs);
  await session.run(Object.fromEntries(model.inputs.map((name) => [name, given[name]!])), results);
}

/** Calls `visit` for every tile: query rows and the key rows they can reach, as the runtime cuts them. */
async function eachTile(
  attrs: Attrs,
  visit: (q: readonly [number, number], k: readonly [number, number]) => Promise<void>,
): Promise<void> {
  let document = 0;
  for (const length of LENGTHS) {
    const end = document + length;
    for (let start = document; start < end; start += TILE) {
      const stop = Math.min(start + TILE, end);
      const last = attrs['mask'] === 'full' ? end : Math.min(end, stop + Number(attrs['ahead'] ?? 0));
      const first =
        attrs['mask'] === 'window' ? Math.max(document, start - Number(attrs['window']) + 1) : document;
      await visit([start, stop], [first, last]);
    }
    document = end;
  }
}

const worst = (a: Float32Array, b: Float64Array): number => {
  expect(a.length).toBe(b.length);
  return a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!) / Math.max(1, Math.abs(b[i]!))), 0);
};

const MASKS: Attrs[] = [
  { mask: 'causal', scale: 0.5 },
  { mask: 'full', scale: 0.7 },
  { mask: 'window', window: 2, scale: 0.6 },
  { mask: 'window', window: 2, ahead: 3, scale: 0.6 },
  { mask: 'causal', scale: 1.5, softcap: 0.8 },
  { mask: 'causal', scale: 0.5, slopes: [0.5, 0.1, 2, 0.25, 1, 3, 0.7, 0.3] },
  { mask: 'causal', scale: 0.5, before: 4 },
  { mask: 'full', scale: 0.5, softcap: 3, before: 1 },
  { mask: 'window', window: 4, ahead: 2, scale: 0.6, before: 2, slopes: [0.5, 0.1, 2, 0.25, 1, 3, 0.7, 0.3] },
  { mask: 'full', scale: 0.5, softcap: 3, slopes: [0.5, 0.1, 2, 0.25, 1, 3, 0.7, 0.3] },
];

describe.each([
  [8, 2],
  [4, 4],
  [2, 1],
])('tiles of %i query heads over %i K/V heads', (heads, kvHeads) => {
  const cases = MASKS.flatMap((form) => [false, true].map((lse) => ({ form, lse, mask: form['mask'] })));
  it.each(cases)('$mask agrees with the reference, log-sum-exp: $lse', async ({ form, lse }) => {
    const attrs =
      form['slopes'] === undefined ? form : { ...form, slopes: (form['slopes'] as number[]).slice(0, heads) };
    const nodes = attentionNodes(heads, kvHeads, attrs, lse);
    const kernels = lowerAttention(nodes.forward, lse);
    const next = random(heads);
    for (let index = 0; index < DEGREE; index++) {
      const rank = rankOf(DEGREE, index, TOKENS);
      const documents = tensor(
        [TOKENS],
        LENGTHS.flatMap((n, d) => Array.from({ length: n }, () => d)),
      );
      const tables = nodes.forward.operands.slice(4).map((v) => drawn(v, rank, next));
      const operands = [...nodes.forward.operands.slice(0, 3).map((v) => drawn(v, rank, next)), documents];
      const expected = reference(nodes.forward, rank, [...operands, ...tables]);
      const given = nodes.backward.operands.slice(6, lse ? 8 : 7).map((v) => drawn(v, rank, next));
      const grads = reference(nodes.backward, rank, [...operands, ...expected, ...given, ...tables]);

      const [q, k, v] = operands.map(bufferOf) as [Buffer, Buffer, Buffer];
      const [out, sums] = expected.map((t) => emptyLike(t.shape)) as [Buffer, Buffer];
      const [dq, dk, dv] = grads.map((t) => emptyLike(t.shape)) as [Buffer, Buffer, Buffer];
      const [g, glse] = given.map(bufferOf) as [Buffer, Buffer | undefined];
      const map = localHeadMap(heads, kvHeads, DEGREE, index);
      const kvLocal = k.shape[1]!;
      const folds = map.every(
        (kv, h) => map.length % kvLocal === 0 && kv === Math.floor((h * kvLocal) / map.length),
      );
      const models = [...(folds ? [kernels] : []), ...(kernels.mapped === undefined ? [] : [kernels.mapped])];
      const onehot = new Float32Array(kvLocal * map.length);
      map.forEach((kv, h) => (onehot[kv * map.length + h] = 1));
      const slopes = Float32Array.from(localSlopes((attrs['slopes'] ?? []) as number[], DEGREE, index));
      const own = shardRange(heads, DEGREE, index);
      const [bias, dbias] = [tables[0], grads[3]].map((t) => t && columns(bufferOf(t), own.start, own.end));
      const shared = {
        ...(bias === undefined ? {} : { bias: rows(bias, 0, OFFSETS) }),
        slopes: new Tensor('float32', slopes, [slopes.length]),
        head_map: int64(map),
        head_onehot: new Tensor('float32', onehot, [kvLocal, map.length]),
      };

      for (const { forward, backward } of models) {
        for (const sum of [dk, dv]) sum.data.fill(0);
        const dTable = emptyLike([OFFSETS, map.length]);
        const wanted: Record<string, Tensor> = bias === undefined ? {} : { dbias: rows(dTable, 0, OFFSETS) };
        await eachTile(attrs, async ([q0, q1], [k0, k1]) => {
          const given = {
            q: rows(q, q0, q1),
            k: rows(k, k0, k1),
            v: rows(v, k0, k1),
            offset: int64([q0 - k0]),
            ...shared,
          };
          const results = { out: rows(out, q0, q1), ...(lse ? { lse: rows(sums, q0, q1) } : {}) };
          await run(forward, given, results);
          const [dkTile, dvTile] = [rows(dk, k0, k1), rows(dv, k0, k1)];
          await run(
            backward,
            {
              ...given,
              g: rows(g, q0, q1),
              ...(glse === undefined ? {} : { glse: rows(glse, q0, q1) }),
              dk_acc: dkTile,
              dv_acc: dvTile,
              ...(bias === undefined ? {} : { dbias_acc: wanted['dbias']! }),
            },
            { dq: rows(dq, q0, q1), dk: dkTile, dv: dvTile, ...wanted },
          );
        });
        expect(worst(out.data, expected[0]!.data), `forward, rank ${index}`).toBeLessThan(1e-5);
        if (lse) expect(worst(sums.data, expected[1]!.data), `sums, rank ${index}`).toBeLessThan(1e-5);
        [dq, dk, dv].forEach((b, i) =>
          expect(worst(b.data, grads[i]!.data), `backward ${i}, rank ${index}`).toBeLessThan(1e-5),
        );
        if (dbias !== undefined)
          expect(worst(dTable.data, Float64Array.from(dbias.data)), `bias, rank ${index}`).toBeLessThan(1e-5);
      }
    }
  });
});

describe('attention models', () => {
  const model = (heads: number, kvHeads: number, attrs: Attrs): ReturnType<typeof lowerAttention> =>
    lowerAttention(attentionNodes(heads, kvHeads, attrs).forward);
  it('depend on attributes and head sizes only', () => {
    const [a, b] = [model(8, 2, MASKS[0]!), model(16, 4, MASKS[0]!)];
    expect(a.forward.bytes).toEqual(b.forward.bytes);
    expect(a.backward.bytes).toEqual(b.backward.bytes);
    expect(model(8, 2, MASKS[1]!).forward.bytes).not.toEqual(a.forward.bytes);
    const nodes = attentionNodes(8, 2, MASKS[0]!);
    expect(lowerAttention(nodes.backward).backward.bytes).toEqual(a.backward.bytes);
  });

  it('take only what they need', () => {
    expect(model(4, 4, MASKS[1]!).forward.inputs).toEqual(['q', 'k', 'v']);
    expect(model(8, 2, MASKS[0]!).forward.inputs).toEqual(['q', 'k', 'v', 'offset']);
    expect(model(8, 2, MASKS[0]!).mapped!.forward.inputs).toEqual(['q', 'k', 'v', 'head_map', 'offset']);
  });

  it('give the cotangent of a bias where it is wanted only', () => {
    const { backward } = attentionNodes(8, 2, { mask: 'full', scale: 1, before: 2 });
    const [given, not] = [true, false].map((dbias) => lowerAttention(backward, false, dbias).backward);
    expect(given!.outputs).toEqual(['dq', 'dk', 'dv', 'dbias']);
    expect(not!.outputs).toEqual(['dq', 'dk', 'dv']);
    expect(given!.inputs.filter((name) => !not!.inputs.includes(name))).toEqual(['dbias_acc']);
    expect(not!.inputs).toContain('bias');
  });

  it('hold two tensors of scores forward, three backward', () => {
    const { forward, backward } = model(4, 4, MASKS[1]!);
    const scores = (sets: readonly (readonly string[])[]): number =>
      Math.max(...sets.map((set) => set.filter((text) => text === 'f32[Hl, Tq, Tk]').length));
    expect(scores(forward.temporaries)).toBe(2);
    expect(scores(backward.temporaries)).toBe(3);
  });
});
