import type { Attrs, Graph, Value } from '../graph.js';
import { numberAttr, numbersAttr } from '../graph.js';
import { TypeMismatch, type InferContext, type Tensor } from '../op.js';
import { TILE } from '../placement.js';
import { constantOf, divideSizes, mulSizes, symbolSize } from '../size.js';
import {
  dim,
  printDim,
  printType,
  sameDim,
  sameSplit,
  sameType,
  splitOn,
  tensorType,
  type Dim,
  type Type,
} from '../type.js';
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

/** Tile rows an element of the dim counts for (2 for a dim of `2*T`), or undefined. */
const rowsOf = (d: Dim): number | undefined => {
  const rows = divideSizes(d.size, symbolSize(TILE));
  return rows && constantOf(rows);
};

/** The dim along which tiles are put together: the only one whose size depends on the tile. */
const concatDim = (type: Type): number => type.dims.findIndex((d) => dependsOnTile(d));

const dependsOnTile = (d: Dim): boolean => d.size.terms.some((t) => t.symbols.includes(TILE));

/** The dim that is cut into tiles; sliced operands agree about it. */
function slicedDim(types: readonly Type[], slices: readonly number[], inputs: number): Dim {
  const cut = types.flatMap((t, i) => (slices[i] === whole ? [] : [t.dims[slices[i]!]]));
  const [first] = cut;
  if (first === undefined || slices.length !== types.length || inputs !== types.length)
    throw new TypeMismatch('tiled needs one slice dim an operand, at least one of them sliced');
  if (cut.some((d) => d === undefined || !sameDim(d, first)))
    throw new TypeMismatch(
      `the sliced dims of tiled differ: ${cut.map((d) => (d ? printDim(d) : 'none')).join(', ')}`,
    );
  if (first.split !== undefined && (first.split.unit !== 1 || first.split.of !== undefined))
    throw new TypeMismatch(`tiled slices ${printDim(first)}: it must be split in pieces of one`);
  return first;
}

/** Type outside the body of a result put together from its tiles. */
function joined(type: Type, kind: TileResult | undefined, cut: Dim): Type {
  const at = concatDim(type);
  const refuse = (why: string): never => {
    throw new TypeMismatch(`a result of tiled is ${printType(type)}, ${why}`);
  };
  if (kind === 'sum') {
    if (at >= 0) refuse('which cannot be summed: its size is that of a tile');
    if (cut.split !== undefined && type.pending !== cut.split.axis)
      refuse(`which is no sum pending over ${cut.split.axis}: ranks hold different numbers of tiles`);
    return type;
  }
  const d = type.dims[at];
  const rows = d && rowsOf(d);
  if (
    kind !== 'concat' ||
    d === undefined ||
    rows === undefined ||
    type.dims.filter(dependsOnTile).length > 1
  )
    return refuse('expected one dim of whole tiles to concatenate');
  const split = cut.split && splitOn(cut.split.axis, { unit: rows });
  if (!sameSplit(d.split, split)) refuse(`which is not placed like the sliced dim ${printDim(cut)}`);
  const length = dim(mulSizes(rows, cut.size), split);
  return tensorType(
    type.dtype,
    type.dims.map((own, i) => (i === at ? length : own)),
    type.pending,
  );
}

function infer({ types, attrs, region }: InferContext<Attrs>): readonly Type[] {
  if (region === undefined) throw new TypeMismatch('tiled has no body');
  const slices = numbersAttr(attrs, 'slice');
  const kinds = attrs['results'] as readonly TileResult[];
  if (numberAttr(attrs, 'tile') < 1) throw new TypeMismatch('tiles of tiled must have a row or more');
  if (kinds.length !== region.outputs.length || kinds.length === 0)
    throw new TypeMismatch(`tiled names ${kinds.length} results, its body has ${region.outputs.length}`);
  const cut = slicedDim(types, slices, region.inputs.length);
  types.forEach((type, i) => {
    const expected = tiledOperand(type, slices[i]!);
    if (!sameType(expected, region.inputs[i]!.type))
      throw new TypeMismatch(
        `operand ${i} of tiled is ${printType(type)}, its body takes ${printType(region.inputs[i]!.type)}`,
      );
  });
  return region.outputs.map(({ value }, i) => joined(value.type, kinds[i], cut));
}

function sliceTensor(x: Tensor, at: number, start: number, length: number): Tensor {
  const shape = x.shape.map((n, i) => (i === at ? length : n));
  const strides = stridesOf(x.shape);
  const offset = start * strides[at]!;
  return { shape, data: Float64Array.from(gatherIndices(shape, strides), (i) => x.data[i + offset]!) };
}

function placeTensor(whole: Tensor, part: Tensor, at: number, start: number): void {
  const strides = stridesOf(whole.shape);
  const offset = start * strides[at]!;
  gatherIndices(part.shape, strides).forEach((target, i) => (whole.data[target + offset] = part.data[i]!));
}

export const tiled = defineOp('tiled', {
  doc: 'Runs its body tile by tile, `tile` rows at a time: operand i is sliced along dim slice[i] (−1: whole); each result is summed, or concatenated along its dim of tile rows. No whole intermediate exists.',
  operands: ['...xs'],
  attrs: { tile: 'integer', slice: 'integers', results: 'strings' },
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
        slice: [
          ...slices,
          ...kinds.map((kind, i) => (kind === 'concat' ? concatDim(region!.outputs[i]!.value.type) : whole)),
        ],
        results: slices.flatMap((s, i): TileResult[] => (wanted[i] ? [s === whole ? 'sum' : 'concat'] : [])),
      },
      body,
    );
    const given = grads[Symbol.iterator]();
    return wanted.map((w): Value | undefined => (w ? given.next().value : undefined));
  },
  eval: ({ inputs, attrs, region, shapes, rank, run }) => {
    const along = region!.outputs.map(({ value }) => concatDim(value.type));
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
          placeTensor(outs[i]!, part, along[i]!, filled[i]!);
          filled[i]! += part.shape[along[i]!]!;
        } else part.data.forEach((value, j) => (outs[i]!.data[j]! += value));
      });
    }
    return outs;
  },
  samples: [],
});
