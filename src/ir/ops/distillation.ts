import type { Attrs } from '../graph.js';
import { numberAttr } from '../graph.js';
import { axes } from '../infer.js';
import { TypeMismatch, type InferContext, type Tensor } from '../op.js';
import type { Type } from '../type.js';
import { defineOp, tensor } from './define.js';
import { IGNORED_LABEL } from './loss.js';

/** Stands in a list of teacher ids that is shorter than the others; as any negative id, it is nobody's. */
export const NO_ID = -1;

const ATTRS = { temperature: 'number' } as const;

const positive = (attrs: Attrs): number => {
  const temperature = numberAttr(attrs, 'temperature');
  if (!(temperature > 0 && Number.isFinite(temperature)))
    throw new TypeMismatch('the temperature of a distillation must be positive');
  return temperature;
};

const inferring =
  (infer: (ctx: InferContext<Attrs>) => readonly Type[]) =>
  (ctx: InferContext<Attrs>): readonly Type[] => {
    positive(ctx.attrs);
    return infer(ctx);
  };

/** log Σ e^(x / temperature) over a row. */
const logSumExp = (row: Float64Array, temperature: number): number => {
  const max = row.reduce((a, b) => Math.max(a, b), -Infinity) / temperature;
  return max + Math.log(row.reduce((sum, x) => sum + Math.exp(x / temperature - max), 0));
};

/** Ids that a teacher gives a token, with their probabilities; none where the token is not counted. */
function teacherOf(
  [logits, labels, ids, teacher]: readonly Tensor[],
  t: number,
  temperature: number,
): { id: number; p: number }[] {
  if (labels!.data[t] === IGNORED_LABEL) return [];
  const [n, k] = [logits!.shape[1]!, ids!.shape[1]!];
  const given = Array.from({ length: k }, (_, i) => ({
    id: ids!.data[t * k + i]!,
    logit: teacher!.data[t * k + i]!,
  })).filter(({ id }) => !(id < 0));
  const stray = given.find(({ id }) => !(id < n));
  if (stray !== undefined) throw new RangeError(`teacher id ${stray.id} is outside a vocabulary of ${n}`);
  const lse = logSumExp(
    Float64Array.from(given, ({ logit }) => logit),
    temperature,
  );
  return given.map(({ id, logit }) => ({ id, p: Math.exp(logit / temperature - lse) }));
}

const samples = [
  { type: 'f32[S@sp, 6]' },
  { type: 'i32[S@sp]', range: [0, 5], integers: true },
  { type: 'i32[S@sp, 3]', range: [-1, 5], integers: true },
  { type: 'f32[S@sp, 3]' },
] as const;

export const softCrossEntropy = defineOp('soft_cross_entropy', {
  doc: 'Sum over counted tokens of temperature² · KL(teacher ‖ student), both softened by the temperature (arXiv 1503.02531), and the number of counted tokens. The teacher gives logits of a few ids (negative: none); its probabilities are over these.',
  operands: ['logits', 'labels', 'teacher_ids', 'teacher_logits'],
  attrs: ATTRS,
  infer: inferring(
    axes('t V, t, t K, t K -> , ', { linearity: 'none', operandDTypes: ['f32', 'i32', 'i32', 'f32'] }),
  ),
  vjp: ({ cotangents: [g], operands, wanted, attrs, build }) => {
    if (wanted[3] === true) throw new TypeMismatch('soft_cross_entropy is not differentiated by its teacher');
    return [
      g && build.one('soft_cross_entropy_vjp', [...operands, g], attrs),
      undefined,
      undefined,
      undefined,
    ];
  },
  eval: ({ inputs, shapes, attrs }) => {
    const [sum, count] = [tensor(shapes[0]!), tensor(shapes[1]!)];
    const temperature = positive(attrs);
    const [logits, labels] = inputs;
    const n = logits!.shape[1]!;
    labels!.data.forEach((label, t) => {
      if (label === IGNORED_LABEL) return;
      const row = logits!.data.subarray(t * n, (t + 1) * n);
      const lse = logSumExp(row, temperature);
      for (const { id, p } of teacherOf(inputs, t, temperature))
        if (p > 0) sum.data[0]! += temperature ** 2 * p * (Math.log(p) - row[id]! / temperature + lse);
      count.data[0]! += 1;
    });
    return [sum, count];
  },
  samples: [
    { operands: samples, attrs: { temperature: 1 } },
    { operands: samples, attrs: { temperature: 2.5 } },
  ],
});

export const softCrossEntropyVjp = defineOp('soft_cross_entropy_vjp', {
  doc: 'g · temperature · (student − teacher) probabilities, zero where the label is −100; g is the cotangent of the sum.',
  operands: ['logits', 'labels', 'teacher_ids', 'teacher_logits', 'g'],
  attrs: ATTRS,
  infer: inferring(
    axes('t V, t, t K, t K, -> t V', {
      linearity: 'last',
      operandDTypes: ['f32', 'i32', 'i32', 'f32', 'f32'],
    }),
  ),
  eval: ({ inputs, shapes, attrs }) => {
    const out = tensor(shapes[0]!);
    const temperature = positive(attrs);
    const [logits, , , , g] = inputs;
    const [rows, n] = logits!.shape as [number, number];
    const scale = g!.data[0]! * temperature;
    for (let t = 0; t < rows; t++) {
      const teacher = teacherOf(inputs, t, temperature);
      if (teacher.length === 0) continue;
      const row = logits!.data.subarray(t * n, (t + 1) * n);
      const lse = logSumExp(row, temperature);
      for (let i = 0; i < n; i++) out.data[t * n + i] = scale * Math.exp(row[i]! / temperature - lse);
      for (const { id, p } of teacher) out.data[t * n + id]! -= scale * p;
    }
    return [out];
  },
  samples: [{ operands: [...samples, { type: 'f32[]' }], attrs: { temperature: 2.5 } }],
});
