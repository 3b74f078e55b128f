import { numbersAttr, type Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { constantOf, sameSize } from '../../ir/size.js';
import type { Dim } from '../../ir/type.js';
import { isUnit, permute } from '../match.js';

/**
 * What a dim means to attention. `head` with a stride: an index i along the dim adds i · stride to the number of
 * the query head. A value without a head dim of some stride is the same for those heads: that is how
 * repeated K/V heads show.
 */
export type Role =
  | { readonly kind: 'query' | 'key' | 'feature' | 'unit' }
  | { readonly kind: 'head'; readonly stride: number };

export const QUERY: Role = { kind: 'query' };
export const KEY: Role = { kind: 'key' };
export const FEATURE: Role = { kind: 'feature' };
const UNIT: Role = { kind: 'unit' };

/** A value and the meaning of its dims. */
export interface Located {
  readonly value: Value;
  readonly roles: readonly Role[];
}

const at = (value: Value, roles: readonly Role[]): Located => ({ value, roles });

/** Head roles of dims that number the heads in row-major order; undefined when a size is symbolic. */
export function headRoles(dims: readonly Dim[], base = 1): readonly Role[] | undefined {
  const roles: Role[] = [];
  let stride = base;
  for (const d of dims.toReversed()) {
    const size = constantOf(d.size);
    if (size === undefined) return undefined;
    roles.unshift(size === 1 ? UNIT : { kind: 'head', stride });
    stride *= size;
  }
  return roles;
}

/** Which dims an operand may lack, being the same along them. */
export type Repeats = 'heads' | 'heads and tokens';

/**
 * Roles of an operand that broadcasts to a result whose roles are known. Undefined where a dim is repeated that
 * `repeats` does not allow.
 */
export function alignedRoles(
  roles: readonly Role[],
  result: readonly Dim[],
  operand: readonly Dim[],
  repeats: Repeats = 'heads',
): readonly Role[] | undefined {
  const missing = result.length - operand.length;
  const aligned: Role[] = [];
  for (const [i, role] of roles.entries()) {
    const own = operand[i - missing];
    const repeated = own === undefined || (isUnit(own) && !isUnit(result[i]!));
    const tokens = role.kind === 'query' || role.kind === 'key';
    const allowed = role.kind === 'head' || role.kind === 'unit' || (tokens && repeats !== 'heads');
    if (repeated && !allowed) return undefined;
    const same = role.kind === 'head' || (repeated && tokens);
    if (own !== undefined) aligned.push(isUnit(own) && same ? UNIT : role);
  }
  return aligned;
}

/** An operand of an elementwise op, with its roles. */
export function throughElementwise(
  { value, roles }: Located,
  operand: Value,
  repeats: Repeats = 'heads',
): Located | undefined {
  const aligned = alignedRoles(roles, value.type.dims, operand.type.dims, repeats);
  return aligned && at(operand, aligned);
}

/** Looks through an op that only moves or repeats elements. */
export function throughMove(here: Located, repeats: Repeats = 'heads'): Located | undefined {
  const { node, type } = here.value;
  const x = node.operands[0];
  if (x === undefined) return undefined;
  if (node.op === 'transpose') {
    const roles: Role[] = [];
    numbersAttr(node.attrs, 'perm').forEach((p, i) => (roles[p] = here.roles[i]!));
    return at(x, roles);
  }
  const roles =
    node.op === 'broadcast'
      ? alignedRoles(here.roles, type.dims, x.type.dims, repeats)
      : node.op === 'reshape'
        ? reshapedRoles(here.roles, type.dims, x.type.dims)
        : undefined;
  return roles && at(x, roles);
}

/**
 * Roles before a reshape. Dims that keep their size keep their role; head dims may be merged and split, any
 * other merge cannot be seen through (undefined).
 */
function reshapedRoles(
  roles: readonly Role[],
  result: readonly Dim[],
  operand: readonly Dim[],
): readonly Role[] | undefined {
  if (result.some((d, i) => isUnit(d) && roles[i]!.kind !== 'unit' && roles[i]!.kind !== 'head'))
    return undefined;
  const after = result.map((d, i) => ({ d, role: roles[i]! })).filter(({ d }) => !isUnit(d));
  const before = operand.map((d, i) => ({ d, i })).filter(({ d }) => !isUnit(d));
  const found = operand.map((): Role => UNIT);
  let [i, j] = [0, 0];
  while (i < after.length && j < before.length) {
    if (sameSize(after[i]!.d.size, before[j]!.d.size)) {
      found[before[j++]!.i] = after[i++]!.role;
      continue;
    }
    const [firstAfter, firstBefore] = [i, j];
    let [left, right] = [1, 1];
    do {
      const next = left <= right ? after[i++]?.d : before[j++]?.d;
      const size = next && constantOf(next.size);
      if (size === undefined) return undefined;
      if (left <= right) left *= size;
      else right *= size;
    } while (left !== right);
    const base = contiguousBase(after.slice(firstAfter, i));
    if (base === undefined) return undefined;
    const group = before.slice(firstBefore, j);
    headRoles(
      group.map(({ d }) => d),
      base,
    )?.forEach((role, k) => (found[group[k]!.i] = role));
  }
  return i === after.length && j === before.length ? found : undefined;
}

/** Stride of the last of head dims that number heads contiguously in row-major order. */
function contiguousBase(dims: readonly { readonly d: Dim; readonly role: Role }[]): number | undefined {
  let expected: number | undefined;
  let base: number | undefined;
  for (const { d, role } of dims.toReversed()) {
    if (role.kind !== 'head' || (expected !== undefined && role.stride !== expected)) return undefined;
    base ??= role.stride;
    expected = role.stride * constantOf(d.size)!;
  }
  return base;
}

/** How query heads read the heads of a value. */
export interface Heads {
  /** Heads of the value itself. */
  readonly own: number;
  /** Heads that it is taken to have, after `spread`; each is read by `repeat` consecutive query heads. */
  readonly heads: number;
  readonly repeat: number;
  /** Where query heads read in another order: factors of the query heads, outermost first, and which are its own. */
  readonly spread?: readonly { readonly size: number; readonly own: boolean }[];
}

export function headsOf({ value, roles }: Located, queryHeads: number): Heads {
  const dims = roles.flatMap((role, i) =>
    role.kind === 'head'
      ? [{ size: constantOf(value.type.dims[i]!.size)!, stride: role.stride, role, i }]
      : [],
  );
  const sorted = dims.toSorted((a, b) => b.stride - a.stride);
  const own = sorted.reduce((product, { size }) => product * size, 1);
  const located = sorted.map(({ role, i }) => ({ d: value.type.dims[i]!, role }));
  const repeat = sorted.length === 0 ? queryHeads : contiguousBase(located);
  if (repeat !== undefined && own * repeat === queryHeads) return { own, heads: own, repeat };
  const spread: { size: number; own: boolean }[] = [];
  let rest = queryHeads;
  for (const { size, stride } of sorted) {
    if (rest > size * stride) spread.push({ size: rest / (size * stride), own: false });
    spread.push({ size, own: true });
    rest = stride;
  }
  if (rest > 1) spread.push({ size: rest, own: false });
  return { own, heads: queryHeads, repeat: 1, spread };
}

/** The value as [tokens, heads, features]. */
export function asTokensHeadsFeatures(
  build: Builder,
  { value, roles }: Located,
  token: 'query' | 'key',
  heads: number,
): Value {
  const rank = (role: Role): number =>
    role.kind === 'unit' ? 0 : role.kind === token ? 1 : role.kind === 'head' ? 2 : 3;
  const stride = (role: Role): number => (role.kind === 'head' ? role.stride : 0);
  const perm = roles
    .map((_, i) => i)
    .sort((a, b) => rank(roles[a]!) - rank(roles[b]!) || stride(roles[b]!) - stride(roles[a]!));
  const size = (kind: Role['kind']): Dim => value.type.dims[roles.findIndex((r) => r.kind === kind)]!;
  const shape = [size(token), size('feature')].map((d) => constantOf(d.size) ?? d.size);
  return build.one('reshape', [permute(build, value, perm)], { shape: [shape[0]!, heads, shape[1]!] });
}

/** What masks and biases are made of. */
const READ_THROUGH: ReadonlySet<string> = new Set(
  'cast neg add sub mul div and not where reshape broadcast transpose'.split(' '),
);
/** Masks and biases have tens of steps. */
const MAX_STEPS = 1000;

/** Whether an expression can be read, operand by operand: shared operands are read as often as they are used. */
export function isReadable({ value }: Located): boolean {
  let steps = 0;
  const pending = [value];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    if (++steps > MAX_STEPS) return false;
    if (READ_THROUGH.has(at.node.op)) for (const operand of at.node.operands) pending.push(operand);
  }
  return true;
}
