import { inputName, numbersAttr, type Value } from '../../ir/graph.js';
import { stridesOf } from '../../ir/ops/define.js';
import { constantOf } from '../../ir/size.js';
import { operandOf, uniformOf } from '../match.js';
import { throughElementwise, throughMove, type Located, type Role } from './roles.js';

/** One number a query head. */
type PerHead = readonly number[];

/**
 * What an expression of positions comes to for query head h, query i and key j: key[h] · j + away[h] · |i − j|,
 * and something that depends on h and i alone, which softmax drops. `constant` where that is a known number a head.
 */
export interface Linear {
  readonly key: PerHead;
  readonly away: PerHead;
  readonly constant: PerHead | undefined;
}

const isZero = (numbers: PerHead): boolean => numbers.every((x) => x === 0);
const zip = (a: PerHead, b: PerHead, f: (x: number, y: number) => number): PerHead =>
  a.map((x, h) => f(x, b[h]!));
const sum = (a: PerHead, b: PerHead): PerHead => zip(a, b, (x, y) => x + y);

/** Whether it is nothing to softmax. */
export const isLevel = ({ key, away }: Linear): boolean => isZero(key) && isZero(away);

export const addLinear = (a: Linear, b: Linear): Linear => ({
  key: sum(a.key, b.key),
  away: sum(a.away, b.away),
  constant: a.constant && b.constant && sum(a.constant, b.constant),
});

const scaledBy = (a: Linear, by: PerHead): Linear => {
  const times = (numbers: PerHead): PerHead => zip(numbers, by, (x, y) => (x === 0 ? 0 : x * y));
  return { key: times(a.key), away: times(a.away), constant: a.constant && times(a.constant) };
};

export const scaleLinear = (a: Linear, by: number): Linear =>
  scaledBy(
    a,
    a.key.map(() => by),
  );

/** Reads an addend of the scores as a linear function of positions; undefined when it is none. */
export function linearOf(here: Located, heads: number): Linear | undefined {
  const { value } = here;
  const of = (numbers: Partial<Linear>): Linear => {
    const zero = Array.from({ length: heads }, () => 0);
    return { key: zero, away: zero, constant: undefined, ...numbers };
  };
  const uniform = uniformOf(value);
  if (uniform !== undefined) return of({ constant: Array.from({ length: heads }, () => uniform) });
  const numbers = perHead(here, heads);
  if (numbers !== undefined) return of({ constant: numbers });
  const { op, attrs, operands } = value.node;
  if (op === 'input') {
    const found = positionsRead(here, heads);
    if (found === undefined) return undefined;
    if (found.of === 'key') return of({ key: found.factors });
    return found.of === 'query' ? of({}) : of({ away: found.factors });
  }
  const inner = (operand: Value): Linear | undefined => {
    const located = throughElementwise(here, operand, 'heads and tokens');
    return located && linearOf(located, heads);
  };
  switch (op) {
    case 'cast':
      return operands[0]!.type.dtype === 'i32' && attrs['to'] !== 'bool' ? inner(operands[0]!) : undefined;
    case 'neg': {
      const negated = inner(operandOf(value, 'neg')!);
      return negated && scaleLinear(negated, -1);
    }
    case 'add':
    case 'sub': {
      const [a, b] = operands.map(inner);
      return a && b && addLinear(a, op === 'add' ? b : scaleLinear(b, -1));
    }
    case 'mul':
    case 'div':
      return product(op, operands.map(inner));
    default: {
      const moved = throughMove(here, 'heads and tokens');
      return moved && linearOf(moved, heads);
    }
  }
}

function product(op: 'mul' | 'div', [a, b]: readonly (Linear | undefined)[]): Linear | undefined {
  if (a === undefined || b === undefined) return undefined;
  if (b.constant !== undefined && isLevel(b))
    return scaledBy(a, op === 'mul' ? b.constant : b.constant.map((x) => 1 / x));
  return op === 'mul' && a.constant !== undefined && isLevel(a) ? scaledBy(b, a.constant) : undefined;
}

/** The numbers of a constant that differs by head only. */
function perHead({ value: { node }, roles }: Located, heads: number): PerHead | undefined {
  if (node.op !== 'constant' || roles.some((role) => role.kind !== 'head' && role.kind !== 'unit'))
    return undefined;
  return byHead(numbersAttr(node.attrs, 'data'), numbersAttr(node.attrs, 'shape'), roles, heads);
}

/** Elements of a row-major tensor of heads, one a query head. */
export function byHead(
  data: readonly number[],
  shape: readonly number[],
  roles: readonly Role[],
  heads: number,
): PerHead {
  const strides = stridesOf(shape);
  return Array.from({ length: heads }, (_, h) => {
    const at = (role: Role, d: number): number =>
      role.kind === 'head' ? (Math.floor(h / role.stride) % shape[d]!) * strides[d]! : 0;
    return data[roles.slice(0, shape.length).reduce((index, role, d) => index + at(role, d), 0)]!;
  });
}

/** Which position an input numbers: the row's `positions`, or a function of row and column the importer found. */
function positionsRead(
  { value, roles }: Located,
  heads: number,
): { of: 'key' | 'query' | 'away'; factors: PerHead } | undefined {
  const kinds = roles.flatMap(({ kind }) =>
    kind === 'key' || kind === 'query' || kind === 'feature' ? [kind] : [],
  );
  const along = kinds.length === 1 && kinds[0] !== 'feature' ? kinds[0] : undefined;
  const { attrs } = value.node;
  if (inputName(value) === 'positions')
    return along && { of: along, factors: Array.from({ length: heads }, () => 1) };
  if (attrs['form'] !== 'mask' || attrs['kind'] !== 'distance') return undefined;
  const leading = value.type.dims
    .slice(0, attrs['of'] === 'end' ? -1 : -2)
    .map((d) => constantOf(d.size) ?? 1);
  const factors = byHead(numbersAttr(attrs, 'factors'), leading, roles, heads);
  if (attrs['of'] === 'end') return along && { of: along, factors };
  if (kinds.join() !== 'query,key') return undefined;
  return { of: attrs['of'] === 'absolute' ? 'away' : 'key', factors };
}
