/** Formulas in IR operations, for operators that the IR says in several of them. */
import type { Value } from '../../../graph.js';
import type { TranslateContext } from '../context.js';

type Operand = Value | number;

export interface Spelling {
  number(value: number): Value;
  add(a: Operand, b: Operand): Value;
  sub(a: Operand, b: Operand): Value;
  mul(a: Operand, b: Operand): Value;
  div(a: Operand, b: Operand): Value;
  /** Where a = b, the cotangent goes to b. */
  max(a: Operand, b: Operand): Value;
  min(a: Operand, b: Operand): Value;
  less(a: Operand, b: Operand): Value;
  equal(a: Operand, b: Operand): Value;
  and(a: Value, b: Value): Value;
  or(a: Value, b: Value): Value;
  not(x: Value): Value;
  where(condition: Value, a: Operand, b: Operand): Value;
  neg(x: Value): Value;
  abs(x: Value): Value;
  exp(x: Value): Value;
  log(x: Value): Value;
  sqrt(x: Value): Value;
  tanh(x: Value): Value;
  sin(x: Value): Value;
  cos(x: Value): Value;
  sigmoid(x: Value): Value;
  /** Over dims, which stay as 1 unless `keep` is false. */
  sum(x: Value, dims: readonly number[], keep?: boolean): Value;
}

export function spell(ctx: TranslateContext): Spelling {
  const { build } = ctx;
  const number = (value: number): Value =>
    build.one('constant', [], { dtype: 'f32', shape: [], data: [value] });
  const valueOf = (operand: Operand): Value => (typeof operand === 'number' ? number(operand) : operand);
  const unary = (op: string) => (x: Value) => build.one(op, [x]);
  const binary = (op: string) => (a: Operand, b: Operand) => build.one(op, [valueOf(a), valueOf(b)]);
  return {
    number,
    add: binary('add'),
    sub: binary('sub'),
    mul: binary('mul'),
    div: binary('div'),
    max: binary('maximum'),
    min: binary('minimum'),
    less: binary('less'),
    equal: binary('equal'),
    and: binary('and'),
    or: binary('or'),
    not: unary('not'),
    where: (condition, a, b) => build.one('where', [condition, valueOf(a), valueOf(b)]),
    neg: unary('neg'),
    abs: unary('abs'),
    exp: unary('exp'),
    log: unary('log'),
    sqrt: unary('sqrt'),
    tanh: unary('tanh'),
    sin: unary('sin'),
    cos: unary('cos'),
    sigmoid: unary('sigmoid'),
    sum: (x, dims, keep = true) => build.one('reduce_sum', [x], { dims: [...dims], keep }),
  };
}
