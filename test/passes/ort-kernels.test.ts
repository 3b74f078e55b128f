import { describe, expect, it } from 'vitest';
import { emit } from '../../src/ir/build.js';
import { makeInput, type Value } from '../../src/ir/graph.js';
import type { Sample, SampleOperand, Tensor } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';
import { OPS, opDef, type OpName } from '../../src/ir/ops/index.js';
import { localShape, type RankBinding } from '../../src/ir/placement.js';
import { parseType } from '../../src/ir/type.js';
import { isLowered } from '../../src/passes/emit/ort/kernels.js';
import { lowerSegment } from '../../src/passes/emit/ort/segment.js';
import { ortTensor, random, rankOf, runSegment } from './ort-session.js';

const names = (Object.keys(OPS) as OpName[]).filter(isLowered);

/** Samples that the op table has no reason to hold, but a lowering has. */
const MORE: Partial<Record<OpName, readonly Sample[]>> = {
  unslice: [
    { operands: [{ type: 'f32[2, S@sp]' }], attrs: { dim: 0, start: 1, end: 3, step: 1, size: 5 } },
    { operands: [{ type: 'f32[S@sp, 3]' }], attrs: { dim: 1, start: 0, end: 7, step: 3, size: 12 } },
  ],
  gather: [
    { operands: [{ type: 'f32[7]' }, { type: 'i32[S@sp]', range: [0, 6], integers: true }] },
    { operands: [{ type: 'f32[7, 2, 3]' }, { type: 'i32[S@sp, 2]', range: [0, 6], integers: true }] },
  ],
  gather_vjp: [
    {
      operands: [{ type: 'i32[S@sp, 2]', range: [0, 6], integers: true }, { type: 'f32[S@sp, 2, 3, 2]' }],
      attrs: { rows: 7 },
    },
    {
      operands: [{ type: 'i32[S@sp]', range: [0, 2], integers: true }, { type: 'f32[S@sp]' }],
      attrs: { rows: 3 },
    },
    { operands: [{ type: 'i32[]', range: [0, 2], integers: true }, { type: 'f32[4]' }], attrs: { rows: 3 } },
  ],
  broadcast: [
    { operands: [{ type: 'f32[1, 3]' }], attrs: { shape: [4, 3], axes: [] } },
    { operands: [{ type: 'f32[]' }], attrs: { shape: [9, 3], axes: ['sp', ''] } },
  ],
  cast: [
    { operands: [{ type: 'f32[S@sp]', range: [-3, 3] }], attrs: { to: 'i32' } },
    { operands: [{ type: 'i32[S@sp]', range: [-1, 1], integers: true }], attrs: { to: 'bool' } },
    { operands: [{ type: 'bool[S@sp]', range: [0, 1], integers: true }], attrs: { to: 'f32' } },
  ],
  where: [
    {
      operands: [
        { type: 'bool[S@sp]', range: [0, 1], integers: true },
        { type: 'i32[S@sp]', range: [-5, 5], integers: true },
        { type: 'i32[]', range: [-5, 5], integers: true },
      ],
    },
  ],
  clip_factor: [{ operands: [{ type: 'f32[]', range: [0.1, 3] }], attrs: { max_norm: 0 } }],
  sum_squares: [{ operands: [{ type: 'f32[]' }] }],
  rms_norm_vjp: [
    { operands: [{ type: 'f32[6]' }, { type: 'f32[6]' }, { type: 'f32[6]' }], attrs: { eps: 1e-5 } },
    {
      operands: [{ type: 'f32[2, S@sp, 6]' }, { type: 'f32[6]' }, { type: 'f32[2, S@sp, 6]' }],
      attrs: { eps: 1e-5 },
    },
  ],
  layer_norm_vjp: [
    {
      operands: [{ type: 'f32[2, S@sp, 6]' }, { type: 'f32[6]' }, { type: 'f32[2, S@sp, 6]' }],
      attrs: { eps: 1e-5 },
    },
  ],
  reduce_sum: [{ operands: [{ type: 'f32[2, S@sp, 3]' }], attrs: { dims: [0, 2], keep: false } }],
};

