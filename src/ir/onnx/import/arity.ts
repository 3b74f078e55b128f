/** How many operands the operations take whose operands are all alike, or that have no optional ones. */
import type { OnnxNode } from '../model.js';

const list = (count: number, names: string): readonly (readonly [string, number])[] =>
  names.split(' ').map((name) => [name, count] as const);

const ARITY: ReadonlyMap<string, number> = new Map([
  ...list(
    1,
    'Neg Exp Log Sqrt Reciprocal Tanh Sigmoid Erf Sin Cos Relu Abs Not IsNaN Floor Ceil Round Sign Cast Identity Gelu Transpose Flatten Shape Size ConstantOfShape Softmax LogSoftmax LpNormalization Hardmax EyeLike IsInf BitwiseNot Sinh Cosh Asin Acos Atan Asinh Acosh Atanh Tan Elu Celu Selu LeakyRelu ThresholdedRelu Shrink HardSigmoid HardSwish Softplus Softsign Mish Swish ArgMax ArgMin',
  ),
  ...list(
    2,
    'Mod Xor Add Sub Mul Div Pow Equal Less LessOrEqual Greater GreaterOrEqual And Or CastLike Expand Reshape Tile Gather GatherND GatherElements CumSum CumProd MatMul TopK PRelu SwiGLU BitwiseAnd BitwiseOr BitwiseXor',
  ),
  ...list(3, 'Where Range ScatterND ScatterElements OneHot'),
]);

const VARIADIC = new Set(['Max', 'Min', 'Sum', 'Mean', 'Concat', 'Einsum']);

/** What is wrong with the number of a node's operands, if anything. */
export function arityFault({ opType, domain, inputs }: OnnxNode): string | undefined {
  if (domain !== '' && domain !== 'ai.onnx') return undefined;
  const given = inputs.filter((name) => name !== '').length;
  if (VARIADIC.has(opType)) return given === 0 ? 'has no operands' : undefined;
  const wanted = ARITY.get(opType);
  return wanted === undefined || wanted === given ? undefined : `has ${given} operands, expected ${wanted}`;
}
