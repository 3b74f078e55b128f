import type { Attrs, Value } from '../graph.js';
import { numberAttr } from '../graph.js';
import { dimIndex } from '../infer.js';
import {
  TypeMismatch,
  type InferContext,
  type MeshEvalContext,
  type Tensor,
  type VjpContext,
} from '../op.js';
import { positionOn, shardRange, splitRange, type RankBinding } from '../placement.js';
import { constantOf } from '../size.js';
import {
  dim,
  isWhole,
  printType,
  splitOn,
  tensorType,
  type Axis,
  type Dim,
  type Split,
  type Type,
} from '../type.js';
import { defineOp, gatherIndices, stridesOf, tensor } from './define.js';

const AXES: readonly Axis[] = ['sp', 'world'];

const axisOf = (attrs: Attrs): Axis => attrs['axis'] as Axis;

const setDim = (type: Type, at: number, d: Dim, pending?: Axis): Type =>
  tensorType(
    type.dtype,
    type.dims.map((own, i) => (i === at ? d : own)),
    pending,
  );

/** Calls `visit(flatWhole, flatPart)` for a box of `part` shape placed at `offset` along `at` inside `whole`. */
function eachInBox(
  whole: readonly number[],
  part: readonly number[],
  offsets: readonly number[],
  visit: (inWhole: number, inPart: number) => void,
): void {
  const strides = stridesOf(whole);
  const base = offsets.reduce((sum, o, i) => sum + o * strides[i]!, 0);
  gatherIndices(part, strides).forEach((index, i) => visit(base + index, i));
}

const offsetsAt = (rank: number, at: number, offset: number): number[] =>
  Array.from({ length: rank }, (_, i) => (i === at ? offset : 0));

/** Split of dim `to` after an all-to-all: K/V heads follow the `heads` query heads when there are fewer of them. */
const headSplit = (size: number | undefined, attrs: Attrs): Split => {
  const heads = attrs['heads'] as number | undefined;
  const follows = heads !== undefined && size !== undefined && size < heads;
  return splitOn('sp', follows ? { of: heads } : {});
};

/** Dims an exchange goes from and to, counted from the front. */
const exchanged = (t: Type, attrs: Attrs): readonly [number, number] => [
  dimIndex(numberAttr(attrs, 'from'), t.dims.length),
  dimIndex(numberAttr(attrs, 'to'), t.dims.length),
];

/** `vjp` of an op that treats each operand by itself: operands without a cotangent take no part. */
const eachCotangent = (
  { cotangents, build }: VjpContext<Attrs>,
  op: string,
  attrs: Attrs,
): readonly (Value | undefined)[] => {
  const given = cotangents.filter((g) => g !== undefined);
  const grads = given.length === 0 ? [] : build(op, given, attrs);
  let next = 0;
  return cotangents.map((g) => (g === undefined ? undefined : grads[next++]));
};

export const allToAll = defineOp('all_to_all', {
  doc: 'Ulysses’ exchange over sp (arXiv 2309.14509): every operand, split on dim `from`, becomes split on dim `to`. All operands travel in one exchange. `heads`: dims with fewer pieces than this follow its split. A pending sum of K/V heads that several ranks hold is settled on arrival.',
  operands: ['...xs'],
  attrs: { from: 'integer', to: 'integer', 'heads?': 'integer' },
  infer: ({ types, attrs }) =>
    types.map((t) => {
      const [from, to] = exchanged(t, attrs);
      const source = t.dims[from]!.split;
      const overlapping = source?.of !== undefined;
      if (source?.axis !== 'sp' || source.unit !== 1 || t.dims[to]!.split !== undefined)
        throw new TypeMismatch(
          `all_to_all from dim ${from} to dim ${to} of ${printType(t)}: it must be split over sp, in pieces of one, on the one, whole on the other`,
        );
      if (t.pending !== undefined && !(overlapping && t.pending === 'sp'))
        throw new TypeMismatch(`all_to_all of the pending sum ${printType(t)}`);
      const target = t.dims[to]!;
      const gathered = setDim(t, from, dim(t.dims[from]!.size));
      return setDim(gathered, to, dim(target.size, headSplit(constantOf(target.size), attrs)));
    }),
  vjp: (ctx) => {
    const { from, to } = ctx.attrs;
    const sources = ctx.operands.map(({ type }) => ({
      type,
      split: type.dims[exchanged(type, ctx.attrs)[0]]!.split,
    }));
    for (const { type, split } of sources)
      if (split?.of !== undefined && type.pending === undefined)
        throw new TypeMismatch(
          `all_to_all of ${printType(type)} takes one of several copies and has no cotangent that they share`,
        );
    const heads = sources.find(({ split }) => split?.of !== undefined)?.split?.of;
    return eachCotangent(ctx, 'all_to_all', {
      from: to,
      to: from,
      ...(heads === undefined ? {} : { heads }),
    });
  },
  evalMesh: (ctx) => {
    const { attrs, types, inputs, ranks, shapes } = ctx;
    return ranks.map((receiver, r) =>
      types.map((type, k) => {
        const [from, to] = exchanged(type, attrs);
        const out = tensor(shapes[r]![k]!);
        const wholeFrom = out.shape[from]!;
        const mine = rangeOn(
          inputs.map((m) => m[k]!.shape[to]!)[0]!,
          headSplit(constantOf(type.dims[to]!.size), attrs),
          receiver,
        );
        const owned = new Set<number>();
        ranks.forEach((sender, s) => {
          const x = inputs[s]![k]!;
          const theirs = rangeOn(wholeFrom, type.dims[from]!.split!, sender);
          const part = x.shape.map((n, i) => (i === to ? mine.end - mine.start : n));
          const skip = new Set<number>();
          for (let piece = theirs.start; piece < theirs.end; piece++)
            if (owned.has(piece) && type.pending === undefined) skip.add(piece);
            else owned.add(piece);
          const rows = gatherIndices(
            part,
            part.map((_, i) => (i === from ? 1 : 0)),
          );
          const source = gatherIndices(part, stridesOf(x.shape)).map(
            (v) => v + mine.start * stridesOf(x.shape)[to]!,
          );
          eachInBox(out.shape, part, offsetsAt(part.length, from, theirs.start), (target, i) => {
            if (!skip.has(theirs.start + rows[i]!)) out.data[target]! += x.data[source[i]!]!;
          });
        });
        return out;
      }),
    );
  },
  samples: [],
});

