import { invariant } from '../../errors.js';
import { inputName, type Value } from '../../ir/graph.js';
import { HIDDEN_SCORE, type MaskKind } from '../../ir/ops/attention.js';
import { eitherOrder, operandOf, operandsOf, uniformOf } from '../match.js';
import { describe, isNearMiss, type NearMiss } from './rule.js';
import { throughElementwise, throughMove, type Located } from './roles.js';

/** What a query may see. `window`: so many tokens back, itself included, and `ahead` after it. */
export interface Mask {
  readonly kind: MaskKind;
  readonly window?: number;
  readonly ahead?: number;
}

export const FULL: Mask = { kind: 'full' };

export const hides = (value: Value): boolean => (uniformOf(value) ?? 0) <= HIDDEN_SCORE;

/** What both masks let through. */
export function bothMasks(a: Mask, b: Mask): Mask {
  const windows = [a.window, b.window].filter((w) => w !== undefined);
  const ahead = Math.min(...[a, b].filter(({ kind }) => kind !== 'full').map((m) => m.ahead ?? 0));
  if (windows.length > 0)
    return { kind: 'window', window: Math.min(...windows), ...(ahead === 0 ? {} : { ahead }) };
  return a.kind === 'causal' || b.kind === 'causal' ? { kind: 'causal' } : FULL;
}

export const sameMask = (a: Mask, b: Mask): boolean =>
  a.kind === b.kind && a.window === b.window && a.ahead === b.ahead;

/** The mask of an addend: 0 where a key is seen, −large where it is hidden. Undefined when it is none. */
export function additiveMask(here: Located): Mask | NearMiss | undefined {
  const { value } = here;
  if (uniformOf(value) === 0) return FULL;
  if (value.node.op === 'input') return inputMask(here, true);
  const chosen = operandsOf(value, 'where');
  if (chosen !== undefined) {
    const [condition, seen, hidden] = chosen as readonly [Value, Value, Value];
    return uniformOf(seen) === 0 && hides(hidden) ? within(here, condition, booleanMask) : undefined;
  }
  const moved = throughMove(here);
  return moved && additiveMask(moved);
}

/** The mask of a condition: true where a key is seen. Undefined when it is none. */
export function booleanMask(here: Located): Mask | NearMiss | undefined {
  const { value } = here;
  if (uniformOf(value) === 1) return FULL;
  if (value.node.op === 'input') return inputMask(here, false);
  const cast = operandOf(value, 'cast');
  if (cast !== undefined) return within(here, cast, booleanMask);
  const [both] = eitherOrder(value, 'and');
  if (both !== undefined) {
    const [a, b] = both.map((v) => within(here, v, booleanMask));
    if (a === undefined || b === undefined) return undefined;
    return isNearMiss(a) ? a : isNearMiss(b) ? b : bothMasks(a, b);
  }
  const moved = throughMove(here);
  return moved && booleanMask(moved);
}

const within = (
  here: Located,
  operand: Value,
  read: (here: Located) => Mask | NearMiss | undefined,
): Mask | NearMiss | undefined => {
  const inner = throughElementwise(here, operand);
  return inner === undefined
    ? { nearMiss: `the mask ${describe(operand.node)} is the same for all queries or all keys` }
    : read(inner);
};

/** A mask the importer recognised. Its last two dims are queries and keys. */
function inputMask({ value, roles }: Located, additive: boolean): Mask | NearMiss | undefined {
  const { attrs } = value.node;
  if (attrs['form'] !== 'mask' || attrs['kind'] === 'distance') return undefined;
  if (attrs['additive'] !== additive)
    return {
      nearMiss: `the mask '${inputName(value)}' is ${additive ? 'boolean but is added' : 'an addend but is used as a condition'}`,
    };
  const kinds = roles.filter((r) => r.kind !== 'unit').map((r) => r.kind);
  if (kinds.join() !== 'query,key')
    return {
      nearMiss: `the mask '${inputName(value)}' does not meet queries with its rows and keys with its columns`,
    };
  const kind = attrs['kind'];
  if (kind === 'window') {
    const { window, ahead } = attrs;
    invariant(typeof window === 'number', `the mask ${inputName(value)} has no window`);
    return { kind, window, ...(typeof ahead === 'number' ? { ahead } : {}) };
  }
  invariant(kind === 'causal' || kind === 'full', `the mask ${inputName(value)} is of an unknown kind`);
  return { kind };
}