function drawOperand(operand: SampleOperand, rank: RankBinding, next: () => number): Tensor {
  const type = parseType(operand.type);
  const [low, high] = operand.range ?? [-1, 1];
  const shape = localShape(type, rank);
  const draw = (): number =>
    operand.integers === true
      ? low + Math.floor(next() * (high - low + 1))
      : Math.fround(low + next() * (high - low));
  return tensor(shape, Array.from({ length: shape.reduce((n, d) => n * d, 1) }, draw));
}

function checkClose(actual: readonly number[], expected: ArrayLike<number>, label: string): void {
  expect(actual.length, label).toBe(expected.length);
  const worst = Math.max(
    0,
    ...actual.map((v, i) => Math.abs(v - expected[i]!) / Math.max(1, Math.abs(expected[i]!))),
  );
  expect(worst, label).toBeLessThan(1e-5);
}

async function checkSample(
  name: OpName,
  sample: Sample,
  inputsOf: typeof drawOperand = drawOperand,
): Promise<void> {
  const inputs: Value[] = sample.operands.map((o, i) => makeInput(`i${i}`, 'data', parseType(o.type)));
  const results = emit(name, inputs, sample.attrs);
  const lowered = lowerSegment({ inputs, nodes: [results[0]!.node], outputs: results });
  const next = random(name.length);
  for (const tokens of [5, 1, 0])
    for (const degree of [1, 3])
      for (let index = 0; index < degree; index++) {
        const rank = rankOf(degree, index, tokens);
        const operands = sample.operands.map((o) => inputsOf(o, rank, next));
        const expected = opDef(name).eval!({
          types: inputs.map((v) => v.type),
          attrs: results[0]!.node.attrs,
          region: undefined,
          inputs: operands,
          shapes: results.map((r) => localShape(r.type, rank)),
          rank,
          run: () => [],
        });
        const feeds = operands.map((t, i) => ortTensor(inputs[i]!.type.dtype, t));
        const actual = await runSegment(lowered, results, rank, feeds);
        expected.forEach((t, i) =>
          checkClose(actual[i]!, t.data, `${name} result ${i}, S = ${tokens}, rank ${index} of ${degree}`),
        );
      }
}

/** Documents are numbered below the number of tokens. */
const inTokens: typeof drawOperand = (operand, rank, next) => {
  const drawn = drawOperand(operand, rank, next);
  if (operand.integers !== true) return drawn;
  return tensor(
    drawn.shape,
    drawn.data.map((n) => Math.min(n, drawn.data.length - 1)),
  );
};

describe('every lowered op agrees with its reference evaluation', () => {
  it.each(names)('%s', async (name) => {
    const samples = [...opDef(name).samples, ...(MORE[name] ?? [])];
    expect(samples.length).toBeGreaterThan(0);
    for (const sample of samples)
      await checkSample(name, sample, name === 'document_sum' ? inTokens : drawOperand);
  });
});

describe('labels', () => {
  const ignoring: typeof drawOperand = (operand, rank, next) => {
    const drawn = drawOperand(operand, rank, next);
    if (operand.integers === true)
      drawn.data.forEach((_, i) => (drawn.data[i] = i % 2 === 0 ? -100 : drawn.data[i]!));
    return drawn;
  };
  it.each([
    'cross_entropy',
    'cross_entropy_vjp',
    'correct',
    'squared_error',
    'squared_error_vjp',
    'soft_cross_entropy',
    'soft_cross_entropy_vjp',
  ] as const)('%s leaves out label −100', async (name) => {
    await checkSample(name, opDef(name).samples[0]!, ignoring);
  });
  it('cross_entropy is stable for large logits', async () => {
    const [logits, labels] = [
      { type: 'f32[S@sp, 5]', range: [-9000, 9000] },
      opDef('cross_entropy').samples[0]!.operands[1]!,
    ] as const;
    await checkSample('cross_entropy', { operands: [logits, labels] });
  });
});

it('is_nan finds what is not a number', async () => {
  await checkSample('is_nan', { operands: [{ type: 'f32[S@sp]' }] }, (operand, rank, next) => {
    const drawn = drawOperand(operand, rank, next);
    if (drawn.data.length > 0) drawn.data[0] = NaN;
    return drawn;
  });
});
