import { UserError } from '../errors.js';
import { autodiff } from './autodiff.js';
import { checkpoint } from './checkpoint.js';
import { POLICIES, type Policy } from './checkpoint/policies.js';
import { fuseTiled } from './fuse-tiled.js';
import { loss } from './loss.js';
import type { Step } from './manager.js';
import type { Pass } from './pass.js';
import { recognize } from './recognize.js';
import { schedule } from './schedule.js';
import { simplify } from './simplify.js';
import { tidy } from './tidy.js';
import { ulysses } from './ulysses.js';
import { zero } from './zero.js';

/** Every pass, by its name. */
export const PASSES: ReadonlyMap<string, Pass> = new Map(
  [simplify, recognize, loss, ulysses, zero, autodiff, fuseTiled, tidy, checkpoint, schedule].map((pass) => [
    pass.name,
    pass as Pass,
  ]),
);

/** One entry of a pipeline: a pass, and options that the program itself fixes (they overrule the config's). */
type Entry = readonly [pass: string, fixed?: Readonly<Record<string, unknown>>];

/** What every program starts with. Recognise and place before differentiating. */
export const FRONT: readonly Entry[] = [['simplify'], ['recognize'], ['simplify']];

/** The table of contents of the compiler: the passes behind each program, in order. */
export const PIPELINES = {
  train: [
    ['loss', { logits: false }],
    ['ulysses'],
    ['zero'],
    ['autodiff'],
    ['fuse-tiled'],
    ['tidy'],
    ['checkpoint'],
    ['schedule'],
  ],
  eval: [
    ['loss', { logits: true, correct: true, distillation: undefined }],
    ['ulysses'],
    ['tidy'],
    ['schedule'],
  ],
  update: [['schedule']],
} as const satisfies Record<string, readonly Entry[]>;

export type ProgramName = keyof typeof PIPELINES | `train_${Policy}`;

/** `train` in two: what does not depend on a checkpointing policy, and what does. */
export function splitTrain(policy: Policy | undefined): readonly [readonly Entry[], readonly Entry[]] {
  const entries: readonly Entry[] = PIPELINES.train;
  const at = entries.findIndex(([pass]) => pass === 'checkpoint');
  const rest = entries.slice(at + 1);
  return [
    entries.slice(0, at),
    [policy === undefined ? ['checkpoint'] : ['checkpoint', { policy }], ...rest],
  ];
}

/** Train programs of a package, from the policy that runs least again to the one that keeps least. */
export const trainPrograms = (
  policies: readonly Policy[],
): readonly { readonly program: ProgramName; readonly policy: Policy }[] =>
  POLICIES.filter((policy) => policies.includes(policy)).map((policy, i) => ({
    policy,
    program: i === 0 ? 'train' : `train_${policy}`,
  }));

/** Entries with the user's options put in. Throws `UserError` for a pass that does not exist. */
export function stepsOf(
  entries: readonly Entry[],
  options: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
): Step[] {
  for (const name of Object.keys(options))
    if (!PASSES.has(name))
      throw new UserError(`passes: there is no pass '${name}'`, `passes: ${[...PASSES.keys()].join(', ')}`);
  return entries.map(([name, fixed]) => ({
    pass: PASSES.get(name)!,
    options: { ...options[name], ...fixed },
  }));
}
