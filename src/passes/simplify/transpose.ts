import { numberAttr, numbersAttr, type Node, type Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { dim, tensorType, type Type } from '../../ir/type.js';
import { isElementwise, isUnit, permute, reshapeTo } from '../match.js';
import type { Rule } from './engine.js';

/**
 * Transposes move towards the users of elementwise ops, where they meet their inverse; those of values
 * whose dims keep their order (all but one of size 1) become reshapes at the source.
 */
const permOf = (value: Value): readonly number[] | undefined =>
  value.node.op === 'transpose' ? numbersAttr(value.node.attrs, 'perm') : undefined;

const samePerm = (a: readonly number[], b: readonly number[] | undefined): boolean =>
  b !== undefined && a.length === b.length && a.every((p, i) => p === b[i]);

const inverse = (perm: readonly number[]): number[] => perm.map((_, i) => perm.indexOf(i));

/** The type with leading dims of size 1 up to a rank. */
const padded = (type: Type, rank: number): Type =>
  tensorType(type.dtype, [...Array.from({ length: rank - type.dims.length }, () => dim(1)), ...type.dims]);

/** `x` broadcast-aligned to `perm.length` dims and permuted, if that moves nothing; scalars are left alone. */
function reshaped(build: Builder, x: Value, perm: readonly number[]): Value | undefined {
  if (x.type.dims.length === 0) return x;
  const { dims } = padded(x.type, perm.length);
  const moved = perm.filter((p) => !isUnit(dims[p]!));
  if (moved.some((p, i) => i > 0 && moved[i - 1]! > p)) return undefined;
  return reshapeTo(
    build,
    x,
    tensorType(
      x.type.dtype,
      perm.map((p) => dims[p]!),
    ),
  );
}

/** f(transpose(x), y) as transpose(f(x, y′)), when y needs no transpose of its own. */
const sinkThroughElementwise: Rule = (node, build) => {
  if (!isElementwise(node)) return undefined;
  const perm = node.operands.map(permOf).find((p) => p?.length === node.results[0]!.type.dims.length);
  if (perm === undefined) return undefined;
  const operands: Value[] = [];
  for (const v of node.operands) {
    const moved = samePerm(perm, permOf(v)) ? v.node.operands[0] : untransposed(build, v, perm);
    if (moved === undefined) return undefined;
    operands.push(moved);
  }
  return permute(build, build.one(node.op, operands, node.attrs), perm);
};

const untransposed = (build: Builder, v: Value, perm: readonly number[]): Value | undefined =>
  v.node.op === 'constant' && v.type.dims.length === perm.length
    ? permute(build, v, inverse(perm))
    : reshaped(build, v, inverse(perm));

const sinkThroughSlice: Rule = (node, build) => {
  const perm = node.op === 'slice' ? permOf(node.operands[0]!) : undefined;
  if (perm === undefined) return undefined;
  const attrs = { ...node.attrs, dim: perm[numberAttr(node.attrs, 'dim')]! };
  return permute(build, build.one('slice', [node.operands[0]!.node.operands[0]!], attrs), perm);
};

const sinkThroughConcat: Rule = (node, build) => {
  const perm = node.op === 'concat' ? permOf(node.operands[0]!) : undefined;
  if (perm === undefined || !node.operands.every((v) => samePerm(perm, permOf(v)))) return undefined;
  const operands = node.operands.map((v) => v.node.operands[0]!);
  return permute(build, build.one('concat', operands, { dim: perm[numberAttr(node.attrs, 'dim')]! }), perm);
};

const sinkThroughReduction: Rule = (node, build) => {
  const perm = node.op.startsWith('reduce_') ? permOf(node.operands[0]!) : undefined;
  if (perm === undefined) return undefined;
  const dims = numbersAttr(node.attrs, 'dims').map((d) => perm[d]!);
  const kept = node.attrs['keep'] === true ? perm : perm.filter((p) => !dims.includes(p));
  const order = kept.toSorted((a, b) => a - b);
  const result = build.one(node.op, [node.operands[0]!.node.operands[0]!], {
    ...node.attrs,
    dims: dims.toSorted((a, b) => a - b),
  });
  return permute(
    build,
    result,
    kept.map((p) => order.indexOf(p)),
  );
};

/** Norms over the last dim, when the transpose leaves that in place. */
const sinkThroughNorm: Rule = (node, build) => {
  const perm = node.op === 'rms_norm' || node.op === 'layer_norm' ? permOf(node.operands[0]!) : undefined;
  if (perm === undefined || perm.at(-1) !== perm.length - 1) return undefined;
  const [x, ...rest] = node.operands as readonly [Value, ...Value[]];
  return permute(build, build.one(node.op, [x.node.operands[0]!, ...rest], node.attrs), perm);
};

/** transpose(f(x, y)) as f(x′, y′), when neither needs a transpose: angles, from positions and frequencies. */
const liftOuter: Rule = (node, build) => {
  if (node.op !== 'transpose') return undefined;
  const inner: Node = node.operands[0]!.node;
  if (!isElementwise(inner) || inner.operands.length === 0) return undefined;
  const perm = numbersAttr(node.attrs, 'perm');
  const operands = inner.operands.map((v) => reshaped(build, v, perm));
  if (!operands.every((v) => v !== undefined)) return undefined;
  const result = build.one(inner.op, operands, inner.attrs);
  return reshapeTo(build, result, node.results[0]!.type);
};

export const transposeRules: readonly Rule[] = [
  sinkThroughElementwise,
  sinkThroughSlice,
  sinkThroughConcat,
  sinkThroughReduction,
  sinkThroughNorm,
  liftOuter,
];
