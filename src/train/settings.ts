import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { parseConfig, type Config, type UserConfig } from '../config.js';
import { UserError } from '../errors.js';
import type { Manifest } from '../package/manifest.js';

const count = z.number().int().nonnegative();
const positive = z.number().int().positive();

/** Everything that decides how a run goes, beside the package. Kept in `run.json`, so that a run can be continued. */
export const settingsSchema = z.strictObject({
  /** Paths or globs, relative to `cwd`. */
  data: z.array(z.string()).min(1),
  evalData: z.array(z.string()),
  cwd: z.string(),
  /** `bytes` or the absolute path of a tokenizer. */
  tokenizer: z.string().optional(),
  ranks: positive.max(1024),
  sp: z.union([positive.max(1024), z.literal('auto')]),
  steps: positive,
  lr: z.number().positive(),
  warmupSteps: count,
  schedule: z.enum(['cosine', 'linear', 'constant']),
  minRatio: z.number().min(0).max(1),
  batchTokens: positive,
  maxTokensPerGroup: positive.optional(),
  memoryGibPerRank: z.number().positive().optional(),
  /** Relative to `cwd`. */
  calibration: z.string().optional(),
  seed: count,
  long: z.enum(['error', 'split', 'truncate']),
  saveEvery: positive,
  evalEvery: positive,
  keep: positive,
});

export type TrainSettings = Readonly<z.infer<typeof settingsSchema>>;

/** What the command line says; undefined leaves the choice to the config file, the run or the defaults. */
export type TrainFlags = { readonly [K in keyof TrainSettings]?: TrainSettings[K] | undefined };

/** Flags before config before defaults (which a parsed config holds). @throws UserError without data */
export function settingsOf(flags: TrainFlags, { train, optimizer }: Config, cwd: string): TrainSettings {
  const { data } = flags;
  if (data === undefined || data.length === 0)
    throw new UserError('no training data was given', "name files: --data 'docs/**/*.md' --tokenizer bytes");
  const { lr, warmupSteps, schedule, minRatio } = optimizer;
  return settingsSchema.parse({
    ...train,
    lr,
    warmupSteps,
    schedule,
    minRatio,
    evalData: [],
    ...given(flags),
    data,
    cwd,
  });
}

/** A run's own settings with what the command line changes. */
export const continuedSettings = (flags: TrainFlags, recorded: TrainSettings, cwd: string): TrainSettings =>
  settingsSchema.parse({
    ...recorded,
    ...given(flags),
    // Patterns of the command line are relative to where it was given.
    ...(flags.data === undefined && flags.evalData === undefined ? {} : { cwd }),
    // A new calibration replaces the run's copy of the old one.
    calibration: flags.calibration,
  });

const given = (flags: TrainFlags): TrainFlags =>
  Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined));

/**
 * Betas, decay, clipping and the ZeRO stage are part of the compiled update program, the loss of the manifest.
 * @throws UserError when the config asks for others
 */
export function requireBaked(manifest: Manifest, config: UserConfig, source: string): void {
  const hint = `compile again with this config: ithaca compile ${manifest.source.file} -o … --force`;
  const { classes: _, pool: __, ...loss } = manifest.loss;
  if (config.loss !== undefined && !isDeepStrictEqual(parseConfig(config, source).loss, loss))
    throw new UserError(
      `${source}: the loss is ${describeLoss(config.loss)}, but ${manifest.name} was compiled with ${describeLoss(loss)}`,
      hint,
    );
  const wanted: Readonly<Record<string, unknown>> = config.optimizer ?? {};
  for (const [key, baked] of Object.entries(manifest.optimizer)) {
    const value = Object.hasOwn(wanted, key) ? wanted[key] : undefined;
    if (value === undefined || value === baked) continue;
    throw new UserError(
      `${source}: optimizer.${key} is ${String(value)}, but ${manifest.name} was compiled with ${baked}`,
      hint,
    );
  }
}

const describeLoss = ({ kind, ...options }: NonNullable<UserConfig['loss']>): string =>
  Object.keys(options).length === 0 ? kind : `${kind} ${JSON.stringify(options)}`;
