import { builderAt } from '../../src/ir/build.js';
import { makeInput, type Graph, type Value } from '../../src/ir/graph.js';
import type { OpDef, Sample, SampleOperand, Tensor } from '../../src/ir/op.js';
import { OPS, type OpName } from '../../src/ir/ops/index.js';
import { symbolSize } from '../../src/ir/size.js';
import { parseType } from '../../src/ir/type.js';
import { wholeShape } from './mesh.js';
import { randomTensor } from './random.js';

/** A sample of an op with the body that `tiled` needs. */
export interface OpSample extends Sample {
  readonly op: OpName;
  readonly region?: Graph;
}

const ids = (type: string, high: number): SampleOperand => ({ type, range: [0, high], integers: true });
const of = (op: OpName, types: readonly string[], attrs: Sample['attrs'] = {}): OpSample => ({
  op,
  operands: types.map((type) => ({ type })),
  attrs,
});

/** The loss as its pass builds it: hidden and labels sliced by tokens, the weight whole, (sum, count) summed. */
export function lossRegion(): Graph {
  const inputs = [
    makeInput('hidden', 'data', parseType('f32[T@sp, 4]')),
    makeInput('weight', 'data', parseType('f32[4, 5]')),
    makeInput('labels', 'data', parseType('i32[T@sp]')),
  ] as const;
  const b = builderAt('loss');
  const logits = b.one('matmul', [inputs[0], inputs[1]]);
  const [sum, count] = b('cross_entropy', [logits, inputs[2]]) as readonly [Value, Value];
  return {
    name: 'body',
    axes: ['sp'],
    inputs,
    outputs: [
      { name: 'sum', value: sum },
      { name: 'count', value: count },
    ],
  };
}

/** A body whose tiles lie along dim 1 of its operand and of its result. */
export function columnRegion(): Graph {
  const x = makeInput('x', 'data', parseType('f32[3, T@sp]'));
  const b = builderAt(undefined);
  return {
    name: 'columns',
    axes: ['sp'],
    inputs: [x],
    outputs: [{ name: 'y', value: b.one('tanh', [x]) }],
  };
}

