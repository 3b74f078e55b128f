import type { Value } from '../../ir/graph.js';
import { numberAttr, numbersAttr } from '../../ir/graph.js';
import { isUnit, operandOf, operandsOf, uniformOf } from '../match.js';
import { products, takeFactor, inverted } from './factors.js';
import type { RecognitionRule } from './rule.js';

/** The dim of a reduction that keeps exactly one. */
const reducedDim = (value: Value): number | undefined => {
  const dims = numbersAttr(value.node.attrs, 'dims');
  return dims.length === 1 && value.node.attrs['keep'] === true ? dims[0] : undefined;
};

/** e^x / Σ e^x, usually with x less its maximum, which changes nothing. */
const spelled: RecognitionRule = (node, build) => {
  if (node.op !== 'div' && node.op !== 'mul') return undefined;
  for (const factors of products(node.results[0]!, 2)) {
    const sum = takeFactor(factors, (f) => {
      const total = inverted(f);
      const x = total && operandOf(total, 'reduce_sum');
      const dim = x && reducedDim(total);
      return dim === undefined ? undefined : { x: x!, dim };
    });
    const top = sum?.others[0];
    const x = top && !top.inverse && top.value === sum!.found.x ? operandOf(top.value, 'exp') : undefined;
    if (x === undefined) continue;
    return build.one('softmax', [unshifted(x, sum!.found.dim)], { dim: sum!.found.dim });
  }
  return undefined;
};

/** softmax(x − t), where t is one number a row. */
const shifted: RecognitionRule = (node, build) => {
  const [x, by] = node.op === 'softmax' ? (operandsOf(node.operands[0]!, 'sub') ?? []) : [];
  if (x === undefined || by === undefined) return undefined;
  const dim = numberAttr(node.attrs, 'dim');
  const at = dim - node.results[0]!.type.dims.length + by.type.dims.length;
  const same = x.type.dims.length === node.results[0]!.type.dims.length && !isUnit(x.type.dims[dim]!);
  return same && (at < 0 || isUnit(by.type.dims[at]!)) ? build.one('softmax', [x], { dim }) : undefined;
};

const unshifted = (value: Value, dim: number): Value => {
  const [x, max] = operandsOf(value, 'sub') ?? [];
  return x !== undefined && max !== undefined && operandOf(max, 'reduce_max') === x && reducedDim(max) === dim
    ? x
    : value;
};

/** where(is_nan(p), 0, p): the guard for rows without a visible key. */
export function unguarded(value: Value): Value | undefined {
  const [condition, zero, p] = operandsOf(value, 'where') ?? [];
  return condition !== undefined && uniformOf(zero!) === 0 && operandOf(condition, 'is_nan') === p
    ? p
    : undefined;
}

export const softmaxDim = (value: Value): number => numberAttr(value.node.attrs, 'dim');

export const softmaxRules: readonly RecognitionRule[] = [spelled, shifted];
