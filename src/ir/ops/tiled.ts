import type { Attrs, Graph, Value } from '../graph.js';
import { numberAttr, numbersAttr } from '../graph.js';
import { TypeMismatch, type InferContext, type Tensor } from '../op.js';
import { TILE } from '../placement.js';
import { divideSizes, mulSizes, symbolSize } from '../size.js';
import { printType, sameType, tensorType, type Dim, type Type } from '../type.js';
import { defineOp, stridesOf, gatherIndices, tensor } from './define.js';

/** How a result of a `tiled` op is put together from those of its tiles. */
export type TileResult = 'concat' | 'sum';

const whole = -1;

const tileDim = (d: Dim): Dim => ({ ...d, size: symbolSize(TILE) });

/** Type of an operand inside the body: its sliced dim is one tile long. */
export const tiledOperand = (type: Type, at: number): Type =>
  at === whole
    ? type
    : tensorType(
        type.dtype,
        type.dims.map((d, i) => (i === at ? tileDim(d) : d)),
        type.pending,
      );

function infer({ types, attrs, region }: InferContext<Attrs>): readonly Type[] {
  if (region === undefined) throw new TypeMismatch('tiled has no body');
  const slices = numbersAttr(attrs, 'slice');
  const at = slices.findIndex((d) => d !== whole);
  const length = types[at]?.dims[slices[at]!]?.size;
  if (length === undefined || slices.length !== types.length || region.inputs.length !== types.length)
    throw new TypeMismatch('tiled needs one slice dim an operand, at least one of them sliced');
  types.forEach((type, i) => {
    const expected = tiledOperand(type, slices[i]!);
    if (!sameType(expected, region.inputs[i]!.type))
      throw new TypeMismatch(
        `operand ${i} of tiled is ${printType(type)}, its body takes ${printType(region.inputs[i]!.type)}`,
      );
  });
  const kinds = attrs['results'] as readonly TileResult[];
  return region.outputs.map(({ value: { type } }, i) => {
    if (kinds[i] === 'sum') return type;
    const [first, ...rest] = type.dims;
    const rows = first && divideSizes(first.size, symbolSize(TILE));
    if (first === undefined || rows === undefined)
      throw new TypeMismatch(`result ${i} of tiled is concatenated, but is ${printType(type)}`);
    return tensorType(type.dtype, [{ ...first, size: mulSizes(rows, length) }, ...rest], type.pending);
  });
}

function sliceTensor(x: Tensor, at: number, start: number, length: number): Tensor {
  const shape = x.shape.map((n, i) => (i === at ? length : n));
  const strides = stridesOf(x.shape);
  const offset = start * strides[at]!;
  return { shape, data: Float64Array.from(gatherIndices(shape, strides), (i) => x.data[i + offset]!) };
}

export const tiled = defineOp('tiled', {
  doc: 'Runs its body tile by tile, `tile` rows at a time: operand i is sliced along dim slice[i] (−1: whole); each result is concatenated along dim 0 or summed. No whole intermediate exists.',
  operands: ['...xs'],
  infer,
  vjp: ({ operands, cotangents, attrs, region, wanted, build, zeros, results, differentiate }) => {
    const body = differentiate(region!, wanted);
    const kinds = attrs['results'] as readonly TileResult[];
    const seeds = results.map((r, i) => cotangents[i] ?? zeros(r));
    const slices = numbersAttr(attrs, 'slice');
    const grads = build(
      'tiled',
      [...operands, ...seeds],
      {
        tile: attrs['tile'],
        slice: [...slices, ...kinds.map((kind) => (kind === 'concat' ? 0 : whole))],
        results: slices.flatMap((s, i): TileResult[] => (wanted[i] ? [s === whole ? 'sum' : 'concat'] : [])),
      },
      body,
    );
    const given = grads[Symbol.iterator]();
    return wanted.map((w): Value | undefined => (w ? given.next().value : undefined));
  },
  eval: ({ inputs, attrs, region, shapes, rank, run }) => {
    const slices = numbersAttr(attrs, 'slice');
    const tile = numberAttr(attrs, 'tile');
    const kinds = attrs['results'] as readonly TileResult[];
    const first = slices.findIndex((d) => d !== whole);
    const rows = inputs[first]!.shape[slices[first]!]!;
    const outs = shapes.map((shape) => tensor(shape));
    const filled = outs.map(() => 0);
    for (let start = 0; start < rows; start += tile) {
      const length = Math.min(tile, rows - start);
      const parts = inputs.map((x, i) =>
        slices[i] === whole ? x : sliceTensor(x, slices[i]!, start, length),
      );
      run(region as Graph, parts, { ...rank, tile: length }).forEach((part, i) => {
        if (kinds[i] === 'concat') {
          outs[i]!.data.set(part.data, filled[i]!);
          filled[i]! += part.data.length;
        } else part.data.forEach((value, j) => (outs[i]!.data[j]! += value));
      });
    }
    return outs;
  },
  samples: [],
});
