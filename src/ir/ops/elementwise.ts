import { broadcastDims, elementwise, pendingOf, refusePendingSplit, requireDType } from '../infer.js';
import type { Builder, Sample, VjpContext } from '../op.js';
import type { Attrs, Value } from '../graph.js';
import { tensorType, type DType } from '../type.js';
import { DTYPES, defineOp, mapElements, scalarConstant, unbroadcast } from './define.js';
import { erf } from './erf.js';

/** g where the condition holds, 0 elsewhere: linear in g, so that pending sums pass. */
const keepWhere = (build: Builder, condition: Value, g: Value): Value =>
  build.one('mul', [g, build.one('cast', [condition], { to: 'f32' })]);

type Vjp = (ctx: VjpContext<Attrs>) => readonly (Value | undefined)[];

const unarySamples = (range: readonly [number, number]): Sample[] => [
  { operands: [{ type: 'f32[S@sp, 4]', range }] },
  { operands: [{ type: 'f32[3, S@sp]', range }] },
  { operands: [{ type: 'f32[]', range }] },
];

const unary = <const N extends string>(
  name: N,
  doc: string,
  fn: (x: number) => number,
  vjp: ((ctx: VjpContext<Attrs>, g: Value) => Value) | undefined,
  range: readonly [number, number] = [-2, 2],
) =>
  defineOp(name, {
    doc,
    operands: ['x'],
    infer: (ctx) => {
      requireDType(ctx.types[0]!, 'f32', name);
      return elementwise('none')(ctx);
    },
    ...(vjp === undefined
      ? {}
      : { vjp: (ctx) => [ctx.cotangents[0] === undefined ? undefined : vjp(ctx, ctx.cotangents[0])] }),
    eval: ({ inputs, shapes }) => [mapElements(shapes[0]!, inputs, fn)],
    samples: unarySamples(range),
  });

export const neg = defineOp('neg', {
  doc: 'Negation.',
  operands: ['x'],
  infer: elementwise('first'),
  vjp: ({ cotangents: [g], build }) => [g && build.one('neg', [g])],
  eval: ({ inputs, shapes }) => [mapElements(shapes[0]!, inputs, (x) => -x)],
  samples: unarySamples([-2, 2]),
});

export const exp = unary('exp', 'e^x.', Math.exp, ({ results, build }, g) =>
  build.one('mul', [g, results[0]!]),
);
export const log = unary(
  'log',
  'Natural logarithm.',
  Math.log,
  ({ operands, build }, g) => build.one('div', [g, operands[0]!]),
  [0.5, 3],
);
export const sqrt = unary(
  'sqrt',
  'Square root.',
  Math.sqrt,
  ({ results, build }, g) => build.one('div', [g, build.one('mul', [scalarConstant(build, 2), results[0]!])]),
  [0.5, 3],
);
export const reciprocal = unary(
  'reciprocal',
  '1 / x.',
  (x) => 1 / x,
  ({ results, build }, g) =>
    build.one('neg', [build.one('mul', [g, build.one('mul', [results[0]!, results[0]!])])]),
  [0.5, 3],
);
export const tanh = unary('tanh', 'Hyperbolic tangent.', Math.tanh, ({ results, build }, g) =>
  build.one('mul', [
    g,
    build.one('sub', [scalarConstant(build, 1), build.one('mul', [results[0]!, results[0]!])]),
  ]),
);
export const sigmoid = unary(
  'sigmoid',
  '1 / (1 + e^-x).',
  (x) => 1 / (1 + Math.exp(-x)),
  ({ results, build }, g) =>
    build.one('mul', [
      g,
      build.one('mul', [results[0]!, build.one('sub', [scalarConstant(build, 1), results[0]!])]),
    ]),
);
export const sin = unary('sin', 'Sine.', Math.sin, ({ operands, build }, g) =>
  build.one('mul', [g, build.one('cos', [operands[0]!])]),
);
export const cos = unary('cos', 'Cosine.', Math.cos, ({ operands, build }, g) =>
  build.one('neg', [build.one('mul', [g, build.one('sin', [operands[0]!])])]),
);
export const erfOp = unary('erf', 'Gauss error function.', erf, ({ operands: [x], build }, g) => {
  const gauss = build.one('exp', [build.one('neg', [build.one('mul', [x!, x!])])]);
  return build.one('mul', [g, build.one('mul', [scalarConstant(build, 2 / Math.sqrt(Math.PI)), gauss])]);
});
export const relu = unary(
  'relu',
  'max(x, 0).',
  (x) => Math.max(x, 0),
  ({ operands: [x], build }, g) => keepWhere(build, build.one('less', [scalarConstant(build, 0), x!]), g),
);
export const abs = unary('abs', 'Absolute value.', Math.abs, ({ operands: [x], build }, g) => {
  const negative = build.one('cast', [build.one('less', [x!, scalarConstant(build, 0)])], { to: 'f32' });
  const sign = build.one('sub', [
    scalarConstant(build, 1),
    build.one('mul', [scalarConstant(build, 2), negative]),
  ]);
  return build.one('mul', [g, sign]);
});
export const isNan = defineOp('is_nan', {
  doc: 'True where x is not a number.',
  operands: ['x'],
  infer: elementwise('none', 'bool'),
  eval: ({ inputs, shapes }) => [mapElements(shapes[0]!, inputs, (x) => (Number.isNaN(x) ? 1 : 0))],
  samples: unarySamples([-2, 2]),
});
export const not = defineOp('not', {
  doc: 'Logical negation.',
  operands: ['x'],
  infer: elementwise('none', 'bool'),
  eval: ({ inputs, shapes }) => [mapElements(shapes[0]!, inputs, (x) => (x === 0 ? 1 : 0))],
  samples: [{ operands: [{ type: 'bool[S@sp, 3]', range: [0, 1], integers: true }] }],
});
export const cast = defineOp('cast', {
  doc: 'Conversion to element type `to`; floats to integers truncate towards zero.',
  operands: ['x'],
  attrs: { to: DTYPES },
  infer: (ctx) => elementwise('none', ctx.attrs['to'] as DType)(ctx),
  vjp: ({ cotangents: [g], operands: [x], attrs }) => [
    x!.type.dtype === 'f32' && attrs['to'] === 'f32' ? g : undefined,
  ],
  eval: ({ inputs, shapes, attrs }) => [
    mapElements(shapes[0]!, inputs, (x) =>
      attrs['to'] === 'i32' ? Math.trunc(x) : attrs['to'] === 'bool' ? Number(x !== 0) : x,
    ),
  ],
  samples: [{ operands: [{ type: 'i32[S@sp]', range: [0, 9], integers: true }], attrs: { to: 'f32' } }],
});

