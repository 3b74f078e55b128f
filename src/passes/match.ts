import type { Node, Value } from '../ir/graph.js';
import type { Builder, Tensor } from '../ir/op.js';
import { numbersAttr } from '../ir/graph.js';
import { shapeAttr, tensor } from '../ir/ops/define.js';
import type { OpName } from '../ir/ops/index.js';
import { constantOf, sameSize } from '../ir/size.js';
import { sameShape, type Dim, type Type } from '../ir/type.js';

/** Ops that act element by element and broadcast their operands like numpy. */
const ELEMENTWISE: ReadonlySet<string> = new Set<OpName>([
  'neg',
  'exp',
  'log',
  'sqrt',
  'reciprocal',
  'tanh',
  'sigmoid',
  'sin',
  'cos',
  'erf',
  'relu',
  'abs',
  'is_nan',
  'not',
  'cast',
  'add',
  'sub',
  'mul',
  'div',
  'pow',
  'maximum',
  'minimum',
  'equal',
  'less',
  'less_equal',
  'and',
  'or',
  'where',
  'gelu',
  'silu',
]);

export const isElementwise = (node: Node): boolean => ELEMENTWISE.has(node.op);

/** Operands of the node that made a value, when it is the given op. */
export const operandsOf = (value: Value, op: OpName): readonly Value[] | undefined =>
  value.node.op === op ? value.node.operands : undefined;

/** The one operand of a unary op. */
export const operandOf = (value: Value, op: OpName): Value | undefined => operandsOf(value, op)?.[0];

/** Both orders of the operands of a binary op. */
export function eitherOrder(value: Value, op: OpName): readonly (readonly [Value, Value])[] {
  const [a, b] = operandsOf(value, op) ?? [];
  if (a === undefined || b === undefined) return [];
  return [
    [a, b],
    [b, a],
  ];
}

/** The literal a value is. */
export const literalOf = ({ node }: Value): Tensor | undefined =>
  node.op === 'constant'
    ? tensor(numbersAttr(node.attrs, 'shape'), numbersAttr(node.attrs, 'data'))
    : undefined;

/** The one number a value holds in every element. */
export function uniformOf(value: Value): number | undefined {
  const { node } = value;
  if (node.op === 'broadcast' || node.op === 'reshape' || node.op === 'transpose')
    return uniformOf(node.operands[0]!);
  if (node.op !== 'constant') return undefined;
  const data = numbersAttr(node.attrs, 'data');
  return data.every((x) => Object.is(x, data[0])) ? data[0] : undefined;
}

/** Equal up to the rounding of constants to float32. */
export const nearly = (a: number | undefined, b: number): boolean =>
  a !== undefined && Math.abs(a - b) <= 1e-6 * Math.abs(b);

export const isUnit = (d: Dim): boolean => constantOf(d.size) === 1;

/** Number of leading dims of size 1. */
export function leadingUnits({ dims }: Type): number {
  const first = dims.findIndex((d) => !isUnit(d));
  return first < 0 ? dims.length : first;
}

export const isSymbolic = (d: Dim): boolean => constantOf(d.size) === undefined;

export const sameDims = (a: readonly Dim[], b: readonly Dim[]): boolean =>
  a.length === b.length && a.every((d, i) => sameSize(d.size, b[i]!.size));

/** `x`, unplaced, under the shape of `type`; a reshape that `x` is does not stay. */
export function reshapeTo(build: Builder, x: Value, type: Type): Value {
  if (sameShape(x.type, type)) return x;
  const source = operandOf(x, 'reshape') ?? x;
  return sameShape(source.type, type) ? source : build.one('reshape', [source], { shape: shapeAttr(type) });
}

/** `x` repeated to the shape of `type`. */
export const broadcastTo = (build: Builder, x: Value, type: Type): Value =>
  sameShape(x.type, type) ? x : build.one('broadcast', [x], { shape: shapeAttr(type), axes: [] });

/** `x` with its dims reordered; result dim i is dim perm[i] of `x`. */
export const permute = (build: Builder, x: Value, perm: readonly number[]): Value =>
  perm.every((p, i) => p === i) ? x : build.one('transpose', [x], { perm });

/** A number in every element of `type`. */
export const uniformLike = (build: Builder, value: number, type: Type): Value =>
  broadcastTo(build, build.one('constant', [], { dtype: type.dtype, shape: [], data: [value] }), type);
