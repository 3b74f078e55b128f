import { UserError } from '../../../../errors.js';
import {
  addSizes,
  constantOf,
  constantSize,
  divideSizes,
  mulSizes,
  signOfSize,
  subSizes,
  type Size,
} from '../../../size.js';
import { gatherIndices, broadcastStrides } from '../../../ops/define.js';
import { dtypeOfCode } from '../../dtype.js';
import type { OnnxDtype } from '../../model.js';
import {
  broadcastOperands,
  irDtype,
  MAX_KNOWN,
  shapeAttribute,
  type OnnxOp,
  type OpContext,
  type Shaped,
  type TranslateContext,
} from '../context.js';
import {
  atLeast,
  broadcastSizes,
  compareEqual,
  compareLess,
  numericDims,
  one,
  sameDims,
  tokens,
  zero,
} from '../shapes.js';
import type { Value } from '../../../graph.js';

type Fold = (...elements: readonly Size[]) => Size | undefined;

const flag = (value: boolean | undefined): Size | undefined =>
  value === undefined ? undefined : value ? one : zero;

/** Applies integer arithmetic element by element, where all elements are known. */
function fold(
  operands: readonly Shaped[],
  dims: Shaped['dims'],
  fn: Fold | undefined,
): readonly Size[] | undefined {
  const shape = numericDims(dims);
  if (fn === undefined || shape === undefined || operands.some((operand) => operand.ints === undefined))
    return undefined;
  if (shape.reduce((product, n) => product * n, 1) > MAX_KNOWN) return undefined;
  const reads = operands.map((operand) =>
    gatherIndices(shape, broadcastStrides(numericDims(operand.dims)!, shape)),
  );
  const result: Size[] = [];
  for (let i = 0; i < (reads[0]?.length ?? 0); i++) {
    const element = attempt(() => fn(...operands.map((operand, k) => operand.ints![reads[k]![i]!]!)));
    if (element === undefined) return undefined;
    result.push(element);
  }
  return result;
}

