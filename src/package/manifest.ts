import { z } from 'zod';
import { POLICIES } from '../passes/checkpoint/policies.js';
import { POOL_KINDS } from '../ir/pooled.js';

const text = z.string().max(65_536);
const count = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** Where the initial value of a parameter is. Offsets are bytes into the named file. */
const weightLocation = z.discriminatedUnion('kind', [
  /** Inside `model/model.onnx` of the package, a copy of the source. */
  z.strictObject({ kind: z.literal('model'), offset: count, bytes: count, dtype: text }),
  /** In the source model's own external data, outside the package; absolute, and checked by size. */
  z.strictObject({ kind: z.literal('external'), file: text, offset: count, bytes: count, dtype: text }),
  /** In `weights/weights.safetensors` of the package, under the parameter's name. */
  z.strictObject({ kind: z.literal('safetensors') }),
  /** Not available: compiled with --no-weights. */
  z.strictObject({ kind: z.literal('absent') }),
]);

const parameter = z.strictObject({
  /** ONNX initialiser. */
  name: text,
  shape: z.array(count).max(16),
  trainable: z.boolean(),
  /** Why it is (not) trained. */
  reason: text,
  torchName: text.optional(),
  torchLayout: z.enum(['same', 'transposed']).optional(),
  /** Another parameter that holds the same weight (perhaps transposed): gradients are summed, updates shared. */
  tiedTo: z.strictObject({ name: text, transposed: z.boolean() }).optional(),
  weight: weightLocation,
});

/** What labels mean, and how they come about. */
const loss = z.strictObject({
  /** `next-token` labels are shifted: a token has that of its successor. Others belong to their own token. */
  kind: z.enum(['next-token', 'masked-lm', 'token-classification', 'document-classification', 'regression']),
  /** Width of the logits: labels are below it. In regression, the number of targets. */
  classes: count,
  /** What stands for a document, where documents have labels. */
  pool: z.strictObject({ kind: z.enum(POOL_KINDS), id: count.optional() }).optional(),
  /** Training also follows another model's logits; see the config. */
  distillation: z
    .strictObject({
      temperature: z.number().positive(),
      alpha: z.number().gt(0).max(1),
      topK: count.min(1),
    })
    .optional(),
  /** Masks for documents that have no labels. */
  mlm: z
    .strictObject({
      rate: z.number().gt(0).max(1),
      maskId: count,
      seed: count,
      special: z.array(count).max(10_000),
    })
    .optional(),
});

export const manifestSchema = z.strictObject({
  format: z.literal('ithaca-package'),
  version: z.literal(1),
  ithaca: text,
  name: text,
  source: z.strictObject({ file: text, sha256, bytes: count }),
  /** Token ids are below it. */
  vocabulary: count,
  loss,
  /** Rows of the token type table, where the model has one. */
  tokenTypes: count.optional(),
  /** Token ids that stand for padding in the model, which documents may not hold. */
  padding: z.array(count).max(64).optional(),
  /** Degrees above this are refused: the fewest query heads of an attention. */
  maxDegree: count,
  /** Longest document the model is known to be right for; absent: any length. */
  maxDocument: z.strictObject({ tokens: count, reason: text }).optional(),
  parameters: z.array(parameter),
  passes: z.array(z.strictObject({ name: text, options: z.record(z.string(), z.unknown()) })),
  optimizer: z.strictObject({
    beta1: z.number(),
    beta2: z.number(),
    eps: z.number(),
    weightDecay: z.number(),
    clipNorm: z.number().nonnegative(),
    zeroStage: z.union([z.literal(0), z.literal(1)]),
  }),
  /** What was recognised, by kind, and remarks for the user. */
  recognized: z.record(z.string(), count),
  notes: z.array(text),
  /** `train`, `eval`, `update`, and a `train_…` for each further checkpointing policy. */
  programs: z.array(z.string().regex(/^(train(_[a-z]{1,20})?|eval|update)$/)).max(16),
  /** Train programs from what runs least again to what keeps least, where there are several. */
  checkpoint: z
    .array(z.strictObject({ policy: z.enum(POLICIES), program: text }))
    .min(2)
    .max(POLICIES.length)
    .optional(),
  files: z.array(z.strictObject({ path: text, bytes: count, sha256 })),
});

export type Manifest = z.infer<typeof manifestSchema>;
export type LossEntry = Manifest['loss'];
export type MaskEntry = NonNullable<LossEntry['mlm']>;
export type ParameterEntry = Manifest['parameters'][number];
/** Names of a package's train programs, from what runs least again to what keeps least. */
export const trainProgramsOf = ({ checkpoint }: Manifest): readonly string[] =>
  checkpoint?.map(({ program }) => program) ?? ['train'];
export type WeightLocation = ParameterEntry['weight'];
