/** What an ONNX operation sees of its node while shapes are inferred and while it is translated. */
import { UserError } from '../../../errors.js';
import type { Value } from '../../graph.js';
import type { Pool } from '../../pooled.js';
import type { Builder } from '../../op.js';
import { constantOf, type Size } from '../../size.js';
import type { DType } from '../../type.js';
import type { OnnxAttribute, OnnxDtype, OnnxNode } from '../model.js';
import { arityFault } from './arity.js';
import { printDims, type Dims } from './shapes.js';

/** Type of a value; `ints` are its elements (row-major) where they are integers known as functions of S. */
export interface Shaped {
  readonly dtype: OnnxDtype;
  readonly dims: Dims;
  readonly ints?: readonly Size[] | undefined;
  /** Whether it depends on the values of tokens; absent before that is known. */
  readonly data?: boolean;
  /** Set where a node makes one row of a whole sequence; `read`: which token it is depends on the tokens. See `pool.ts`. */
  readonly pool?: Pool | 'read';
  /** Whether the first dim stands for the batch, which has been pooled: a row for each token. */
  readonly rows?: boolean;
}

export interface OpContext {
  readonly node: OnnxNode;
  readonly opset: number;
  /** Whether an operand is given. */
  has(index: number): boolean;
  operand(index: number): Shaped;
  /** All given operands. */
  readonly operands: readonly Shaped[];
  /** Elements of an operand that shapes depend on. @throws UserError when they are not known */
  ints(index: number): readonly Size[];
  /** The same, as numbers. @throws UserError when they are not known, or depend on S */
  numbers(index: number): readonly number[];
  /** The only element of a known operand. */
  scalar(index: number): Size;
  int(name: string): number | undefined;
  int(name: string, otherwise: number): number;
  intList(name: string): readonly number[] | undefined;
  float(name: string, otherwise: number): number;
  text(name: string, otherwise: string): string;
  attribute(name: string): OnnxAttribute | undefined;
  /** Axis −rank..rank−1 as 0..rank−1. */
  axis(value: number, rank: number): number;
  /** Records that what was inferred holds for S ≤ limit only. */
  limitTokens(limit: number): void;
  /** Refuses the node. */
  fail(problem: string, hint?: string): never;
}

export interface TranslateContext extends OpContext {
  readonly build: Builder;
  /** IR value of an operand. */
  value(index: number): Value;
  /** Types of the results, as inferred. */
  readonly results: readonly Shaped[];
  /** The operand as something to add to scores: 0 where a bool mask holds, −∞ elsewhere. */
  additiveMask(index: number): Value;
  /** An additive causal mask of these dims; `window`: of so many keys, the query's own included. */
  causalMask(dims: Dims, window?: number): Value;
  /** Position of each token in its document: i32[S]. */
  positions(): Value;
  /** Document of each token, and how many tokens that document has: i32[S]. */
  documents(): Value;
  lengths(): Value;
  /** How far positions run on from 0 in an operand that was recognised as positions + offset. */
  positionOffset(index: number): number | undefined;
  /** Whether the operand depends on the values of tokens. */
  isData(index: number): boolean;
}

/** One ONNX operation: inference of shapes and, where the IR can say it, translation. */
export interface OnnxOp {
  /** Operands that become IR values, by position; absent: all. The others are read as known integers. */
  readonly values?: readonly number[];
  /** Attributes of meaning beyond those read by `infer` and `translate` must not exist in the operator's definition. */
  infer(ctx: OpContext): readonly Shaped[];
  /** IR values of the results. Absent: the op is understood only where its value is recognised as a whole. */
  translate?(ctx: TranslateContext): readonly (Value | undefined)[];
}

/** Integer elements are followed up to this many. */
export const MAX_KNOWN = 1024;

const FLOATS: ReadonlySet<OnnxDtype> = new Set<OnnxDtype>(['f32', 'f16', 'bf16', 'f64']);

