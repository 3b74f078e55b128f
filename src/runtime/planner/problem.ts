import { readFileSync, statSync } from 'node:fs';
import { z } from 'zod';
import { UserError } from '../../errors.js';
import type { CostModel } from './cost.js';
import { flexSpCost } from './flexsp-cost.js';

/** Files of problems are text that a person can still look at. */
const MAX_BYTES = 256 * 2 ** 20;
const MAX_SEQUENCES = 2_000_000;

const positive = z.number().positive();
const count = z.number().int().positive();

const settingSchema = z.object({
  gpus: count.max(1 << 20),
  model: z.string().max(200).default('model'),
  degrees: z.array(count).min(1).max(4096),
  device_token_capacity: count,
  attn_ms_per_token2: z.number().nonnegative(),
  linear_ms_per_token: positive,
  microbatch_fixed_ms: z.number().nonnegative(),
  a2a_mb_per_token: z.number().nonnegative(),
  model_state_mb_per_gpu: z.number().nonnegative().default(0),
  act_mb_per_token: z.number().nonnegative().default(0),
  memory_limit_gb: positive.default(1 << 20),
  gpus_per_node: count.default(8),
  /** Longest sequence of the run. */
  max_tokens: count.optional(),
});

const problemSchema = z.object({
  bandwidth: z.record(z.string().regex(/^\d+$/), positive.nullable()),
  settings: z.record(z.string().max(200), settingSchema),
  batches: z.array(
    z.object({
      id: z.string().max(200),
      setting: z.string().max(200),
      lengths: z
        .array(
          z
            .number()
            .int()
            .nonnegative()
            .max(2 ** 40),
        )
        .max(MAX_SEQUENCES),
    }),
  ),
});

/** One batch to plan: the lengths of its sequences in tokens, and what planning them is priced by. */
export interface Problem {
  readonly id: string;
  readonly setting: string;
  readonly lengths: readonly number[];
  readonly cost: CostModel;
  /** What a run of one degree must be ready for: 99 % of the setting's longest sequence, where it names one. */
  readonly longest: number | undefined;
}

/**
 * Reads a file of planning problems: batches of lengths, and per setting the constants of FlexSP's cost model.
 * @param id reads the batches of this name alone, if there are any
 * @throws UserError for a file that cannot be read or does not have the format
 */
export function readProblems(file: string, id?: string): readonly Problem[] {
  let text: string;
  try {
    const { size } = statSync(file);
    if (size > MAX_BYTES)
      throw new UserError(`${file}: ${size} bytes, a problem file has at most ${MAX_BYTES}`, 'split it');
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`${file}: cannot be read (${String(cause)})`, 'give the path of a problem file', {
      cause,
    });
  }
  return parseProblems(text, file, id);
}

/** @throws UserError naming the key that does not fit */
export function parseProblems(text: string, file = 'problem', id?: string): readonly Problem[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new UserError(
      `${file}: is not JSON (${String(cause)})`,
      'see `ithaca plan --help` for the format',
      { cause },
    );
  }
  const parsed = problemSchema.safeParse(id === undefined ? json : onlyBatch(json, id));
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new UserError(
      `${file}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'does not fit the format'}`,
      'a problem file holds `bandwidth`, `settings` and `batches`',
    );
  }
  const { bandwidth, settings, batches } = parsed.data;
  const bandwidths = new Map<number, number>();
  for (const [degree, value] of Object.entries(bandwidth))
    if (value !== null) bandwidths.set(Number(degree), value);
  const costs = new Map(
    Object.entries(settings).map(
      ([name, setting]) => [name, settingCost(name, setting, bandwidths)] as const,
    ),
  );
  return batches.map(({ id, setting, lengths }) => {
    const cost = costs.get(setting);
    if (cost === undefined)
      throw new UserError(
        `${file}: batch ${id} names the setting ${JSON.stringify(setting)}, which is not in \`settings\``,
        `use one of ${[...costs.keys()].join(', ')}`,
      );
    const most = settings[setting]?.max_tokens;
    const longest = most === undefined ? undefined : Math.floor(0.99 * most);
    return { id, setting, lengths, cost, longest };
  });
}

/** The same file with the batches of one name, if there are any. */
function onlyBatch(json: unknown, id: string): unknown {
  if (typeof json !== 'object' || json === null || !('batches' in json) || !Array.isArray(json.batches))
    return json;
  const named = json.batches.filter(
    (batch: unknown) => typeof batch === 'object' && batch !== null && 'id' in batch && batch.id === id,
  );
  return named.length === 0 ? json : { ...json, batches: named };
}

function settingCost(
  name: string,
  setting: z.output<typeof settingSchema>,
  bandwidth: ReadonlyMap<number, number>,
): CostModel {
  const MIB = 2 ** 20;
  return flexSpCost({
    name,
    ranks: setting.gpus,
    ranksPerNode: setting.gpus_per_node,
    degrees: setting.degrees.filter((degree) => degree <= setting.gpus),
    attentionMsPerToken2: setting.attn_ms_per_token2,
    linearMsPerToken: setting.linear_ms_per_token,
    microBatchMs: setting.microbatch_fixed_ms,
    exchangeMibPerToken: setting.a2a_mb_per_token,
    bandwidth,
    tokensPerRank: setting.device_token_capacity,
    stateBytes: setting.model_state_mb_per_gpu * MIB,
    activationBytesPerToken: setting.act_mb_per_token * MIB,
    memoryLimitBytes: setting.memory_limit_gb * 1024 * MIB,
  });
}

/** @throws UserError listing what there is */
export function findProblem(problems: readonly Problem[], id: string): Problem {
  const found = problems.find((problem) => problem.id === id);
  if (found === undefined)
    throw new UserError(
      `there is no batch ${JSON.stringify(id)}`,
      `there are ${problems
        .map((p) => p.id)
        .slice(0, 20)
        .join(', ')}${problems.length > 20 ? ', …' : ''}`,
    );
  return found;
}
