/** One transformer as each opset spells it: the programs are the same. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { describe, expect, test } from 'vitest';
import { printGraph } from '../../../src/ir/text/print.js';
import { lowered } from '../../support/lowered.js';
import { put, raw, temporaryFolder } from './build.js';

const folder = temporaryFolder();
const [VOCABULARY, WIDTH, HEADS, HIDDEN] = [11, 8, 2, 12];

type Attributes = Readonly<Record<string, number | string | readonly number[]>>;

const attribute = ([name, value]: readonly [string, Attributes[string]]): onnx.IAttributeProto =>
  typeof value === 'string'
    ? { name, type: 3, s: new TextEncoder().encode(value) }
    : typeof value === 'number'
      ? Number.isInteger(value)
        ? { name, type: 2, i: value }
        : { name, type: 1, f: value }
      : { name, type: 7, ints: [...value] };

const weight = (name: string, dims: readonly number[]): onnx.ITensorProto => ({
  name,
  dims: [...dims],
  dataType: 1,
  rawData: raw(
    Array.from(
      { length: dims.reduce((a, b) => a * b, 1) },
      (_, i) => Math.sin(i * i + name.length * 7 + name.charCodeAt(0)) / 3,
    ),
  ),
});

const storedInts = (name: string, values: readonly number[], scalar = false): onnx.ITensorProto => ({
  name,
  dims: scalar ? [] : [values.length],
  dataType: 7,
  rawData: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});

/** Nodes in order; each formula returns the name of its result. */
function writer(opset: number) {
  const nodes: onnx.INodeProto[] = [];
  const initializers: onnx.ITensorProto[] = [];

  function node(
    opType: string,
    inputs: readonly string[],
    attributes: Attributes = {},
    results = 1,
  ): string[] {
    const output = Array.from({ length: results }, (_, i) => `v${nodes.length}_${i}`);
    nodes.push({
      opType,
      name: `n${nodes.length}`,
      input: [...inputs],
      output,
      attribute: Object.entries(attributes).map(attribute),
    });
    return output;
  }

  function one(opType: string, inputs: readonly string[], attributes: Attributes = {}): string {
    return node(opType, inputs, attributes)[0]!;
  }

  function ints(values: readonly number[], scalar = false): string {
    const name = `i${initializers.length}`;
    initializers.push(storedInts(name, values, scalar));
    return name;
  }

  function number(value: number): string {
    const name = `c${initializers.length}`;
    initializers.push({ name, dims: [], dataType: 1, rawData: raw([value]) });
    return name;
  }

  /** Axes are an attribute before opset 18. */
  function mean(x: string): string {
    return opset < 18
      ? one('ReduceMean', [x], { axes: [-1], keepdims: 1 })
      : one('ReduceMean', [x, ints([-1])], { keepdims: 1 });
  }

  function layerNorm(x: string, name: string): string {
    const eps = 0.0009765625;
    if (opset >= 17)
      return one('LayerNormalization', [x, `${name}.w`, `${name}.b`], { axis: -1, epsilon: eps });
    const off = one('Sub', [x, mean(x)]);
    const variance = mean(one('Pow', [off, number(2)]));
    const deviation = one('Sqrt', [one('Add', [variance, number(eps)])]);
    const scaled = one('Mul', [one('Div', [off, deviation]), `${name}.w`]);
    return one('Add', [scaled, `${name}.b`]);
  }

  function rmsNorm(x: string, w: string): string {
    const eps = 0.0009765625;
    if (opset >= 23) return one('RMSNormalization', [x, w], { axis: -1, epsilon: eps });
    const square = mean(one('Pow', [x, number(2)]));
    const root = one('Sqrt', [one('Add', [square, number(eps)])]);
    return one('Mul', [one('Mul', [x, one('Reciprocal', [root])]), w]);
  }

  function gelu(x: string): string {
    if (opset >= 20) return one('Gelu', [x]);
    const erf = one('Erf', [one('Div', [x, number(Math.SQRT2)])]);
    const gate = one('Add', [erf, number(1)]);
    return one('Mul', [one('Mul', [x, gate]), number(0.5)]);
  }

  function swish(x: string): string {
    return opset >= 24 ? one('Swish', [x]) : one('Mul', [x, one('Sigmoid', [x])]);
  }

  /** The number of tokens; a part of a shape from opset 15. */
  function tokens(ids: string): string {
    const shape = (): string => one('Shape', [ids]);
    return opset >= 15
      ? one('Shape', [ids], { start: 1, end: 2 })
      : one('Slice', [shape(), ints([1]), ints([2])]);
  }

  /** x as [1, S, heads, size]; a 0 means 0 where allowzero says so, from opset 14. */
  function reshape(x: string, ids: string, dims: readonly number[]): string {
    if (opset < 14) return one('Reshape', [x, ints([0, 0, ...dims])]);
    const target = one('Concat', [ints([1]), tokens(ids), ints(dims)], { axis: 0 });
    return one('Reshape', [x, target], { allowzero: 1 });
  }

  function attention(x: string, ids: string): string {
    const fused = one('Add', [one('MatMul', [x, 'qkv.w']), 'qkv.b']);
    const [q, k, v] =
      opset >= 18
        ? node('Split', [fused], { axis: -1, num_outputs: 3 }, 3)
        : node('Split', [fused, ints([WIDTH, WIDTH, WIDTH])], { axis: -1 }, 3);
    if (opset >= 23)
      return one('Attention', [q!, k!, v!], { is_causal: 1, q_num_heads: HEADS, kv_num_heads: HEADS });
    const turned = (value: string, perm: readonly number[]): string =>
      one('Transpose', [reshape(value, ids, [HEADS, WIDTH / HEADS])], { perm });
    const product = one('MatMul', [turned(q!, [0, 2, 1, 3]), turned(k!, [0, 2, 3, 1])]);
    const scores = one('Add', [one('Mul', [product, number(1 / Math.sqrt(WIDTH / HEADS))]), mask(ids)]);
    const weights = one('Softmax', [scores], { axis: -1 });
    const out = one('MatMul', [weights, turned(v!, [0, 2, 1, 3])]);
    return reshape(one('Transpose', [out], { perm: [0, 2, 1, 3] }), ids, [WIDTH]);
  }

  /** Trilu came with opset 14. */
  function mask(ids: string): string {
    const count = tokens(ids);
    if (opset >= 14) {
      const square = one('Concat', [count, count], { axis: 0 });
      const full = one('Expand', [number(-Infinity), square]);
      return one('Trilu', [full, ints([1], true)], { upper: 1 });
    }
    const steps = range(count);
    const row = one('Unsqueeze', [steps, ints([1])]);
    const seen = one('LessOrEqual', [one('Unsqueeze', [steps, ints([0])]), row]);
    return one('Where', [seen, number(0), number(-Infinity)]);
  }

  function range(count: string): string {
    return one('Range', [ints([0], true), one('Squeeze', [count, ints([0])]), ints([1], true)]);
  }

  return { nodes, initializers, one, ints, attention, layerNorm, rmsNorm, gelu, swish, tokens, range };
}