const binarySamples = (range: readonly [number, number], dtype = 'f32'): Sample[] => {
  const of = (type: string): { type: string; range: readonly [number, number]; integers: boolean } => ({
    type: `${dtype}${type}`,
    range,
    integers: dtype !== 'f32',
  });
  return [
    { operands: [of('[S@sp, 4]'), of('[S@sp, 4]')] },
    { operands: [of('[S@sp, 4]'), of('[4]')] },
    { operands: [of('[]'), of('[3, S@sp]')] },
    { operands: [of('[S@sp, 1, 3]'), of('[2, 1]')] },
  ];
};

const binary = <const N extends string>(
  name: N,
  doc: string,
  linearity: 'joint' | 'each' | 'first' | 'none',
  fn: (a: number, b: number) => number,
  vjp: Vjp | undefined,
  options: { result?: DType; range?: readonly [number, number]; dtype?: DType } = {},
) =>
  defineOp(name, {
    doc: `${doc} Broadcasts like numpy.`,
    operands: ['a', 'b'],
    infer: (ctx) => {
      if (options.dtype !== undefined) requireDType(ctx.types[0]!, options.dtype, `first operand of ${name}`);
      requireDType(ctx.types[1]!, ctx.types[0]!.dtype, `second operand of ${name}`);
      return elementwise(linearity, options.result ?? 'same')(ctx);
    },
    ...(vjp === undefined ? {} : { vjp }),
    eval: ({ inputs, shapes }) => [mapElements(shapes[0]!, inputs, fn)],
    samples: binarySamples(options.range ?? [-2, 2], options.dtype ?? 'f32'),
  });

/** Wraps the two partial products of a binary op: skips what is not wanted, undoes broadcasting. */
const pair =
  (
    left: (ctx: VjpContext<Attrs>, g: Value) => Value,
    right: (ctx: VjpContext<Attrs>, g: Value) => Value,
  ): Vjp =>
  (ctx) => {
    const g = ctx.cotangents[0];
    if (g === undefined) return [undefined, undefined];
    return [left, right].map((fn, i) =>
      ctx.wanted[i] ? unbroadcast(ctx.build, fn(ctx, g), ctx.operands[i]!.type) : undefined,
    );
  };

