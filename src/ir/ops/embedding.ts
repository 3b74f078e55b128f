import { constantOf } from '../size.js';
import { numberAttr } from '../graph.js';
import { pendingOf, requireDType, summedOver } from '../infer.js';
import { TypeMismatch } from '../op.js';
import { dim, printType, sameDim, tensorType } from '../type.js';
import { defineOp, tensor } from './define.js';

export const gather = defineOp('gather', {
  doc: 'Rows of a table: `table[V, …], ids[…] -> […, …]`. The table must be whole in its first dim.',
  operands: ['table', 'ids'],
  infer: ({ types: [table, ids] }) => {
    requireDType(ids!, 'i32', 'the ids of gather');
    pendingOf([table!, ids!], 'none');
    if (table!.dims[0] === undefined || table!.dims[0].split !== undefined)
      throw new TypeMismatch('the table of gather must be whole in its first dim');
    if (constantOf(table!.dims[0].size) === undefined)
      throw new TypeMismatch('the number of rows of the table of gather must be constant');
    return [tensorType(table!.dtype, [...ids!.dims, ...table!.dims.slice(1)])];
  },
  vjp: ({ cotangents: [g], operands: [table, ids], wanted, build }) => [
    g !== undefined && wanted[0]
      ? build.one('gather_vjp', [ids!, g], { rows: constantOf(table!.type.dims[0]!.size)! })
      : undefined,
    undefined,
  ],
  eval: ({ inputs: [table, ids], shapes }) => {
    const out = tensor(shapes[0]!);
    const row = table!.shape.slice(1).reduce((product, n) => product * n, 1);
    ids!.data.forEach((id, i) => {
      if (!(id >= 0 && id < table!.shape[0]!))
        throw new RangeError(`id ${id} is outside a table of ${table!.shape[0]} rows`);
      out.data.set(table!.data.subarray(id * row, (id + 1) * row), i * row);
    });
    return [out];
  },
  samples: [{ operands: [{ type: 'f32[7, 3]' }, { type: 'i32[S@sp]', range: [0, 6], integers: true }] }],
});

export const gatherVjp = defineOp('gather_vjp', {
  doc: 'Adds rows of g into a table of `rows` rows at their ids: the cotangent of gather’s table.',
  operands: ['ids', 'g'],
  attrs: { rows: 'integer' },
  infer: ({ types: [ids, g], attrs }) => {
    requireDType(ids!, 'i32', 'the ids of gather_vjp');
    requireDType(g!, 'f32', 'the cotangent of gather_vjp');
    const lead = ids!.dims.length;
    if (g!.dims.length < lead || !ids!.dims.every((d, i) => sameDim(d, g!.dims[i]!)))
      throw new TypeMismatch(
        `gather_vjp: ${printType(g!)} does not lead with the dims of ${printType(ids!)}`,
      );
    const pending = summedOver(ids!.dims, pendingOf([ids!, g!], 'last'));
    return [tensorType('f32', [dim(numberAttr(attrs, 'rows')), ...g!.dims.slice(lead)], pending)];
  },
  eval: ({ inputs: [ids, g], shapes }) => {
    const out = tensor(shapes[0]!);
    const row = shapes[0]!.slice(1).reduce((product, n) => product * n, 1);
    ids!.data.forEach((id, i) => {
      for (let j = 0; j < row; j++) out.data[id * row + j]! += g!.data[i * row + j]!;
    });
    return [out];
  },
  samples: [
    {
      operands: [{ type: 'i32[S@sp]', range: [0, 6], integers: true }, { type: 'f32[S@sp, 3]' }],
      attrs: { rows: 7 },
    },
  ],
});
