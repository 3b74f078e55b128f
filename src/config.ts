import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { createJiti } from 'jiti';
import { z } from 'zod';
import { UserError } from './errors.js';
import { POLICIES } from './passes/checkpoint/policies.js';

const patterns = z.array(z.string().max(4096)).max(10_000);

const optimizer = z.strictObject({
  /** Peak learning rate, reached after the warm-up. */
  lr: z.number().positive().default(3e-4),
  beta1: z.number().min(0).lt(1).default(0.9),
  beta2: z.number().min(0).lt(1).default(0.95),
  eps: z.number().positive().default(1e-8),
  /** Decoupled weight decay (arXiv 1711.05101), applied to every trained parameter. */
  weightDecay: z.number().nonnegative().default(0.1),
  /** Gradients are scaled down to this global norm; 0 turns clipping off. */
  clipNorm: z.number().nonnegative().default(1),
  warmupSteps: z.number().int().nonnegative().default(0),
  schedule: z.enum(['cosine', 'linear', 'constant']).default('cosine'),
  /** Final learning rate as a share of the peak. */
  minRatio: z.number().min(0).max(1).default(0.1),
  /** ZeRO: 0 replicates the optimizer state, 1 shards it over all ranks (arXiv 1910.02054). */
  zeroStage: z.union([z.literal(0), z.literal(1)]).default(1),
});

const train = z.strictObject({
  ranks: z.number().int().positive().max(1024).default(1),
  /** Degree of sequence parallelism: ranks that share a sequence; `auto`: groups are chosen for every step. */
  sp: z
    .union([z.number().int().positive().max(1024), z.literal('auto')], {
      error: "expected a whole number of 1 or more, or 'auto'",
    })
    .default(1),
  steps: z.number().int().positive().default(100),
  /** Tokens in a global batch. */
  batchTokens: z.number().int().positive().default(8192),
  /** Most tokens a group takes in one micro-batch. */
  maxTokensPerGroup: z.number().int().positive().optional(),
  /** 2³⁰ bytes a rank may use; default: no limit, with `sp: 'auto'` an equal share of the machine's memory. */
  memoryGibPerRank: z.number().positive().optional(),
  /** What `ithaca calibrate` measured; relative to the working directory. */
  calibration: z.string().max(4096).optional(),
  seed: z.number().int().nonnegative().default(0),
  /** What to do with documents longer than the model or a group takes. */
  long: z.enum(['error', 'split', 'truncate']).default('error'),
  saveEvery: z.number().int().positive().default(100),
  evalEvery: z.number().int().positive().default(50),
  keep: z.number().int().positive().default(2),
});

/** How text becomes a masked-language-modelling task, as in BERT (arXiv 1810.04805, section 3.1). */
const mlm = z.strictObject({
  /** Share of tokens that are predicted: 80 % of them become `maskId`, 10 % a random id, 10 % stay. */
  rate: z.number().gt(0).max(1).default(0.15),
  /** Id of the model's mask token. */
  maskId: z.number().int().nonnegative(),
  /** With a document's own ids it decides where its masks are, in every epoch. */
  seed: z.number().int().nonnegative().default(0),
  /** Ids that are never chosen: separators, the class token. */
  special: z.array(z.number().int().nonnegative()).max(10_000).default([]),
});

/** What the labels mean. */
const loss = z.discriminatedUnion('kind', [
  /** Every token predicts the next one; labels are shifted. */
  z.strictObject({ kind: z.literal('next-token') }),
  /** Labels belong to their own tokens; `mlm` makes them where the data have none. */
  z.strictObject({ kind: z.literal('masked-lm'), mlm: mlm.optional() }),
  /** Labels belong to their own tokens and are classes. */
  z.strictObject({ kind: z.literal('token-classification') }),
  /** Each document has one label, a class. */
  z.strictObject({ kind: z.literal('document-classification') }),
  /** Each document has as many targets, numbers, as the model has outputs: their mean squared error. */
  z.strictObject({ kind: z.literal('regression') }),
  /**
   * Every token also learns from the logits of another model, given with the data: (1 − alpha) · cross entropy +
   * alpha · temperature² · KL(teacher ‖ student), both softened by the temperature (arXiv 1503.02531).
   */
  z.strictObject({
    kind: z.literal('distillation'),
    /** What labels mean; absent: guessed, as without a teacher. */
    of: z.enum(['next-token', 'masked-lm', 'token-classification']).optional(),
    temperature: z.number().positive().max(1000).default(1),
    alpha: z.number().gt(0).max(1).default(0.5),
    /** The most likely ids a token that the teacher's logits are kept of; its probabilities are over these. */
    topK: z.number().int().positive().max(1_000_000).default(64),
  }),
]);

/** How an `ithaca.config.ts` names losses. */
export const LOSS_KINDS = loss.options.map(({ shape }) => shape.kind.value);

export const configSchema = z.strictObject({
  /** The training loss; absent: guessed from the graph, with a note. */
  loss: loss.optional(),
  /** Options of compiler passes, by pass name; see `ithaca opt --list`. */
  passes: z.record(z.string(), z.record(z.string(), z.unknown())).default({}),
  /** Globs over ONNX or torch parameter names that overrule which parameters are trained. */
  trainable: z.strictObject({ include: patterns.default([]), exclude: patterns.default([]) }).prefault({}),
  /**
   * Checkpointing policies that the package offers, a train program each: every group takes the one that runs least
   * again of those whose memory suffices. Default: the one of `passes.checkpoint`.
   */
  checkpoint: z.array(z.enum(POLICIES)).min(1).max(POLICIES.length).optional(),
  optimizer: optimizer.prefault({}),
  train: train.prefault({}),
});