export const add = binary(
  'add',
  'Sum.',
  'joint',
  (a, b) => a + b,
  pair(
    (_, g) => g,
    (_, g) => g,
  ),
);
export const sub = binary(
  'sub',
  'Difference.',
  'joint',
  (a, b) => a - b,
  pair(
    (_, g) => g,
    ({ build }, g) => build.one('neg', [g]),
  ),
);
export const mul = binary(
  'mul',
  'Product.',
  'each',
  (a, b) => a * b,
  pair(
    ({ build, operands }, g) => build.one('mul', [g, operands[1]!]),
    ({ build, operands }, g) => build.one('mul', [g, operands[0]!]),
  ),
);
export const div = binary(
  'div',
  'Quotient.',
  'first',
  (a, b) => a / b,
  pair(
    ({ build, operands }, g) => build.one('div', [g, operands[1]!]),
    ({ build, operands, results }, g) =>
      build.one('neg', [build.one('div', [build.one('mul', [g, results[0]!]), operands[1]!])]),
  ),
  { range: [0.5, 2] },
);
export const pow = binary(
  'pow',
  'Power. The cotangent of the exponent takes the logarithm of the base, which must be positive there.',
  'none',
  Math.pow,
  pair(
    ({ build, operands: [a, b] }, g) => {
      const lowered = build.one('pow', [a!, build.one('sub', [b!, scalarConstant(build, 1)])]);
      return build.one('mul', [g, build.one('mul', [b!, lowered])]);
    },
    ({ build, operands: [a], results: [y] }, g) =>
      build.one('mul', [g, build.one('mul', [y!, build.one('log', [a!])])]),
  ),
  { range: [0.5, 2] },
);
export const maximum = binary(
  'maximum',
  'Larger of two; ties give the cotangent to the second.',
  'none',
  (a, b) => Math.max(a, b),
  pair(
    ({ build, operands: [a, b] }, g) => keepWhere(build, build.one('less', [b!, a!]), g),
    ({ build, operands: [a, b] }, g) => keepWhere(build, build.one('less_equal', [a!, b!]), g),
  ),
);
export const minimum = binary(
  'minimum',
  'Smaller of two; ties give the cotangent to the second.',
  'none',
  (a, b) => Math.min(a, b),
  pair(
    ({ build, operands: [a, b] }, g) => keepWhere(build, build.one('less', [a!, b!]), g),
    ({ build, operands: [a, b] }, g) => keepWhere(build, build.one('less_equal', [b!, a!]), g),
  ),
);
export const equal = binary('equal', 'a = b.', 'none', (a, b) => Number(a === b), undefined, {
  result: 'bool',
});
export const less = binary('less', 'a < b.', 'none', (a, b) => Number(a < b), undefined, { result: 'bool' });
export const lessEqual = binary('less_equal', 'a ≤ b.', 'none', (a, b) => Number(a <= b), undefined, {
  result: 'bool',
});
export const and = binary('and', 'Logical and.', 'none', (a, b) => Number(a !== 0 && b !== 0), undefined, {
  range: [0, 1],
  dtype: 'bool',
});
export const or = binary('or', 'Logical or.', 'none', (a, b) => Number(a !== 0 || b !== 0), undefined, {
  range: [0, 1],
  dtype: 'bool',
});

export const where = defineOp('where', {
  doc: 'a where the condition holds, b elsewhere. Broadcasts like numpy.',
  operands: ['condition', 'a', 'b'],
  infer: ({ types }) => {
    requireDType(types[0]!, 'bool', 'the condition of where');
    requireDType(types[2]!, types[1]!.dtype, 'third operand of where');
    pendingOf([types[0]!], 'none');
    const dims = broadcastDims(types);
    refusePendingSplit(types, dims);
    return [tensorType(types[1]!.dtype, dims, pendingOf(types.slice(1), 'joint'))];
  },
  vjp: ({ cotangents: [g], operands: [condition, a, b], wanted, build }) => {
    if (g === undefined) return [undefined, undefined, undefined];
    return [
      undefined,
      wanted[1] ? unbroadcast(build, keepWhere(build, condition!, g), a!.type) : undefined,
      wanted[2]
        ? unbroadcast(build, keepWhere(build, build.one('not', [condition!]), g), b!.type)
        : undefined,
    ];
  },
  eval: ({ inputs, shapes }) => [mapElements(shapes[0]!, inputs, (c, a, b) => (c === 0 ? b! : a!))],
  samples: [
    {
      operands: [
        { type: 'bool[S@sp, 1]', range: [0, 1], integers: true },
        { type: 'f32[S@sp, 4]' },
        { type: 'f32[]' },
      ],
    },
  ],
});
