/** What each loss computes from a tile of logits and of what they are compared with. */
import { z } from 'zod';
import type { NamedValue, Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { scalarConstant } from '../../ir/ops/define.js';
import { constantOf, symbolSize } from '../../ir/size.js';
import { tensorType, type DType, type Type } from '../../ir/type.js';

/** A mix of what labels and another model's logits say. */
export const distillation = z.strictObject({
  /** Both distributions are softened by it (arXiv 1503.02531). */
  temperature: z.number().positive(),
  /** Share of the divergence from the teacher; the cross entropy of labels has the rest. */
  alpha: z.number().gt(0).max(1),
  /** Ids a token that the teacher gives logits of. */
  topK: z.number().int().positive(),
});

export const lossTerms = z.strictObject({
  kind: z.enum(['cross-entropy', 'squared-error']).default('cross-entropy'),
  distillation: distillation.optional(),
  /** Also count the tokens whose label has the largest logit. */
  correct: z.boolean().default(false),
});

export type LossTerms = z.output<typeof lossTerms>;

/** A data input of [S, …]. */
interface DataInput {
  readonly name: string;
  readonly type: Type;
}

/** What a loss is given beside the logits, in the order that `lossOf` takes it. */
export function dataOf({ kind, distillation: teacher }: LossTerms, logits: Value): readonly DataInput[] {
  const input = (name: string, dtype: DType, ...inner: number[]): DataInput => ({
    name,
    type: tensorType(dtype, [symbolSize('S'), ...inner]),
  });
  const labels = input('labels', 'i32');
  if (kind === 'squared-error')
    return [labels, input('targets', 'f32', constantOf(logits.type.dims[1]!.size)!)];
  if (teacher === undefined) return [labels];
  return [labels, input('teacher_ids', 'i32', teacher.topK), input('teacher_logits', 'f32', teacher.topK)];
}

/** Sums over the counted tokens of a tile; `data` is as `dataOf` says. */
export function lossOf(
  build: Builder,
  terms: LossTerms,
  logits: Value,
  data: readonly Value[],
): readonly NamedValue[] {
  const [labels, ...others] = data as [Value, ...Value[]];
  const [sum, count] =
    terms.kind === 'squared-error'
      ? build('squared_error', [logits, others[0]!, labels])
      : terms.distillation === undefined
        ? build('cross_entropy', [logits, labels])
        : distilled(build, terms.distillation, logits, data);
  const outputs = [
    { name: 'loss_sum', value: sum! },
    { name: 'count', value: count! },
  ];
  if (terms.correct && terms.kind === 'cross-entropy')
    outputs.push({ name: 'correct', value: build.one('correct', [logits, labels]) });
  return outputs;
}

function distilled(
  build: Builder,
  { temperature, alpha }: z.output<typeof distillation>,
  logits: Value,
  data: readonly Value[],
): readonly Value[] {
  const [divergence, count] = build('soft_cross_entropy', [logits, ...data], { temperature });
  if (alpha === 1) return [divergence!, count!];
  const [entropy] = build('cross_entropy', [logits, data[0]!]);
  const share = (value: Value, of: number): Value => build.one('mul', [value, scalarConstant(build, of)]);
  return [build.one('add', [share(entropy!, 1 - alpha), share(divergence!, alpha)]), count!];
}
