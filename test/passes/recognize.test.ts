import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.js';
import { builderAt } from '../../src/ir/build.js';
import { inputName, makeInput, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { readOnnxModel } from '../../src/ir/onnx/decode.js';
import { importOnnx } from '../../src/ir/onnx/import/import.js';
import { mulSizes, type Size } from '../../src/ir/size.js';
import { parseType, printType } from '../../src/ir/type.js';
import { verify } from '../../src/ir/verify.js';
import { leadingUnits } from '../../src/passes/match.js';
import { recognizeGraph } from '../../src/passes/recognize.js';
import { TOKENS } from '../../src/passes/recognize/attention.js';
import { simplifyGraph } from '../../src/passes/simplify.js';
import { distance, evaluateAlone } from '../support/feed.js';

const MODELS = fileURLToPath(new URL('../models/', import.meta.url));

const GPT2 = { attention: 2, layer_norm: 5, gelu: 2 };
const LLAMA = { attention: 2, rms_norm: 5, silu: 2 };
const KINDS: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  gpt2: GPT2,
  'gpt2-ts': GPT2,
  'gpt2-hf': GPT2,
  llama: LLAMA,
  'llama-ts': LLAMA,
  'llama-hf': LLAMA,
  'llama-ids': LLAMA,
  'llama-packed': LLAMA,
  'llama-opset23': LLAMA,
  'llama-opset23-ops': LLAMA,
  'llama-opset23-nopos': LLAMA,
};

const b = builderAt('/softmax');
const data = (name: string, type: string): Value => makeInput(name, 'data', parseType(type));
const number = (value: number): Value => b.one('constant', [], { dtype: 'f32', shape: [], data: [value] });
const graphOf = (inputs: readonly Value[], value: Value): Graph =>
  simplifyGraph({ name: 'test', axes: [], inputs, outputs: [{ name: 'out', value }] });

/** One unmasked head: softmax(change(q·kᵀ))·v. */
function attention(inputs: readonly Value[], change: (scores: Value) => Value = (x) => x): Graph {
  const [q, k, v] = inputs as readonly [Value, Value, Value];
  const scores = change(b.one('matmul', [q, b.one('transpose', [k], { perm: [1, 0] })]));
  return graphOf(inputs, b.one('matmul', [b.one('softmax', [scores], { dim: -1 }), v]));
}

const qkv = (): readonly Value[] => ['q', 'k', 'v'].map((name) => data(name, 'f32[S, 4]'));

describe('recognize on real exports', () => {
  it.each(Object.entries(KINDS))('%s', async (name, kinds) => {
    const model = readOnnxModel(`${MODELS}${name}/model.onnx`, { weights: true });
    const { graph: imported } = await importOnnx(model, { weights: true });
    const { graph, counts, notes } = recognizeGraph(simplifyGraph(imported));
    verify(graph);
    expect(Object.fromEntries(counts)).toEqual(kinds);
    expect(notes.filter((note) => note.startsWith('near miss'))).toEqual([]);
    expect(graph.inputs.filter((v) => v.node.attrs['form'] === 'mask')).toEqual([]);
    for (const node of topologicalOrder(graph))
      for (const { type } of node.results) expect(type.dims.length > 0 && leadingUnits(type) > 0).toBe(false);
    // Constants of exporters are rounded to float32; those of the ops are not.
    const [before, after] = [evaluateAlone(imported, 7), evaluateAlone(graph, 7)];
    expect(distance(before.get('logits')!, after.get('logits')!)).toBeLessThan(1e-6);
  });
});

