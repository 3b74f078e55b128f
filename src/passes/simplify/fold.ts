import type { Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { opDef } from '../../ir/ops/index.js';
import { localShape, type RankBinding } from '../../ir/placement.js';
import { constantOf } from '../../ir/size.js';
import { numberOfElements } from '../../ir/type.js';
import { invariant } from '../../errors.js';
import { isElementwise, literalOf, uniformLike, uniformOf } from '../match.js';
import type { Rule } from './engine.js';

/** Largest constant that folding may make. */
const BUDGET_BYTES = 64 * 1024;
const ELEMENT_BYTES = 4;

const ALONE: RankBinding = {
  sp: { index: 0, degree: 1 },
  world: { index: 0, degree: 1 },
  symbols: new Map(),
};

/** Ops of literals, evaluated by the op table. */
const foldLiterals: Rule = (node, build) => {
  const def = opDef(node.op);
  if (node.operands.length === 0 || def.eval === undefined || node.op === 'broadcast') return undefined;
  const { type } = node.results[0]!;
  const elements = constantOf(numberOfElements(type));
  if (elements === undefined || elements * ELEMENT_BYTES > BUDGET_BYTES) return undefined;
  const inputs = node.operands.map(literalOf);
  if (!inputs.every((t) => t !== undefined)) return undefined;
  const shape = localShape(type, ALONE);
  const [result] = def.eval({
    types: node.operands.map((v) => v.type),
    attrs: node.attrs,
    region: undefined,
    inputs,
    shapes: [shape],
    rank: ALONE,
    run: () => [],
  });
  invariant(result !== undefined, `${node.op} evaluates to nothing`);
  // The text form has no NaN: such a result is left to run time.
  if (result.data.some((x) => Number.isNaN(x))) return undefined;
  return build.one('constant', [], { dtype: type.dtype, shape, data: [...result.data] });
};

/** A literal of equal elements is a broadcast scalar: short in text, and broadcasts fall away. */
const uniformLiteral: Rule = (node, build) => {
  const value = node.op === 'constant' ? uniformOf(node.results[0]!) : undefined;
  const { type } = node.results[0]!;
  return value === undefined || type.dims.length === 0 ? undefined : uniformLike(build, value, type);
};

const PRESERVING: ReadonlySet<string> = new Set([
  'reshape',
  'transpose',
  'slice',
  'reduce_max',
  'reduce_mean',
]);

/** Ops of uniform values are uniform, whatever their (symbolic) shape. */
const foldUniform: Rule = (node, build) => {
  const { type } = node.results[0]!;
  if (node.operands.length === 0 || type.dims.length === 0) return undefined;
  if (!isElementwise(node) && !PRESERVING.has(node.op)) return undefined;
  const values = node.operands.map(uniformOf);
  if (!values.every((x) => x !== undefined)) return undefined;
  if (!isElementwise(node)) return uniformLike(build, values[0]!, type);
  const scalar = build.one(
    node.op,
    node.operands.map((v, i) => scalarLike(build, v, values[i]!)),
    node.attrs,
  );
  const value = uniformOf(scalar);
  return value === undefined ? undefined : uniformLike(build, value, type);
};

const scalarLike = (build: Builder, like: Value, value: number): Value =>
  build.one('constant', [], { dtype: like.type.dtype, shape: [], data: [value] });

export const foldRules: readonly Rule[] = [uniformLiteral, foldUniform, foldLiterals];
