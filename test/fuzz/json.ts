/** Damage to JSON: values of other kinds, odd keys, deep nesting, numbers where arithmetic goes wrong. */
import type { Dice } from './dice.js';
import { ODD_NAMES } from './structure.js';

type Container = Record<string, unknown> | unknown[];

const VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  -0,
  0.5,
  1e308,
  -1e308,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 63,
  '',
  'f32[S]',
  'f32[S@sp, 64]{U:sp}',
  'f32[9007199254740991*S*S*S]',
  '../../etc/passwd',
  '/dev/zero',
  [],
  {},
  [[[[[]]]]],
];

function deep(levels: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < levels; i++) value = i % 2 === 0 ? [value] : { a: value };
  return value;
}

const otherValue = (dice: Dice): unknown => {
  if (dice.chance(0.2)) return dice.pick(ODD_NAMES);
  if (dice.chance(0.05)) return deep(dice.pick([100, 3000]));
  if (dice.chance(0.05)) return Array.from({ length: dice.pick([1000, 100_000]) }, (_, i) => i);
  return dice.pick(VALUES);
};

/** Every object and list inside a value. */
function containers(value: unknown, found: Container[] = []): Container[] {
  if (typeof value !== 'object' || value === null) return found;
  found.push(value as Container);
  for (const inner of Object.values(value)) containers(inner, found);
  return found;
}

/** Changes one place inside `value`. */
export function damageJson(value: unknown, dice: Dice): void {
  const all = containers(value);
  if (all.length === 0) return;
  const place = dice.pick(all);
  const keys = Object.keys(place);
  const key = keys.length === 0 ? '0' : dice.pick(keys);
  const at = place as Record<string, unknown>;
  switch (dice.below(6)) {
    case 0:
      if (Array.isArray(place)) place.splice(Number(key), 1);
      else delete at[key];
      return;
    case 1:
      if (Array.isArray(place)) place.push(dice.chance(0.5) ? place[0] : otherValue(dice));
      else define(at, dice.pick(ODD_NAMES), otherValue(dice));
      return;
    case 2:
      at[key] = typeof at[key] === 'number' ? at[key] + dice.pick([-1, 1, 0.5, 2 ** 31]) : otherValue(dice);
      return;
    case 3:
      // A value may stand in two places, but not inside itself: it could not be written.
      at[key] = at[dice.pick(keys.length === 0 ? ['0'] : keys)];
      return;
    default:
      at[key] = otherValue(dice);
  }
}

/** An own property, even `__proto__`. */
const define = (target: object, key: string, value: unknown): void =>
  void Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
