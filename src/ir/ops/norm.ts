import { numberAttr } from '../graph.js';
import { axes } from '../infer.js';
import type { Tensor } from '../op.js';
import { defineOp, tensor } from './define.js';

/** Calls `row` with every row over the last dim of x: its offset and length. */
function forRows(x: Tensor, row: (start: number, length: number) => void): void {
  const length = x.shape[x.shape.length - 1]!;
  for (let start = 0; start < x.data.length; start += length) row(start, length);
}

function moments(
  x: Tensor,
  start: number,
  length: number,
  centred: boolean,
): { mean: number; square: number } {
  let mean = 0;
  if (centred) for (let i = 0; i < length; i++) mean += x.data[start + i]! / length;
  let square = 0;
  for (let i = 0; i < length; i++) square += (x.data[start + i]! - mean) ** 2 / length;
  return { mean, square };
}

const samplesX = { type: 'f32[S@sp, 6]' } as const;
const samplesW = { type: 'f32[6]' } as const;

export const rmsNorm = defineOp('rms_norm', {
  doc: 'x / sqrt(mean(x²) + eps) · weight over the last dim (arXiv 1910.07467).',
  operands: ['x', 'weight'],
  attrs: { eps: 'number' },
  infer: axes('... D, D -> ... D', { linearity: 'none' }),
  vjp: ({ cotangents: [g], operands: [x, w], wanted, attrs, build }) => {
    if (g === undefined) return [undefined, undefined];
    const [dx, dw] = build('rms_norm_vjp', [x!, w!, g], attrs);
    return [wanted[0] ? dx : undefined, wanted[1] ? dw : undefined];
  },
  eval: ({ inputs: [x, w], attrs, shapes }) => {
    const out = tensor(shapes[0]!);
    forRows(x!, (start, n) => {
      const r = 1 / Math.sqrt(moments(x!, start, n, false).square + numberAttr(attrs, 'eps'));
      for (let i = 0; i < n; i++) out.data[start + i] = x!.data[start + i]! * r * w!.data[i]!;
    });
    return [out];
  },
  samples: [{ operands: [samplesX, samplesW], attrs: { eps: 1e-5 } }],
});

export const rmsNormVjp = defineOp('rms_norm_vjp', {
  doc: 'Cotangents (dx, dweight) of rms_norm; dweight is summed over all rows.',
  operands: ['x', 'weight', 'g'],
  attrs: { eps: 'number' },
  infer: axes('... D, D, ... D -> ... D, D', { linearity: 'last' }),
  eval: ({ inputs: [x, w, g], attrs, shapes }) => {
    const [dx, dw] = [tensor(shapes[0]!), tensor(shapes[1]!)];
    forRows(x!, (start, n) => {
      const r = 1 / Math.sqrt(moments(x!, start, n, false).square + numberAttr(attrs, 'eps'));
      let dot = 0;
      for (let i = 0; i < n; i++) dot += (g!.data[start + i]! * w!.data[i]! * x!.data[start + i]! * r) / n;
      for (let i = 0; i < n; i++) {
        const normal = x!.data[start + i]! * r;
        dx.data[start + i] = r * (g!.data[start + i]! * w!.data[i]! - normal * dot);
        dw.data[i]! += g!.data[start + i]! * normal;
      }
    });
    return [dx, dw];
  },
  samples: [{ operands: [samplesX, samplesW, samplesX], attrs: { eps: 1e-5 } }],
});

export const layerNorm = defineOp('layer_norm', {
  doc: '(x − mean) / sqrt(var + eps) · weight + bias over the last dim (arXiv 1607.06450).',
  operands: ['x', 'weight', 'bias'],
  attrs: { eps: 'number' },
  infer: axes('... D, D, D -> ... D', { linearity: 'none' }),
  vjp: ({ cotangents: [g], operands: [x, w], wanted, attrs, build }) => {
    if (g === undefined) return [undefined, undefined, undefined];
    const grads = build('layer_norm_vjp', [x!, w!, g], attrs);
    return grads.map((value, i) => (wanted[i] ? value : undefined));
  },
  eval: ({ inputs: [x, w, b], attrs, shapes }) => {
    const out = tensor(shapes[0]!);
    forRows(x!, (start, n) => {
      const { mean, square } = moments(x!, start, n, true);
      const r = 1 / Math.sqrt(square + numberAttr(attrs, 'eps'));
      for (let i = 0; i < n; i++)
        out.data[start + i] = (x!.data[start + i]! - mean) * r * w!.data[i]! + b!.data[i]!;
    });
    return [out];
  },
  samples: [{ operands: [samplesX, samplesW, samplesW], attrs: { eps: 1e-5 } }],
});

export const layerNormVjp = defineOp('layer_norm_vjp', {
  doc: 'Cotangents (dx, dweight, dbias) of layer_norm; dweight and dbias are summed over all rows.',
  operands: ['x', 'weight', 'g'],
  attrs: { eps: 'number' },
  infer: axes('... D, D, ... D -> ... D, D, D', { linearity: 'last' }),
  eval: ({ inputs: [x, w, g], attrs, shapes }) => {
    const [dx, dw, db] = [tensor(shapes[0]!), tensor(shapes[1]!), tensor(shapes[2]!)];
    forRows(x!, (start, n) => {
      const { mean, square } = moments(x!, start, n, true);
      const r = 1 / Math.sqrt(square + numberAttr(attrs, 'eps'));
      let [sum, dot] = [0, 0];
      for (let i = 0; i < n; i++) {
        const scaled = g!.data[start + i]! * w!.data[i]!;
        sum += scaled / n;
        dot += (scaled * (x!.data[start + i]! - mean) * r) / n;
      }
      for (let i = 0; i < n; i++) {
        const normal = (x!.data[start + i]! - mean) * r;
        dx.data[start + i] = r * (g!.data[start + i]! * w!.data[i]! - sum - normal * dot);
        dw.data[i]! += g!.data[start + i]! * normal;
        db.data[i]! += g!.data[start + i]!;
      }
    });
    return [dx, dw, db];
  },
  samples: [{ operands: [samplesX, samplesW, samplesX], attrs: { eps: 1e-5 } }],
});
