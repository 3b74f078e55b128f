import type { Value } from '../../ir/graph.js';
import { GELU_CUBIC, GELU_SQRT_2_OVER_PI } from '../../ir/ops/activation.js';
import { eitherOrder, nearly, operandOf } from '../match.js';
import { inverted, numberFactor, plusNumber, powerOf, products, takeFactor, type Factor } from './factors.js';
import type { RecognitionRule } from './rule.js';

/** The factors left when `c` and then `x` are taken out of a product of three. */
const without = (factors: readonly Factor[], x: Value): readonly Factor[] | undefined =>
  takeFactor(factors, (f) => (!f.inverse && f.value === x ? true : undefined))?.others;

/** c and v of c·v, however it is ordered; v / c too. */
function scaled(value: Value): { readonly c: number; readonly x: Value } | undefined {
  for (const factors of products(value, 2)) {
    const taken = takeFactor(factors, numberFactor);
    const other = taken?.others[0];
    if (other !== undefined && !other.inverse) return { c: taken!.found, x: other.value };
  }
  return undefined;
}

/** Why a value is not √(2/π)·(x + 0.044715·x³); undefined when it is. */
function notTanhArgument(value: Value, x: Value): string | undefined {
  const [found] = [...products(value, 2), ...products(value, 3)].flatMap((factors) => {
    const scale = takeFactor(factors, numberFactor);
    const cubic = scale && cubicCoefficient(scale.others, x);
    return cubic === undefined ? [] : [{ scale: scale!.found, cubic }];
  });
  if (found === undefined) return 'the argument of tanh is not c·(x + d·x³)';
  const { scale, cubic } = found;
  if (!nearly(scale, GELU_SQRT_2_OVER_PI))
    return `the argument of tanh is scaled by ${scale}, expected sqrt(2/π) = ${GELU_SQRT_2_OVER_PI}`;
  return nearly(cubic, GELU_CUBIC) ? undefined : `its cubic term is ${cubic}, expected ${GELU_CUBIC}`;
}

/** c of x + c·x³, one factor, or of x·(1 + c·x²), one factor or two. */
function cubicCoefficient(factors: readonly Factor[], x: Value): number | undefined {
  const [one, another] = factors;
  if (one !== undefined && another === undefined) {
    const added = one.inverse ? [] : eitherOrder(one.value, 'add');
    const [cubic] = added.flatMap(([a, b]) => (a === x ? (powerCoefficient(b, x, 3) ?? []) : []));
    const [factored] = products(one.value, 2).flatMap((pair) => cubicCoefficient(pair, x) ?? []);
    return one.inverse ? undefined : (cubic ?? factored);
  }
  const sum = without(factors, x)?.[0];
  const terms = sum && !sum.inverse ? plusNumber(sum.value) : undefined;
  return terms?.c === 1 ? powerCoefficient(terms.x, x, 2) : undefined;
}

/** c of c·x^n. */
function powerCoefficient(value: Value, x: Value, exponent: number): number | undefined {
  const readings = [2, 3, 4].flatMap((n) => products(value, n));
  for (const factors of readings) {
    const number = takeFactor(factors, numberFactor);
    const powers = number?.others.map((f) =>
      f.inverse
        ? undefined
        : f.value === x
          ? 1
          : powerOf(f.value)?.base === x
            ? powerOf(f.value)!.exponent
            : undefined,
    );
    const total = powers?.reduce((sum, n) => (sum === undefined || n === undefined ? undefined : sum + n), 0);
    if (total === exponent) return number!.found;
  }
  return undefined;
}

/** ½·x·(1 + tanh(…)) and ½·x·(1 + erf(x/√2)), in any order. */
const gelu: RecognitionRule = (node, build) => {
  if (node.op !== 'mul' && node.op !== 'div') return undefined;
  for (const factors of products(node.results[0]!, 3)) {
    const half = takeFactor(factors, (f) => (numberFactor(f) === 0.5 ? true : undefined));
    const gate = half && takeFactor(half.others, gateOf);
    const x = gate?.others[0];
    if (x === undefined || x.inverse) continue;
    const { kind, argument } = gate!.found;
    if (kind === 'tanh') {
      const reason = notTanhArgument(argument, x.value);
      if (reason !== undefined) return { nearMiss: `gelu: ${reason}` };
      return build.one('gelu', [x.value], { approximate: 'tanh' });
    }
    const inner = scaled(argument);
    if (inner?.x !== x.value || !nearly(inner.c, Math.SQRT1_2))
      return { nearMiss: 'gelu: the argument of erf is not x / sqrt(2)' };
    return build.one('gelu', [x.value], { approximate: 'none' });
  }
  return undefined;
};

/** The argument of tanh or erf in 1 + tanh(…). */
function gateOf({ value, inverse }: Factor): { kind: 'tanh' | 'erf'; argument: Value } | undefined {
  const sum = inverse ? undefined : plusNumber(value);
  if (sum?.c !== 1) return undefined;
  for (const kind of ['tanh', 'erf'] as const) {
    const argument = operandOf(sum.x, kind);
    if (argument !== undefined) return { kind, argument };
  }
  return undefined;
}

/** x·sigmoid(x), also with the sigmoid spelled 1 / (1 + e^−x). */
const silu: RecognitionRule = (node, build) => {
  if (node.op !== 'mul' && node.op !== 'div') return undefined;
  for (const factors of products(node.results[0]!, 2)) {
    const gate = takeFactor(factors, sigmoidArgument);
    const x = gate?.others[0];
    if (x !== undefined && !x.inverse && x.value === gate!.found) return build.one('silu', [x.value]);
  }
  return undefined;
};

function sigmoidArgument(factor: Factor): Value | undefined {
  const plain = factor.inverse ? undefined : operandOf(factor.value, 'sigmoid');
  if (plain !== undefined) return plain;
  const denominator = inverted(factor);
  const sum = denominator && plusNumber(denominator);
  const exponent = sum?.c === 1 ? operandOf(sum.x, 'exp') : undefined;
  return exponent && operandOf(exponent, 'neg');
}

export const activationRules: readonly RecognitionRule[] = [gelu, silu];