/** Samples beyond the op table's own: whole and K/V placements, pending sums, ops that need more than types. */
const EXTRA: readonly OpSample[] = [
  of('exp', ['f32[3, 2]']),
  of('gelu', ['f32[3, 2]'], { approximate: 'none' }),
  of('silu', ['f32[3, 2@sp(4)]']),
  of('add', ['f32[3]{U:sp}', 'f32[2, 3]{U:sp}']),
  of('add', ['f32[S, 1, 3]', 'f32[S, 4@sp, 3]']),
  of('add', ['f32[1@sp, 3]', 'f32[1, 3]']),
  of('mul', ['f32[S, 1@sp]', 'f32[S, 1]']),
  of('mul', ['f32[2@sp(4), 3]', 'f32[3]']),
  of('mul', ['f32[2@sp(4), 3]{U:sp}', 'f32[3]']),
  of('mul', ['f32[4]{U:sp}', 'f32[2, 4]']),
  { op: 'div', operands: [{ type: 'f32[4]{U:sp}' }, { type: 'f32[4]', range: [1, 2] }], attrs: {} },
  of('neg', ['f32[4]{U:sp}']),
  { op: 'where', operands: [ids('bool[2, 1]', 1), { type: 'f32[3]' }, { type: 'f32[2, 3]' }], attrs: {} },
  of('matmul', ['f32[2, 3, 4]', 'f32[4, 3]']),
  of('matmul', ['f32[2, 3, S@sp, 4]', 'f32[4, 3]']),
  of('matmul', ['f32[3, 4]', 'f32[2, 4, 2]']),
  of('matmul', ['f32[2@sp(4), 3, 4]', 'f32[4, 3]']),
  of('matmul', ['f32[2, 3, 4@sp]', 'f32[4@sp, 3]']),
  of('matmul', ['f32[2, S, 4]', 'f32[4, 3@sp]']),
  of('matmul', ['f32[3, 4]{U:sp}', 'f32[4, 2]']),
  of('matmul', ['f32[1, S@sp, 4]', 'f32[3, 4, 2]']),
  of('reduce_sum', ['f32[6@sp/2, 3]'], { dims: [0], keep: false }),
  of('reduce_sum', ['f32[2@sp(4), 3]{U:sp}'], { dims: [0, 1], keep: false }),
  of('reduce_sum', ['f32[1@sp, 3]'], { dims: [0], keep: true }),
  of('reduce_sum', ['f32[3, 2]{U:sp}'], { dims: [-1], keep: false }),
  of('reduce_mean', ['f32[2, 3, S@sp]'], { dims: [0, 1], keep: false }),
  of('softmax', ['f32[3, 4, S@sp]'], { dim: 1 }),
  of('softmax', ['f32[3, 4]'], { dim: 0 }),
  of('transpose', ['f32[2, 3, S@sp]'], { perm: [-1, 0, 1] }),
  of('reshape', ['f32[1@sp, 4]'], { shape: [2, 2] }),
  of('reshape', ['f32[S, 2@sp(4), 3]'], { shape: [symbolSize('S'), 6] }),
  of('reshape', ['f32[6, 3]{U:sp}'], { shape: [9, 2] }),
  of('slice', ['f32[6]{U:sp}'], { dim: 0, start: 2, end: 6, step: 3 }),
  of('concat', ['f32[2, 3]{U:sp}', 'f32[1, 3]{U:sp}'], { dim: 0 }),
  of('broadcast', ['f32[3]'], { shape: [12, 3], axes: ['sp/4', ''] }),
  of('broadcast', ['f32[1, 3]'], { shape: [2, 3], axes: ['sp(4)', ''] }),
  of('broadcast', ['f32[1]'], { shape: [1], axes: ['sp'] }),
  of('broadcast', ['f32[3]{U:sp}'], { shape: [2, 3], axes: [] }),
  of('rms_norm', ['f32[3, 6]', 'f32[6]'], { eps: 1e-5 }),
  of('rms_norm', ['f32[2, 2@sp(4), 6]', 'f32[6]'], { eps: 1e-5 }),
  of('layer_norm', ['f32[2, S@sp, 6]', 'f32[6]', 'f32[6]'], { eps: 1e-5 }),
  of('layer_norm', ['f32[6]', 'f32[6]', 'f32[6]'], { eps: 1e-5 }),
  { op: 'gather', operands: [{ type: 'f32[7, 3]' }, ids('i32[2, 4]', 6)], attrs: {} },
  { op: 'gather', operands: [{ type: 'f32[7, 3@sp]' }, ids('i32[4]', 6)], attrs: {} },
  { op: 'cross_entropy', operands: [{ type: 'f32[3, 5]' }, ids('i32[3]', 4)], attrs: {} },
  {
    op: 'attention',
    operands: [
      { type: 'f32[S, 4, 3]' },
      { type: 'f32[S, 4, 3]' },
      { type: 'f32[S, 4, 2]' },
      ids('i32[S]', 2),
    ],
    attrs: { mask: 'causal', scale: 0.5 },
  },
  {
    op: 'attention',
    operands: [
      { type: 'f32[S, 4@sp, 3]' },
      { type: 'f32[S, 4@sp, 3]' },
      { type: 'f32[S, 4@sp, 2]' },
      ids('i32[S]', 2),
    ],
    attrs: { mask: 'full', scale: 0.5 },
  },
  {
    op: 'attention',
    operands: [
      { type: 'f32[S, 8@sp, 2]' },
      { type: 'f32[S, 2@sp(8), 2]' },
      { type: 'f32[S, 2@sp(8), 2]' },
      ids('i32[S]', 1),
    ],
    attrs: { mask: 'causal', scale: 1 },
  },
  of('all_to_all', ['f32[S@sp, 4, 3]', 'f32[S@sp, 2, 3]'], { from: 0, to: 1, heads: 4 }),
  of('all_to_all', ['f32[S@sp, 4, 3]'], { from: -3, to: -2 }),
  of('all_to_all', ['f32[S, 4@sp, 3]'], { from: 1, to: 0 }),
  of('all_to_all', ['f32[S, 2@sp(4), 3]{U:sp}', 'f32[S, 4@sp]'], { from: 1, to: 0 }),
  of('all_reduce', ['f32[3]{U:sp}', 'f32[]{U:sp}'], { axis: 'sp' }),
  of('reduce_scatter', ['f32[5, 2]{U:sp}'], { axis: 'sp' }),
  of('all_gather', ['f32[5@sp, 2]', 'f32[1@sp]'], { axis: 'sp' }),
  {
    op: 'tiled',
    operands: [{ type: 'f32[S@sp, 4]' }, { type: 'f32[4, 5]' }, ids('i32[S@sp]', 4)],
    attrs: { tile: 2, slice: [0, -1, 0], results: ['sum', 'sum'] },
    region: lossRegion(),
  },
  {
    op: 'tiled',
    operands: [{ type: 'f32[3, S@sp]' }],
    attrs: { tile: 2, slice: [1], results: ['concat'] },
    region: columnRegion(),
  },
];

export const SAMPLES: readonly OpSample[] = [
  ...Object.values(OPS).flatMap((def: OpDef) =>
    def.samples.map((sample): OpSample => ({ ...sample, op: def.name as OpName })),
  ),
  ...EXTRA,
];

export const sampleTitle = ({ op, operands, attrs }: OpSample): string =>
  `${op} ${operands.map((o) => o.type).join(', ')} ${JSON.stringify(attrs ?? {})}`;

/** `out0 = op(x0, x1, …)` for a sample. */
export function sampleGraph(sample: OpSample): Graph {
  const inputs = sample.operands.map((o, i) => makeInput(`x${i}`, 'data', parseType(o.type)));
  const results = builderAt(undefined)(sample.op, inputs, sample.attrs ?? {}, sample.region);
  return {
    name: sample.op,
    axes: ['sp', 'world'],
    inputs,
    outputs: results.map((value, i) => ({ name: `out${i}`, value })),
  };
}

/** Whole random values of a sample's operands. */
export const sampleValues = (sample: OpSample, tokens: number, random: () => number): Map<string, Tensor> =>
  new Map(
    sample.operands.map((o, i) => [
      `x${i}`,
      randomTensor(random, wholeShape(parseType(o.type), tokens), o.range, o.integers),
    ]),
  );
