import type { Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { broadcastDims } from '../../ir/infer.js';
import { constantOf } from '../../ir/size.js';
import type { DType } from '../../ir/type.js';
import {
  broadcastTo,
  isElementwise,
  operandOf,
  operandsOf,
  sameDims,
  uniformLike,
  uniformOf,
} from '../match.js';
import type { Rule } from './engine.js';

const COMMUTATIVE: ReadonlySet<string> = new Set(['add', 'mul', 'and', 'or', 'equal']);

/** Constants stand on the right of commutative ops. */
const constantsRight: Rule = (node, build) => {
  const [a, b] = node.operands;
  if (!COMMUTATIVE.has(node.op) || !isConstant(a!) || isConstant(b!)) return undefined;
  return build.one(node.op, [b!, a!]);
};

const isConstant = (value: Value): boolean => value.node.op === 'constant' || uniformOf(value) !== undefined;

type Neutral = (x: Value, build: Builder) => Value | undefined;
const keep: Neutral = (x) => x;
const negate: Neutral = (x, build) => build.one('neg', [x]);

/** What a binary op with a constant right operand comes to; sums and products of other values are not touched. */
const RIGHT: Readonly<Record<string, ReadonlyMap<number, Neutral>>> = {
  add: new Map([[0, keep]]),
  sub: new Map([[0, keep]]),
  mul: new Map([
    [1, keep],
    [-1, negate],
  ]),
  div: new Map([
    [1, keep],
    [-1, negate],
  ]),
  pow: new Map<number, Neutral>([
    [1, keep],
    [2, (x, build) => build.one('mul', [x, x])],
    [-1, (x, build) => build.one('reciprocal', [x])],
  ]),
  and: new Map([[1, keep]]),
  or: new Map([[0, keep]]),
};

const LEFT: Readonly<Record<string, ReadonlyMap<number, Neutral>>> = {
  sub: new Map([[0, negate]]),
  div: new Map<number, Neutral>([[1, (x, build) => build.one('reciprocal', [x])]]),
};

const neutralOperand: Rule = (node, build) => {
  const [a, b] = node.operands;
  if (a === undefined || b === undefined || node.operands.length !== 2) return undefined;
  const { type } = node.results[0]!;
  const [left, right] = [uniformOf(a), uniformOf(b)];
  const value =
    (right === undefined ? undefined : RIGHT[node.op]?.get(right)?.(a, build)) ??
    (left === undefined ? undefined : LEFT[node.op]?.get(left)?.(b, build));
  return value === undefined ? undefined : broadcastTo(build, value, type);
};

/** `and` with false, `or` with true. */
const absorbing: Rule = (node, build) => {
  const absorbs = node.op === 'and' ? 0 : node.op === 'or' ? 1 : undefined;
  if (absorbs === undefined || !node.operands.some((v) => uniformOf(v) === absorbs)) return undefined;
  return uniformLike(build, absorbs, node.results[0]!.type);
};

const involutions: Rule = (node) =>
  node.op === 'neg' || node.op === 'not' ? operandOf(node.operands[0]!, node.op) : undefined;

/** A `where` that always chooses the same, or whose condition is negated. */
const decidedWhere: Rule = (node, build) => {
  if (node.op !== 'where') return undefined;
  const [condition, a, b] = node.operands as readonly [Value, Value, Value];
  const { type } = node.results[0]!;
  const chosen = uniformOf(condition);
  if (chosen !== undefined) return broadcastTo(build, chosen === 0 ? b : a, type);
  if (a === b) return broadcastTo(build, a, type);
  const negated = operandOf(condition, 'not');
  return negated && build.one('where', [negated, b, a]);
};

/** Casts to the same type, and through a type that holds all of what it is given. */
const casts: Rule = (node, build) => {
  if (node.op !== 'cast') return undefined;
  const x = node.operands[0]!;
  const to = node.attrs['to'] as DType;
  if (x.type.dtype === to) return x;
  const inner = operandOf(x, 'cast');
  return inner !== undefined && inner.type.dtype === 'bool' ? build.one('cast', [inner], { to }) : undefined;
};

/** An elementwise op repeats its operands by itself. */
const needlessBroadcast: Rule = (node, build) => {
  if (!isElementwise(node) || node.operands.length < 2) return undefined;
  const shrunk = node.operands.map((v) => {
    const value = v.type.dims.length === 0 ? undefined : uniformOf(v);
    if (value !== undefined)
      return build.one('constant', [], { dtype: v.type.dtype, shape: [], data: [value] });
    return operandOf(v, 'broadcast') ?? v;
  });
  const same = (operands: readonly Value[]): boolean =>
    sameDims(broadcastDims(operands.map((v) => v.type)), node.results[0]!.type.dims);
  if (shrunk.every((v, i) => v === node.operands[i])) return undefined;
  if (same(shrunk)) return build.one(node.op, shrunk, node.attrs);
  for (const [i, v] of shrunk.entries()) {
    const one = node.operands.with(i, v);
    if (v !== node.operands[i] && same(one)) return build.one(node.op, one, node.attrs);
  }
  return undefined;
};

/** A product over an inner dim of size 1 is an outer product: nothing is summed. */
const outerProduct: Rule = (node, build) => {
  const [a, b] = operandsOf(node.results[0]!, 'matmul') ?? [];
  if (a === undefined || b === undefined) return undefined;
  return constantOf(a.type.dims.at(-1)!.size) === 1 ? build.one('mul', [a, b]) : undefined;
};

export const algebraRules: readonly Rule[] = [
  constantsRight,
  neutralOperand,
  absorbing,
  involutions,
  decidedWhere,
  casts,
  needlessBroadcast,
  outerProduct,
];
