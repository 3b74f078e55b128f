import type { Attrs } from '../graph.js';
import { pendingOf, requireDType } from '../infer.js';
import { TypeMismatch, type InferContext } from '../op.js';
import { constantOf, sameSize } from '../size.js';
import { dim, printType, splitOn, tensorType, type Type } from '../type.js';
import { defineOp, tensor } from './define.js';

function check({ types }: InferContext<Attrs>): { x: Type; documents: Type } {
  const [x, documents] = types as readonly [Type, Type];
  requireDType(x, 'f32', 'the operand of document_sum');
  requireDType(documents, 'i32', 'the documents of document_sum');
  const [rows, width, ...more] = x.dims;
  if (rows === undefined || width === undefined || more.length > 0 || constantOf(width.size) === undefined)
    throw new TypeMismatch(
      `document_sum takes [tokens, features] with constant features, it is given ${printType(x)}`,
    );
  const [at, ...others] = documents.dims;
  if (at === undefined || others.length > 0 || !sameSize(at.size, rows.size))
    throw new TypeMismatch(
      `the documents of document_sum are ${printType(documents)}, expected one number a token`,
    );
  return { x, documents };
}

export const documentSum = defineOp('document_sum', {
  doc: 'Every token gets the sum over all tokens of its document; documents are numbered below the number of tokens. Tokens must be whole, so features are split. Its own adjoint.',
  operands: ['x', 'documents'],
  infer: (ctx) => {
    const { x, documents } = check(ctx);
    if (x.dims[0]!.split !== undefined || documents.dims[0]!.split !== undefined)
      throw new TypeMismatch(
        `document_sum needs its tokens whole, it is given ${printType(x)}, ${printType(documents)}`,
      );
    return [tensorType('f32', x.dims, pendingOf(ctx.types, 'first'))];
  },
  demands: (ctx) => {
    const { x, documents } = check(ctx);
    const [rows, width] = x.dims;
    return [
      tensorType('f32', [dim(rows!.size), dim(width!.size, splitOn('sp'))]),
      tensorType('i32', [dim(documents.dims[0]!.size)]),
    ];
  },
  vjp: ({ cotangents: [g], operands: [, documents], build }) => [
    g && build.one('document_sum', [g, documents!]),
    undefined,
  ],
  eval: ({ inputs: [x, documents], shapes }) => {
    const [rows, width] = shapes[0] as [number, number];
    const sums = new Map<number, Float64Array>();
    for (let t = 0; t < rows; t++) {
      const sum = sums.get(documents!.data[t]!) ?? new Float64Array(width);
      for (let i = 0; i < width; i++) sum[i]! += x!.data[t * width + i]!;
      sums.set(documents!.data[t]!, sum);
    }
    const out = tensor(shapes[0]!);
    for (let t = 0; t < rows; t++) out.data.set(sums.get(documents!.data[t]!)!, t * width);
    return [out];
  },
  samples: [
    {
      operands: [{ type: 'f32[S, 5@sp]' }, { type: 'i32[S]', range: [0, 2], integers: true }],
    },
  ],
});
