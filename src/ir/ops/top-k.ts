import { numberAttr } from '../graph.js';
import { pendingOf, requireDType } from '../infer.js';
import { TypeMismatch } from '../op.js';
import { constantOf } from '../size.js';
import { dim, printType, tensorType } from '../type.js';
import { defineOp, tensor } from './define.js';

export const topK = defineOp('top_k', {
  doc: 'The `k` largest elements of the last, whole dim, in descending order, and where they stand; of equal ones the first come first.',
  operands: ['x'],
  attrs: { k: 'integer' },
  infer: ({ types: [x], attrs }) => {
    requireDType(x!, 'f32', 'the operand of top_k');
    pendingOf([x!], 'none');
    const [last, k] = [x!.dims.at(-1), numberAttr(attrs, 'k')];
    const size = last === undefined || last.split !== undefined ? undefined : constantOf(last.size);
    if (size === undefined)
      throw new TypeMismatch(`top_k needs its last dim whole and constant, it is given ${printType(x!)}`);
    if (k < 1 || k > size) throw new TypeMismatch(`top_k of ${k} elements of ${size}`);
    const dims = [...x!.dims.slice(0, -1), dim(k)];
    return [tensorType('f32', dims), tensorType('i32', dims)];
  },
  /** Each cotangent goes to where its element stood; no two of a row stood at the same place. */
  vjp: ({ cotangents: [g], operands: [x], results: [, indices], build }) => {
    if (g === undefined) return [undefined];
    const size = constantOf(x!.type.dims.at(-1)!.size)!;
    const rank = x!.type.dims.length;
    const open = (value: typeof g): typeof g => {
      const shape = [...value.type.dims.map((d) => constantOf(d.size) ?? d.size), 1];
      return build.one('reshape', [value], { shape });
    };
    const data = Array.from({ length: size }, (_, i) => i);
    const places = build.one('constant', [], { dtype: 'i32', shape: [size], data });
    const taken = build.one('equal', [open(indices!), places]);
    const spread = build.one('mul', [build.one('cast', [taken], { to: 'f32' }), open(g)]);
    return [build.one('reduce_sum', [spread], { dims: [rank - 1], keep: false })];
  },
  eval: ({ inputs: [x], shapes, attrs }) => {
    const [values, indices] = [tensor(shapes[0]!), tensor(shapes[1]!)];
    const [size, k] = [x!.shape.at(-1)!, numberAttr(attrs, 'k')];
    for (let row = 0; row * size < x!.data.length; row++) {
      const of = x!.data.subarray(row * size, (row + 1) * size);
      const order = Array.from(of, (_, i) => i).sort((a, b) => of[b]! - of[a]! || a - b);
      for (let i = 0; i < k; i++) {
        values.data[row * k + i] = of[order[i]!]!;
        indices.data[row * k + i] = order[i]!;
      }
    }
    return [values, indices];
  },
  samples: [
    { operands: [{ type: 'f32[S@sp, 5]' }], attrs: { k: 2 } },
    { operands: [{ type: 'f32[S@sp, 2, 3]' }], attrs: { k: 3 } },
  ],
});
