import { inputName, type Attrs, type Graph, type Value } from '../../src/ir/graph.js';
import { interpret, meshOf } from '../../src/ir/interpret.js';
import type { Tensor } from '../../src/ir/op.js';
import { visible } from '../../src/ir/ops/attention-mask.js';
import { evaluateSize, type SymbolValues } from '../../src/ir/size.js';

/** Float32's lowest number: what exporters add to hidden scores. */
const LOWEST = -3.4028234663852886e38;

/** Deterministic numbers in [0, 1) for a name. */
function randomOf(name: string): () => number {
  let state = 2166136261;
  for (const c of name) state = Math.imul(state ^ c.codePointAt(0)!, 16777619);
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0;
    return ((state >>> 0) % 1_000_003) / 1_000_003;
  };
}

function maskTensor({ node: { attrs } }: Value, shape: readonly number[]): Float64Array {
  const tokens = shape[shape.length - 1]!;
  if (attrs['kind'] === 'distance') return distances(attrs, shape);
  if (attrs['kind'] === 'relative') return offsets(attrs, shape);
  const maskAttrs = { mask: attrs['kind'], window: attrs['window'] };
  const data = new Float64Array(shape.reduce((product, n) => product * n, 1));
  data.forEach((_, at) => {
    const seen = visible(maskAttrs, Math.floor(at / tokens) % tokens, at % tokens);
    data[at] = attrs['additive'] === true ? (seen ? 0 : LOWEST) : Number(seen);
  });
  return data;
}

/** A table by the offset of the key, held at its ends. */
function offsets(attrs: Attrs, shape: readonly number[]): Float64Array {
  const tokens = shape[shape.length - 1]!;
  const [before, count] = [attrs['before'] as number, attrs['count'] as number];
  return Float64Array.from({ length: shape.reduce((product, n) => product * n, 1) }, (_, at) => {
    const [h, i, j] = [Math.floor(at / tokens ** 2), Math.floor(at / tokens) % tokens, at % tokens];
    return (attrs['table'] as number[])[h * count + Math.min(Math.max(j - i + before, 0), count - 1)]!;
  });
}

/** Of the key behind the query, or of the key from the last. */
function distances(attrs: Attrs, shape: readonly number[]): Float64Array {
  const tokens = shape[shape.length - 1]!;
  const between = (i: number, j: number): number => (attrs['of'] === 'absolute' ? Math.abs(i - j) : j - i);
  return Float64Array.from({ length: shape.reduce((product, n) => product * n, 1) }, (_, at) => {
    const j = at % tokens;
    const distance = attrs['of'] === 'end' ? j - tokens + 1 : between(Math.floor(at / tokens) % tokens, j);
    const factors = attrs['factors'] as readonly number[];
    const rows = attrs['of'] === 'end' ? 1 : tokens;
    return factors[Math.floor(at / (rows * tokens)) % factors.length]! * distance;
  });
}

/**
 * A value for a graph input: masks by their form, one document, positions counted, ids below 5, weights and
 * activations in [−1, 1).
 */
export function feed(input: Value, symbols: SymbolValues): Tensor {
  const shape = input.type.dims.map((d) => evaluateSize(d.size, symbols));
  const size = shape.reduce((product, n) => product * n, 1);
  const name = inputName(input);
  if (input.node.attrs['form'] === 'mask') return { shape, data: maskTensor(input, shape) };
  const random = randomOf(name);
  const next = (i: number): number => {
    if (name === 'documents') return 0;
    if (name === 'positions') return i;
    if (input.type.dtype === 'f32') return 2 * random() - 1;
    return Math.floor(random() * (input.type.dtype === 'bool' ? 2 : 5));
  };
  return { shape, data: Float64Array.from({ length: size }, (_, i) => next(i)) };
}

/** Outputs of a graph on one rank holding `tokens` tokens, every input fed by its name. */
export function evaluateAlone(graph: Graph, tokens: number): ReadonlyMap<string, Tensor> {
  const symbols = new Map([['S', tokens]]);
  const inputs = new Map(graph.inputs.map((v) => [inputName(v), feed(v, symbols)]));
  const outputs = interpret(
    graph,
    meshOf([1], () => symbols),
    (name) => inputs.get(name)!,
  );
  return new Map([...outputs].map(([name, perRank]) => [name, perRank[0]!]));
}

/** Largest difference of two tensors, relative to the larger of 1 and the value; Infinity if shapes differ. */
export function distance(a: Tensor, b: Tensor): number {
  if (a.shape.join() !== b.shape.join()) return Infinity;
  return a.data.reduce((worst, x, i) => {
    const y = b.data[i]!;
    if (Object.is(x, y) || (Number.isNaN(x) && Number.isNaN(y))) return worst;
    const error = Math.abs(x - y) / Math.max(1, Math.abs(x));
    return Math.max(worst, Number.isNaN(error) ? Infinity : error);
  }, 0);
}
