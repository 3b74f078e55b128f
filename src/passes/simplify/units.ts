import { numberAttr, numbersAttr, type Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { shapeAttr } from '../../ir/ops/define.js';
import type { OpName } from '../../ir/ops/index.js';
import { tensorType, type Type } from '../../ir/type.js';
import { isElementwise, isUnit, leadingUnits, permute, reshapeTo, sameDims, uniformOf } from '../match.js';
import type { Rule } from './engine.js';

/**
 * Leading dims of size 1 (the bound batch) are dropped before an op and put back after it, so that they
 * meet as reshapes and cancel.
 */
const dropLeading = (build: Builder, x: Value, n: number): Value =>
  reshapeTo(build, x, tensorType(x.type.dtype, x.type.dims.slice(n)));

const leadingOf = (operands: readonly Value[]): readonly number[] =>
  operands.map((v) => leadingUnits(v.type));

const squeezeElementwise: Rule = (node, build) => {
  if (!isElementwise(node)) return undefined;
  const units = leadingOf(node.operands);
  if (units.every((n) => n === 0)) return undefined;
  const squeezed = node.operands.map((v, i) => dropLeading(build, v, units[i]!));
  return reshapeTo(build, build.one(node.op, squeezed, node.attrs), node.results[0]!.type);
};

/** Leading dims of both factors must stay equal in number, unless the second becomes a matrix. */
const squeezeMatmul: Rule = (node, build) => {
  if (node.op !== 'matmul') return undefined;
  const [a, b] = node.operands as readonly [Value, Value];
  const [unitsA, unitsB] = [a, b].map((v) => Math.min(leadingUnits(v.type), v.type.dims.length - 2)) as [
    number,
    number,
  ];
  const [leadA, leadB] = [a.type.dims.length - 2, b.type.dims.length - 2];
  const free = unitsB === leadB || unitsA === leadA;
  const common = Math.min(unitsA, unitsB);
  const [dropA, dropB] = free ? [unitsA, unitsB] : [common, common];
  if (dropA === 0 && dropB === 0) return undefined;
  const product = build.one('matmul', [dropLeading(build, a, dropA), dropLeading(build, b, dropB)]);
  return reshapeTo(build, product, node.results[0]!.type);
};

const ALONG: ReadonlySet<string> = new Set(['softmax', 'slice', 'concat', 'drop_last']);

/** Ops along `dim`, with one or more operands of equal rank. */
const squeezeAlong: Rule = (node, build) => {
  if (!ALONG.has(node.op)) return undefined;
  const dim = numberAttr(node.attrs, 'dim');
  const drop = Math.min(dim, ...leadingOf(node.operands));
  if (drop === 0) return undefined;
  const squeezed = node.operands.map((v) => dropLeading(build, v, drop));
  const result = build.one(node.op, squeezed, { ...node.attrs, dim: dim - drop });
  return reshapeTo(build, result, node.results[0]!.type);
};

/** A reduction over a dim of size 1 is none. */
const squeezeReduction: Rule = (node, build) => {
  if (!node.op.startsWith('reduce_') && node.op !== 'log_sum_exp') return undefined;
  const x = node.operands[0]!;
  const dims = numbersAttr(node.attrs, 'dims');
  const drop = leadingUnits(x.type);
  if (drop === 0 && !dims.some((d) => isUnit(x.type.dims[d]!))) return undefined;
  const kept = dims.filter((d) => !isUnit(x.type.dims[d]!)).map((d) => d - drop);
  const squeezed = dropLeading(build, x, drop);
  const result = kept.length === 0 ? squeezed : build.one(node.op, [squeezed], { ...node.attrs, dims: kept });
  return reshapeTo(build, result, node.results[0]!.type);
};

const squeezeGather: Rule = (node, build) => {
  if (node.op !== 'gather') return undefined;
  const [table, ids] = node.operands as readonly [Value, Value];
  const drop = leadingUnits(ids.type);
  if (drop === 0) return undefined;
  return reshapeTo(build, build.one('gather', [table, dropLeading(build, ids, drop)]), node.results[0]!.type);
};

const ROWWISE: ReadonlySet<string> = new Set<OpName>(['rms_norm', 'layer_norm']);

const squeezeRows: Rule = (node, build) => {
  if (!ROWWISE.has(node.op)) return undefined;
  const [x, ...rest] = node.operands as readonly [Value, ...Value[]];
  const drop = Math.min(leadingUnits(x.type), x.type.dims.length - 1);
  if (drop === 0) return undefined;
  const result = build.one(node.op, [dropLeading(build, x, drop), ...rest], node.attrs);
  return reshapeTo(build, result, node.results[0]!.type);
};

const squeezeBroadcast: Rule = (node, build) => {
  if (node.op !== 'broadcast') return undefined;
  const { type } = node.results[0]!;
  const x = node.operands[0]!;
  const [own, target] = [leadingUnits(x.type), leadingUnits(type)];
  // A uniform value is broadcast straight from its scalar: a reshape of it would come back to this rule.
  if ((own === 0 && target === 0) || uniformOf(x) !== undefined) return undefined;
  const squeezed = dropLeading(build, x, own);
  const wanted: Type = tensorType(type.dtype, type.dims.slice(target));
  const repeated = sameDims(squeezed.type.dims, wanted.dims)
    ? squeezed
    : build.one('broadcast', [squeezed], { shape: shapeAttr(wanted), axes: [] });
  return reshapeTo(build, repeated, type);
};

/** Dims of size 1 do not move: leading ones are dropped, and a transpose of such dims alone is a reshape. */
const squeezeTranspose: Rule = (node, build) => {
  if (node.op !== 'transpose') return undefined;
  const x = node.operands[0]!;
  const { type } = node.results[0]!;
  const perm = numbersAttr(node.attrs, 'perm');
  const moving = perm.filter((p) => !isUnit(x.type.dims[p]!));
  if (moving.every((p, i) => i === 0 || moving[i - 1]! < p)) return reshapeTo(build, x, type);
  const [before, after] = [leadingUnits(x.type), leadingUnits(type)];
  if (before === 0 && after === 0) return undefined;
  const kept = perm.filter((p, i) => p >= before && i >= after);
  const order = kept.toSorted((a, b) => a - b);
  const squeezed = tensorType(
    x.type.dtype,
    order.map((p) => x.type.dims[p]!),
  );
  const inner = permute(
    build,
    reshapeTo(build, x, squeezed),
    kept.map((p) => order.indexOf(p)),
  );
  return reshapeTo(build, inner, type);
};

export const unitRules: readonly Rule[] = [
  squeezeElementwise,
  squeezeMatmul,
  squeezeAlong,
  squeezeReduction,
  squeezeGather,
  squeezeRows,
  squeezeBroadcast,
  squeezeTranspose,
];