const rangeOn = (size: number, split: Split, rank: RankBinding): { start: number; end: number } =>
  splitRange(size, split, positionOn(split.axis, rank));

const settles = (pending: Axis | undefined, axis: Axis): boolean =>
  pending === axis || (pending === 'sp' && axis === 'world');

const sumOverMembers = ({ inputs, ranks, types }: MeshEvalContext<Attrs>): Tensor[][] => {
  const totals = types.map((_, k) => {
    const total = tensor(inputs[0]![k]!.shape);
    for (const member of inputs) member[k]!.data.forEach((value, i) => (total.data[i]! += value));
    return total;
  });
  return ranks.map(() => totals);
};

const inferSettle =
  (op: string, place: (type: Type, attrs: Attrs) => Type) =>
  ({ types, attrs }: InferContext<Attrs>): Type[] =>
    types.map((t) => {
      if (!settles(t.pending, axisOf(attrs)) || t.dims.some((d) => d.split !== undefined))
        throw new TypeMismatch(`${op} over ${axisOf(attrs)} needs a whole pending sum, got ${printType(t)}`);
      return place(t, attrs);
    });

export const allReduce = defineOp('all_reduce', {
  doc: 'Settles pending sums over `axis`: every rank gets the whole. A sum pending over sp, seen across groups, is pending over world.',
  operands: ['...xs'],
  attrs: { axis: AXES },
  infer: inferSettle('all_reduce', (t) => tensorType(t.dtype, t.dims)),
  vjp: (ctx) => eachCotangent(ctx, 'all_reduce', ctx.attrs),
  evalMesh: sumOverMembers,
  samples: [],
});

export const reduceScatter = defineOp('reduce_scatter', {
  doc: 'Settles pending sums over `axis` so that each rank keeps its share of dim 0.',
  operands: ['...xs'],
  attrs: { axis: AXES },
  infer: inferSettle('reduce_scatter', (t, attrs) => {
    if (t.dims[0] === undefined)
      throw new TypeMismatch(`reduce_scatter of ${printType(t)}, which has no dim`);
    return setDim(t, 0, dim(t.dims[0].size, splitOn(axisOf(attrs))));
  }),
  vjp: (ctx) => eachCotangent(ctx, 'all_gather', ctx.attrs),
  evalMesh: (ctx) =>
    sumOverMembers(ctx).map((whole, r) => whole.map((t) => shardOf(t, ctx.ranks[r]!, axisOf(ctx.attrs)))),
  samples: [],
});

const shardOf = (whole: Tensor, rank: RankBinding, axis: Axis): Tensor => {
  const { degree, index } = positionOn(axis, rank);
  const { start, end } = shardRange(whole.shape[0]!, degree, index);
  const row = whole.shape.slice(1).reduce((product, n) => product * n, 1);
  return { shape: [end - start, ...whole.shape.slice(1)], data: whole.data.slice(start * row, end * row) };
};

export const allGather = defineOp('all_gather', {
  doc: 'Puts the shares of dim 0 over `axis` together on every rank.',
  operands: ['...xs'],
  attrs: { axis: AXES },
  infer: ({ types, attrs }) =>
    types.map((t) => {
      const split = t.dims[0]?.split;
      if (
        split?.axis !== axisOf(attrs) ||
        split.of !== undefined ||
        split.unit !== 1 ||
        t.pending !== undefined
      )
        throw new TypeMismatch(
          `all_gather over ${axisOf(attrs)} needs a tensor split on dim 0 in pieces of one, got ${printType(t)}`,
        );
      return setDim(t, 0, dim(t.dims[0]!.size));
    }),
  vjp: (ctx) => eachCotangent(ctx, 'reduce_scatter', ctx.attrs),
  evalMesh: ({ inputs, ranks, shapes, types }) =>
    ranks.map((_, r) =>
      types.map((_, k) => {
        const out = tensor(shapes[r]![k]!);
        let at = 0;
        for (const member of inputs) {
          out.data.set(member[k]!.data, at);
          at += member[k]!.data.length;
        }
        return out;
      }),
    ),
  samples: [],
});

export const shard = defineOp('shard', {
  doc: 'This rank’s share of dim 0 over `axis` of a value that every rank holds; nothing travels.',
  operands: ['x'],
  attrs: { axis: AXES },
  infer: ({ types: [x], attrs }) => {
    if (!isWhole(x!) || x!.dims.length === 0)
      throw new TypeMismatch(`shard needs a whole tensor with a dim, got ${printType(x!)}`);
    return [setDim(x!, 0, dim(x!.dims[0]!.size, splitOn(axisOf(attrs))))];
  },
  eval: ({ inputs: [x], attrs, rank }) => [shardOf(x!, rank, axisOf(attrs))],
  samples: [{ operands: [{ type: 'f32[5, 2]' }], attrs: { axis: 'sp' } }],
});