/** Sizes above 2⁵³ are not known. */
function attempt(compute: () => Size | undefined): Size | undefined {
  try {
    return compute();
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

/** Elementwise with broadcasting: `dtype` of the result from its operands. */
const inferElementwise =
  (dtype: (operands: readonly Shaped[]) => OnnxDtype, fn?: Fold) =>
  (ctx: OpContext): readonly Shaped[] => {
    const operands = ctx.operands;
    const dims = broadcastOperands(ctx, operands, broadcastSizes);
    return [{ dtype: dtype(operands), dims, ints: fold(operands, dims, fn) }];
  };

const first = (operands: readonly Shaped[]): OnnxDtype => operands[0]!.dtype;
const bool = (): OnnxDtype => 'bool';

/** Integers of the IR do not wrap around as narrow ones do. */
function refuseNarrow(ctx: TranslateContext): void {
  const { dtype } = ctx.results[0]!;
  if (irDtype(dtype) === 'i32' && dtype !== 'i64' && dtype !== 'i32')
    ctx.fail(`computes in ${dtype} what depends on the tokens`, 'cast to int64 before the arithmetic');
}

const unary = (op: string, fn?: Fold, dtype = first): OnnxOp => ({
  infer: inferElementwise(dtype, fn),
  translate: (ctx) => {
    refuseNarrow(ctx);
    return [ctx.build.one(op, [ctx.value(0)])];
  },
});

const binary = (op: string, fn?: Fold, dtype = first): OnnxOp => ({
  infer: inferElementwise(dtype, fn),
  translate: (ctx) => {
    refuseNarrow(ctx);
    return [ctx.build.one(op, [ctx.value(0), ctx.value(1)])];
  },
});

/** Understood in index arithmetic only. */
const indexOnly = (fn?: Fold, dtype = first): OnnxOp => ({ infer: inferElementwise(dtype, fn) });

/** `fn` may decide for S up to a limit only, which it passes on. */
const variadic = (op: string, fn: (ctx: OpContext, a: Size, b: Size) => Size | undefined): OnnxOp => ({
  infer: (ctx) =>
    inferElementwise(first, (...all) =>
      all.slice(1).reduce<Size | undefined>((a, b) => a && fn(ctx, a, b!), all[0]),
    )(ctx),
  translate: (ctx) => {
    const values = ctx.operands.map((_, i) => ctx.value(i));
    return [values.slice(1).reduce((a, b) => ctx.build.one(op, [a, b]), values[0]!)];
  },
});

/** Integer division truncates; it is exact, or over constants, or unknown. */
function quotient(a: Size, b: Size): Size | undefined {
  const [x, y] = [constantOf(a), constantOf(b)];
  if (x !== undefined && y !== undefined) return y === 0 ? undefined : constantSize(Math.trunc(x / y));
  return divideSizes(a, b);
}

const Div: OnnxOp = {
  infer: (ctx) => {
    const integers = irDtype(ctx.operand(0).dtype) === 'i32';
    const exact: Fold = (a, b) => divideSizes(a!, b!);
    return inferElementwise(first, integers ? (a, b) => quotient(a!, b!) : exact)(ctx);
  },
  translate: (ctx) => {
    if (irDtype(ctx.results[0]!.dtype) !== 'f32')
      ctx.fail('divides integers that depend on the data', 'export the model without it');
    return [ctx.build.one('div', [ctx.value(0), ctx.value(1)])];
  },
};

const Pow: OnnxOp = {
  infer: inferElementwise(first, (a, b) => {
    const exponent = constantOf(b!);
    if (exponent === undefined || exponent < 0 || exponent > 8) return undefined;
    return Array.from({ length: exponent }).reduce<Size>((product) => mulSizes(product, a!), one);
  }),
  translate: (ctx) => [ctx.build.one('pow', [ctx.value(0), castTo(ctx, ctx.value(1), 'f32')])],
};

export const castTo = (ctx: TranslateContext, value: Value, to: 'f32' | 'i32' | 'bool'): Value =>
  value.type.dtype === to ? value : ctx.build.one('cast', [value], { to });

/** Types that values at run time may be cast to: others round, saturate or wrap around. */
const CAST_TARGETS: ReadonlySet<OnnxDtype> = new Set<OnnxDtype>([
  'f32',
  'f64',
  'f16',
  'bf16',
  'i64',
  'i32',
  'bool',
]);

function cast(ctx: TranslateContext): readonly Value[] {
  const { dtype } = ctx.results[0]!;
  if (!CAST_TARGETS.has(dtype))
    ctx.fail(`casts to ${dtype} what depends on the tokens`, 'export the model without quantisation');
  return [castTo(ctx, ctx.value(0), irDtype(dtype))];
}

const Cast: OnnxOp = {
  infer: (ctx) => {
    const x = ctx.operand(0);
    const dtype = dtypeOfCode(ctx.int('to', 0)) ?? ctx.fail(`casts to an unknown type ${ctx.int('to', 0)}`);
    if (dtype === 'string') ctx.fail('casts to strings', 'export the model without text operations');
    const toBool = (size: Size): Size | undefined => {
      const sign = signOfSize(size);
      return sign === undefined ? undefined : sign === 0 ? zero : one;
    };
    const ints = dtype === 'bool' ? x.ints?.map(toBool) : x.ints;
    return [
      { dtype, dims: x.dims, ints: ints?.every((size) => size !== undefined) === true ? ints : undefined },
    ];
  },
  translate: cast,
};

const CastLike: OnnxOp = {
  values: [0],
  infer: (ctx) => [{ dtype: ctx.operand(1).dtype, dims: ctx.operand(0).dims }],
  translate: cast,
};

const Identity: OnnxOp = {
  infer: (ctx) => [ctx.operand(0)],
  translate: (ctx) => [ctx.value(0)],
};

const Dropout: OnnxOp = {
  values: [0],
  infer: (ctx) => {
    const training = ctx.has(2) && ctx.operand(2).ints?.every((size) => constantOf(size) === 0) !== true;
    if (training) ctx.fail('drops at random: it is in training mode', 'call model.eval() before the export');
    const { dtype, dims } = ctx.operand(0);
    return [
      { dtype, dims },
      { dtype: 'bool', dims },
    ];
  },
  translate: (ctx) => [ctx.value(0)],
};

const Where: OnnxOp = {
  infer: inferElementwise(
    (operands) => operands[1]!.dtype,
    (condition, a, b) => {
      const sign = signOfSize(condition!);
      return sign === undefined ? undefined : sign === 0 ? b : a;
    },
  ),
  translate: (ctx) => [ctx.build.one('where', [ctx.value(0), ctx.value(1), ctx.value(2)])],
};

const Gelu: OnnxOp = {
  infer: inferElementwise(first),
  translate: (ctx) => {
    const approximate = ctx.text('approximate', 'none');
    if (approximate !== 'none' && approximate !== 'tanh')
      ctx.fail(`approximate is '${approximate}', expected none or tanh`);
    return [ctx.build.one('gelu', [ctx.value(0)], { approximate })];
  },
};

const Clip: OnnxOp = {
  infer: (ctx) => [{ dtype: ctx.operand(0).dtype, dims: ctx.operand(0).dims }],
  translate: (ctx) => {
    if (ctx.attribute('min') !== undefined || ctx.attribute('max') !== undefined)
      ctx.fail('takes its bounds as attributes, as before opset 11', 'export with opset 14 or later');
    const low = ctx.has(1) ? ctx.build.one('maximum', [ctx.value(0), ctx.value(1)]) : ctx.value(0);
    return [ctx.has(2) ? ctx.build.one('minimum', [low, ctx.value(2)]) : low];
  },
};

const swapped = (op: string, fn: Fold): OnnxOp => ({
  infer: inferElementwise(bool, fn),
  translate: (ctx) => [ctx.build.one(op, [ctx.value(1), ctx.value(0)])],
});

const Expand: OnnxOp = {
  values: [0],
  infer: (ctx) => {
    const x = ctx.operand(0);
    const target = { dtype: x.dtype, dims: ctx.ints(1) };
    const dims = broadcastOperands(ctx, [x, target], broadcastSizes);
    return [{ dtype: x.dtype, dims, ints: fold([x], dims, (element) => element) }];
  },
  translate: (ctx) => [broadcastTo(ctx, ctx.value(0), ctx.results[0]!.dims)],
};

/** Repeats a value up to `dims`. */
export function broadcastTo(ctx: TranslateContext, value: Value, dims: Shaped['dims']): Value {
  if (
    sameDims(
      value.type.dims.map((d) => d.size),
      dims,
    )
  )
    return value;
  return ctx.build.one('broadcast', [value], { shape: shapeAttribute(dims), axes: [] });
}

const both = (a: Size, b: Size): boolean | undefined => {
  const [x, y] = [signOfSize(a), signOfSize(b)];
  if (x === 0 || y === 0) return false;
  return x === undefined || y === undefined ? undefined : true;
};

const either = (a: Size, b: Size): boolean | undefined => {
  const [x, y] = [signOfSize(a), signOfSize(b)];
  if ((x !== undefined && x !== 0) || (y !== undefined && y !== 0)) return true;
  return x === 0 && y === 0 ? false : undefined;
};

const negated = (value: boolean | undefined): boolean | undefined =>
  value === undefined ? undefined : !value;

/** The larger of two; where only S decides, the one that is for short documents, which are then all there may be. */
function larger(ctx: OpContext, a: Size, b: Size): Size | undefined {
  if (atLeast(a, b)) return a;
  if (atLeast(b, a)) return b;
  for (const [x, y] of [
    [a, b],
    [b, a],
  ] as const) {
    const most = constantOf(addSizes(subSizes(x, y), tokens));
    if (most === undefined || most < 1) continue;
    ctx.limitTokens(most);
    return x;
  }
  return undefined;
}

const smaller = (ctx: OpContext, a: Size, b: Size): Size | undefined => {
  const found = larger(ctx, mulSizes(a, -1), mulSizes(b, -1));
  return found && mulSizes(found, -1);
};
const remainder: Fold = (a, b) => {
  const [x, y] = [constantOf(a!), constantOf(b!)];
  return x === undefined || y === undefined || y <= 0 ? undefined : constantSize(((x % y) + y) % y);
};

export const elementwiseOps = {
  Neg: unary('neg', (x) => mulSizes(x!, -1)),
  Exp: unary('exp'),
  Log: unary('log'),
  Sqrt: unary('sqrt'),
  Reciprocal: unary('reciprocal'),
  Tanh: unary('tanh'),
  Sigmoid: unary('sigmoid'),
  Erf: unary('erf'),
  Sin: unary('sin'),
  Cos: unary('cos'),
  Relu: unary('relu'),
  Abs: unary('abs', (x) => {
    const sign = signOfSize(x!);
    return sign === undefined ? undefined : mulSizes(x!, sign);
  }),
  Not: unary('not', (x) => {
    const sign = signOfSize(x!);
    return sign === undefined ? undefined : flag(sign === 0);
  }),
  IsNaN: unary('is_nan', undefined, bool),
  Floor: indexOnly((x) => x),
  Ceil: indexOnly((x) => x),
  Round: indexOnly((x) => x),
  Sign: indexOnly((x) => {
    const sign = signOfSize(x!);
    return sign === undefined ? undefined : constantSize(sign);
  }),
  Mod: indexOnly(remainder),
  Add: binary('add', (a, b) => addSizes(a!, b!)),
  Sub: binary('sub', (a, b) => subSizes(a!, b!)),
  Mul: binary('mul', (a, b) => mulSizes(a!, b!)),
  Div,
  Pow,
  Max: variadic('maximum', larger),
  Min: variadic('minimum', smaller),
  Equal: binary('equal', (a, b) => flag(compareEqual(a!, b!)), bool),
  Less: binary('less', (a, b) => flag(compareLess(a!, b!)), bool),
  LessOrEqual: binary('less_equal', (a, b) => flag(negated(compareLess(b!, a!))), bool),
  Greater: swapped('less', (a, b) => flag(compareLess(b!, a!))),
  GreaterOrEqual: swapped('less_equal', (a, b) => flag(negated(compareLess(a!, b!)))),
  And: binary('and', (a, b) => flag(both(a!, b!))),
  Or: binary('or', (a, b) => flag(either(a!, b!))),
  Where,
  Cast,
  CastLike,
  Identity,
  Dropout,
  Gelu,
  Clip,
  Expand,
} as const satisfies Record<string, OnnxOp>;