describe('recognize', () => {
  it('adds the input documents after the other data inputs, or takes the one there is', () => {
    const weight = makeInput('w', 'parameter', parseType('f32[4]'), { trainable: true });
    const plain = recognizeGraph(attention([...qkv(), weight])).graph;
    expect(plain.inputs.map(inputName)).toEqual(['q', 'k', 'v', 'documents', 'w']);
    const documents = data('documents', 'i32[S]');
    const own = recognizeGraph(attention([...qkv(), documents])).graph;
    expect(own.inputs.at(-1)).toBe(documents);
    const none = recognizeGraph(graphOf([weight], weight)).graph;
    expect(none.inputs.map(inputName)).toEqual(['w']);
  });

  it('gives the scale as the product of all scalings', () => {
    const { graph } = recognizeGraph(
      attention(qkv(), (x) => b.one('div', [b.one('mul', [number(3), x]), number(4)])),
    );
    const node = topologicalOrder(graph).find((n) => n.op === 'attention');
    expect(node?.attrs['scale']).toBe(0.75);
  });

  it('refuses with the node, the reason and the IR around it', () => {
    const capped = attention(qkv(), (x) => b.one('relu', [x]));
    const error = caught(() => recognizeGraph(capped));
    expect(error.message).toBe(
      'softmax at /softmax runs over tokens and is nearly attention: the scores pass through relu at /softmax before softmax',
    );
    expect(error.hint).toMatch(/%\d+ = relu %\d+ : f32\[S, S\]/);
  });

  it('refuses attention between different numbers of tokens', () => {
    const [q, ...others] = qkv();
    const keys = others.map((v) => makeInput(inputName(v), 'data', parseType('f32[2*S, 4]')));
    expect(caught(() => recognizeGraph(attention([q!, ...keys]))).message).toMatch(/its k has 2\*S tokens/);
  });

  it('takes query heads apart that are rows of one product with the K/V head they share', () => {
    const [q, k, v] = [data('q', 'f32[6, S, 4]'), data('k', 'f32[2, S, 4]'), data('v', 'f32[2, S, 5]')];
    const rows = (x: Value, last: Size | number): Value =>
      b.one('reshape', [x], { shape: [2, mulSizes(3, TOKENS), last] });
    const scores = b.one('matmul', [rows(q, 4), b.one('transpose', [k], { perm: [0, 2, 1] })]);
    const perHead = b.one('reshape', [scores], { shape: [6, TOKENS, TOKENS] });
    const weights = b.one('softmax', [perHead], { dim: 2 });
    const before = {
      name: 'test',
      axes: [],
      inputs: [q, k, v],
      outputs: [{ name: 'out', value: b.one('matmul', [rows(weights, TOKENS), v]) }],
    };
    const { graph } = recognizeGraph(simplifyGraph(before));
    const attention = topologicalOrder(graph).find((n) => n.op === 'attention');
    expect(attention?.operands.slice(0, 3).map((x) => printType(x.type))).toEqual([
      'f32[S, 6, 4]',
      'f32[S, 2, 4]',
      'f32[S, 2, 5]',
    ]);
    const [a, z] = [evaluateAlone(before, 5), evaluateAlone(graph, 5)];
    expect(distance(a.get('out')!, z.get('out')!)).toBeLessThan(1e-12);
  });

  it('leaves softmax over dims of constant size alone', () => {
    const x = data('x', 'f32[S, 4]');
    const w = data('w', 'f32[4, 4]');
    const router = b.one('softmax', [b.one('matmul', [x, w])], { dim: -1 });
    const { graph, notes } = recognizeGraph(graphOf([x, w], b.one('matmul', [router, w])));
    expect(topologicalOrder(graph).map((n) => n.op)).toContain('softmax');
    expect(notes).toEqual([]);
  });

  it('knows gelu by constants rounded to float32, and no other', () => {
    const x = data('x', 'f32[S, 4]');
    const gelu = (c: number): Graph => {
      const cubic = b.one('mul', [b.one('pow', [x, number(3)]), number(Math.fround(0.044715))]);
      const tanh = b.one('tanh', [b.one('mul', [b.one('add', [x, cubic]), number(c)])]);
      return graphOf([x], b.one('mul', [b.one('mul', [x, b.one('add', [tanh, number(1)])]), number(0.5)]));
    };
    const exact = Math.sqrt(2 / Math.PI);
    expect(recognizeGraph(gelu(Math.fround(exact))).counts.get('gelu')).toBe(1);
    const other = recognizeGraph(gelu(0.798));
    expect(other.counts.size).toBe(0);
    expect(other.notes[0]).toMatch(/^near miss: mul at \/softmax: gelu: .* scaled by 0\.798/);
  });
});

function caught(action: () => unknown): UserError {
  try {
    action();
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}
