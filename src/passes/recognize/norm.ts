import type { Value } from '../../ir/graph.js';
import { numbersAttr } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { sameSize } from '../../ir/size.js';
import { tensorType, type Type } from '../../ir/type.js';
import { eitherOrder, isSymbolic, operandOf, operandsOf, uniformLike, uniformOf } from '../match.js';
import { inverted, plusNumber, powerOf, products, takeFactor, type Factor } from './factors.js';
import type { Recognition, RecognitionRule } from './rule.js';

/** The operand of a mean over its last dim that keeps the dim. */
function meanOverLast(value: Value): Value | undefined {
  const x = operandOf(value, 'reduce_mean');
  if (x === undefined || value.node.attrs['keep'] !== true) return undefined;
  const dims = numbersAttr(value.node.attrs, 'dims');
  return dims.length === 1 && dims[0] === x.type.dims.length - 1 ? x : undefined;
}

interface Scale {
  /** What the mean square is of. */
  readonly x: Value;
  readonly eps: number;
}

/** 1 / sqrt(mean(x²) + eps): sqrt and division, sqrt and reciprocal, or a power of −½. */
function inverseRoot(factor: Factor): Scale | undefined {
  const root = inverted(factor);
  const square =
    (root && (operandOf(root, 'sqrt') ?? powered(root, 0.5))) ??
    (factor.inverse ? undefined : powered(factor.value, -0.5));
  const sum = square && plusNumber(square);
  const squares = sum && meanOverLast(sum.x);
  const power = squares && powerOf(squares);
  return power?.exponent === 2 ? { x: power.base, eps: sum!.c } : undefined;
}

const powered = (value: Value, exponent: number): Value | undefined => {
  const [base, by] = operandsOf(value, 'pow') ?? [];
  return by !== undefined && uniformOf(by) === exponent ? base : undefined;
};

/** One number a feature: the type of a norm's weight or bias. */
const featureType = (x: Value): Type => tensorType('f32', [x.type.dims.at(-1)!]);

const isFeature = (value: Value, x: Value): boolean =>
  value.type.dims.length === 1 && sameSize(value.type.dims[0]!.size, x.type.dims.at(-1)!.size);

/** x / sqrt(mean(x²) + eps), with a weight of ones: its weight, mean and bias are found by the rules below. */
const bareNorm: RecognitionRule = (node, build) => {
  for (const factors of products(node.results[0]!, 2)) {
    const scale = takeFactor(factors, inverseRoot);
    const other = scale?.others[0];
    if (other === undefined) continue;
    const { x, eps } = scale!.found;
    if (other.inverse || other.value !== x)
      return { nearMiss: 'rms_norm: the value that is scaled is not the one whose squares are averaged' };
    if (isSymbolic(x.type.dims.at(-1)!)) return { nearMiss: 'rms_norm: its mean runs over tokens' };
    return build.one('rms_norm', [x, uniformLike(build, 1, featureType(x))], { eps });
  }
  return undefined;
};

/** The rms_norm of x − mean(x) is the layer_norm of x. */
const centred: RecognitionRule = (node, build) => {
  const [difference, weight] = operandsOf(node.results[0]!, 'rms_norm') ?? [];
  const [x, mean] = (difference && operandsOf(difference, 'sub')) ?? [];
  if (x === undefined || mean === undefined || meanOverLast(mean) !== x) return undefined;
  return build.one('layer_norm', [x, weight!, uniformLike(build, 0, featureType(x))], node.attrs);
};

/** A product with one number a feature is the weight, where there was none. */
const weighted: RecognitionRule = (node, build) => {
  for (const [norm, weight] of eitherOrder(node.results[0]!, 'mul')) {
    const [x, ones, ...bias] = norm.node.operands;
    if (norm.node.op !== 'rms_norm' && norm.node.op !== 'layer_norm') continue;
    if (!isFeature(weight, x!) || uniformOf(ones!) !== 1 || !bias.every((b) => uniformOf(b) === 0)) continue;
    return build.one(norm.node.op, [x!, weight, ...bias], norm.node.attrs);
  }
  return undefined;
};

/** x·w / sqrt(mean(x²) + eps): the weight came first. */
const weightedFirst: RecognitionRule = (node, build): Recognition => {
  for (const factors of products(node.results[0]!, 3)) {
    const scale = takeFactor(factors, inverseRoot);
    const x =
      scale &&
      takeFactor(scale.others, (f) => (!f.inverse && f.value === scale.found.x ? f.value : undefined));
    const weight = x?.others[0];
    if (weight === undefined || weight.inverse || !isFeature(weight.value, x!.found)) continue;
    return build.one('rms_norm', [x!.found, weight.value], { eps: scale!.found.eps });
  }
  return undefined;
};

/** A sum with one number a feature is the bias, where there was none. */
const biased: RecognitionRule = (node, build) => {
  for (const [norm, bias] of eitherOrder(node.results[0]!, 'add')) {
    const [x, weight, zeros] = operandsOf(norm, 'layer_norm') ?? [];
    if (x === undefined || uniformOf(zeros!) !== 0 || !isFeature(bias, x)) continue;
    return build.one('layer_norm', [x, weight!, bias], norm.node.attrs);
  }
  return undefined;
};

const product =
  (rule: RecognitionRule): RecognitionRule =>
  (node, build: Builder) =>
    node.op === 'mul' || node.op === 'div' ? rule(node, build) : undefined;

export const normRules: readonly RecognitionRule[] = [
  product(weighted),
  product(weightedFirst),
  product(bareNorm),
  centred,
  biased,
];