/** A complete configuration, defaults filled in. */
export type Config = z.output<typeof configSchema>;

/** What a user writes: everything is optional. */
export type UserConfig = z.input<typeof configSchema>;

/** Types an `ithaca.config.ts`. */
export const defineConfig = (config: UserConfig): UserConfig => config;

const CONFIG_FILES = [
  'ithaca.config.ts',
  'ithaca.config.mts',
  'ithaca.config.js',
  'ithaca.config.mjs',
  'ithaca.config.json',
];
const MAX_CONFIG_BYTES = 1 << 20;

/** Checks a configuration object. `source` names it in errors. Throws `UserError`. */
export function parseConfig(value: unknown, source: string): Config {
  const result = configSchema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const at = issue.path.join('.');
  if (issue.code === 'invalid_union' && issue.path[0] === 'loss') throw unknownLoss(value, source);
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!;
    const known = keysAt(issue.path.map(String), lossKind(value));
    const near = nearest(key, known);
    throw new UserError(
      `${source}: unknown key '${[...issue.path, key].join('.')}'`,
      near === undefined
        ? `known keys: ${known.join(', ')}`
        : `did you mean '${near}'? known keys: ${known.join(', ')}`,
    );
  }
  throw new UserError(
    `${source}: ${at === '' ? 'the configuration' : `'${at}'`}: ${issue.message}`,
    'see README.md for the options of ithaca.config.ts',
  );
}

function unknownLoss(value: unknown, source: string): UserError {
  const kind = lossKind(value);
  const near = typeof kind === 'string' ? nearest(kind, LOSS_KINDS) : undefined;
  const known = `known losses: ${LOSS_KINDS.join(', ')}`;
  return new UserError(
    kind === undefined
      ? `${source}: 'loss' has no kind`
      : `${source}: there is no loss ${JSON.stringify(kind)}`,
    near === undefined ? `write loss: { kind: 'masked-lm' }; ${known}` : `did you mean '${near}'? ${known}`,
  );
}

/** What stands under `loss.kind`, whatever it is. */
function lossKind(value: unknown): unknown {
  const given = value as { readonly loss?: { readonly kind?: unknown } | null } | null | undefined;
  return given?.loss?.kind;
}

function keysAt(path: readonly string[], kind: unknown): string[] {
  if (path.length === 0) return Object.keys(configSchema.shape);
  if (path[0] === 'optimizer') return Object.keys(optimizer.shape);
  if (path[0] === 'train') return Object.keys(train.shape);
  if (path[0] === 'loss' && path[1] === 'mlm') return Object.keys(mlm.shape);
  if (path[0] === 'loss')
    return Object.keys(loss.options.find(({ shape }) => shape.kind.value === kind)?.shape ?? {});
  return path[0] === 'trainable' ? ['include', 'exclude'] : [];
}

/** The known word within a small edit distance, if there is one. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const scored = known.map((candidate) => ({
    candidate,
    distance: editDistance(word.toLowerCase(), candidate.toLowerCase()),
  }));
  const best = scored.sort((a, b) => a.distance - b.distance)[0];
  return best !== undefined && best.distance <= Math.max(2, word.length / 3) ? best.candidate : undefined;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + Number(a[i - 1] !== b[j - 1])));
    row = next;
  }
  return row[b.length]!;
}

/** A configuration and what of it was written down: the rest are defaults. */
export interface LoadedConfig {
  readonly config: Config;
  readonly given: UserConfig;
  /** For messages: the file, or `defaults`. */
  readonly source: string;
}

/** As `loadConfig`, for callers that must know which values the user chose. */
export async function loadConfigFile(
  options: { file?: string | undefined; cwd?: string } = {},
): Promise<LoadedConfig> {
  const cwd = options.cwd ?? process.cwd();
  const file =
    options.file === undefined
      ? CONFIG_FILES.map((f) => path.join(cwd, f)).find((f) => existsSync(f))
      : path.resolve(cwd, options.file);
  if (file === undefined) return { config: parseConfig({}, 'defaults'), given: {}, source: 'defaults' };
  const name = path.relative(cwd, file);
  if (!existsSync(file))
    throw new UserError(
      `config file ${name} does not exist`,
      'give another --config, or none for the defaults',
    );
  if (statSync(file).size > MAX_CONFIG_BYTES) throw new UserError(`config file ${name} is larger than 1 MiB`);
  const given = file.endsWith('.json') ? readJson(file, name) : await runModule(file, name);
  // What passes the schema has the shape of a UserConfig.
  return { config: parseConfig(given, name), given: given as UserConfig, source: name };
}

/**
 * Loads a configuration: the file given, else an `ithaca.config.*` in `cwd`, else the defaults.
 * A `.ts` file is code of the user's own and is run.
 */
export const loadConfig = async (
  options: { file?: string | undefined; cwd?: string } = {},
): Promise<Config> => (await loadConfigFile(options)).config;

function readJson(file: string, name: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UserError(`${name} is not valid JSON: ${(error as Error).message}`, undefined, {
      cause: error,
    });
  }
}

async function runModule(file: string, name: string): Promise<unknown> {
  const jiti = createJiti(import.meta.url, {
    interopDefault: true,
    alias: { ithaca: new URL('./index.js', import.meta.url).pathname },
  });
  let loaded: unknown;
  try {
    loaded = await jiti.import(file, { default: true });
  } catch (error) {
    throw new UserError(
      `${name} cannot be run: ${(error as Error).message.split('\n')[0]}`,
      'it must export its configuration: export default defineConfig({ … })',
      { cause: error },
    );
  }
  return typeof loaded === 'function' ? await (loaded as () => unknown)() : loaded;
}