/** The IR's element type. Half precision is widened: parameters are trained in float32. */
export const irDtype = (dtype: OnnxDtype): DType =>
  FLOATS.has(dtype) ? 'f32' : dtype === 'bool' ? 'bool' : 'i32';

export const shapeAttribute = (dims: Dims): readonly (number | Size)[] =>
  dims.map((size) => constantOf(size) ?? size);

/** `Reshape node /model/Reshape_3` */
export const nodeText = (node: OnnxNode): string => `${node.opType} node ${node.name}`;

export function makeContext(
  node: OnnxNode,
  opset: number,
  shapedOf: (name: string) => Shaped,
  limitTokens: (limit: number) => void,
): OpContext {
  const fail = (problem: string, hint?: string): never => {
    throw new UserError(`${nodeText(node)}: ${problem}`, hint);
  };
  const arity = arityFault(node);
  if (arity !== undefined) fail(arity, 'the file is damaged: export the model again');
  const has = (index: number): boolean => (node.inputs[index] ?? '') !== '';
  const operand = (index: number): Shaped =>
    has(index)
      ? shapedOf(node.inputs[index]!)
      : fail(`operand ${index} is missing`, 'export the model again');
  const ints = (index: number): readonly Size[] =>
    operand(index).ints ??
    fail(
      `a shape depends on '${node.inputs[index]}', whose elements are not functions of the sequence length`,
      'export the model without data-dependent shapes',
    );
  const numbers = (index: number): readonly number[] =>
    ints(index).map(
      (size) =>
        constantOf(size) ??
        fail(
          `'${node.inputs[index]}' is ${size.key}, expected a constant`,
          'export the model with that size fixed',
        ),
    );
  const integer = (value: number | bigint): number =>
    typeof value === 'bigint' ? (value < 0n ? -Number.MAX_SAFE_INTEGER : Number.MAX_SAFE_INTEGER) : value;
  const wrong = (name: string, kind: string): never =>
    fail(`attribute ${name} is of kind ${kind}`, 'export the model again');
  const int = (name: string, otherwise?: number): number => {
    const found = node.attributes.get(name);
    if (found === undefined) return otherwise as number;
    return found.kind === 'int' ? integer(found.value) : wrong(name, found.kind);
  };
  return {
    node,
    opset,
    has,
    operand,
    get operands() {
      return node.inputs.filter((name) => name !== '').map(shapedOf);
    },
    ints,
    numbers,
    scalar: (index) => {
      const elements = ints(index);
      return elements.length === 1
        ? elements[0]!
        : fail(`'${node.inputs[index]}' has ${elements.length} elements, expected one`);
    },
    int,
    intList: (name) => {
      const found = node.attributes.get(name);
      if (found === undefined) return undefined;
      return found.kind === 'ints' ? found.value.map(integer) : wrong(name, found.kind);
    },
    float: (name, otherwise) => {
      const found = node.attributes.get(name);
      if (found === undefined) return otherwise;
      return found.kind === 'float' ? found.value : wrong(name, found.kind);
    },
    text: (name, otherwise) => {
      const found = node.attributes.get(name);
      if (found === undefined) return otherwise;
      return found.kind === 'string' ? found.value : wrong(name, found.kind);
    },
    attribute: (name) => node.attributes.get(name),
    axis: (value, rank) => {
      const normal = value < 0 ? value + rank : value;
      return normal >= 0 && normal < rank
        ? normal
        : fail(`axis ${value} does not exist in ${rank} dims`, 'export the model again');
    },
    limitTokens,
    fail,
  };
}

/** The result of broadcasting operands. @throws UserError naming the shapes */
export function broadcastOperands(
  ctx: OpContext,
  operands: readonly Shaped[],
  join: (a: Dims, b: Dims) => Dims | undefined,
): Dims {
  return operands
    .map((operand) => operand.dims)
    .reduce<Dims>(
      (a, b) =>
        join(a, b) ??
        ctx.fail(
          `${printDims(a)} and ${printDims(b)} do not broadcast for every sequence length`,
          'export the model with batch and sequence as the only dynamic axes',
        ),
      [],
    );
}