function transformer(opset: number): Uint8Array {
  const w = writer(opset);
  const ids = 'input_ids';
  const places = w.one('Unsqueeze', [w.range(w.tokens(ids)), w.ints([0])]);
  const x = w.one('Add', [w.one('Gather', ['wte', ids]), w.one('Gather', ['wpe', places])]);
  const attended = w.one('MatMul', [w.attention(w.layerNorm(x, 'ln1'), ids), 'out.w']);
  const middle = w.one('Add', [x, attended]);
  const up = w.gelu(w.one('MatMul', [w.layerNorm(middle, 'ln2'), 'up.w']));
  const gate = w.swish(w.one('MatMul', [middle, 'gate.w']));
  const down = w.one('MatMul', [w.one('Mul', [up, gate]), 'down.w']);
  const last = w.rmsNorm(w.one('Add', [middle, down]), 'norm.w');
  w.nodes.push({ opType: 'MatMul', name: 'head', input: [last, 'head.w'], output: ['logits'] });
  return onnxProto.onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [{ domain: '', version: opset }],
    graph: {
      name: 'g',
      input: [
        {
          name: ids,
          type: { tensorType: { elemType: 7, shape: { dim: [{ dimParam: 'b' }, { dimParam: 's' }] } } },
        },
      ],
      output: [{ name: 'logits', type: { tensorType: { elemType: 1 } } }],
      node: w.nodes,
      initializer: [
        ...w.initializers,
        weight('wte', [VOCABULARY, WIDTH]),
        weight('wpe', [32, WIDTH]),
        ...['ln1', 'ln2'].flatMap((name) => [weight(`${name}.w`, [WIDTH]), weight(`${name}.b`, [WIDTH])]),
        weight('qkv.w', [WIDTH, 3 * WIDTH]),
        weight('qkv.b', [3 * WIDTH]),
        weight('out.w', [WIDTH, WIDTH]),
        weight('up.w', [WIDTH, HIDDEN]),
        weight('gate.w', [WIDTH, HIDDEN]),
        weight('down.w', [HIDDEN, WIDTH]),
        weight('norm.w', [WIDTH]),
        weight('head.w', [WIDTH, VOCABULARY]),
      ],
    },
  }).finish();
}

/** The training program without where its nodes come from. */
async function programOf(opset: number): Promise<string> {
  const own = path.join(folder, `${opset}`);
  mkdirSync(own);
  put(own, 'model.onnx', transformer(opset));
  const model = await lowered(own);
  return printGraph(model.graphs.get('train')!).replaceAll(/ @"[^"]*"/g, '');
}

describe('a transformer', () => {
  const first = programOf(13);

  test('of opset 13 has what it is made of', async () => {
    const program = await first;
    for (const op of ['attention', 'layer_norm', 'rms_norm', 'gelu', 'silu'])
      expect(program).toMatch(new RegExp(String.raw`= ${op} `));
    expect(program).toContain('mask = "causal"');
  });

  test.each([14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24])(
    'of opset %i is the same program',
    async (opset) => {
      expect(await programOf(opset)).toBe(await first);
    },
  );
});
