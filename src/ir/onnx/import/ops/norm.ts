/** Norms over the last dims, which are one dim to the IR. */
import type { Value } from '../../../graph.js';
import { constantOf, constantSize, productOfSizes } from '../../../size.js';
import type { OnnxOp, OpContext, TranslateContext } from '../context.js';
import { one, printDims, type Dims } from '../shapes.js';
import { broadcastTo } from './elementwise.js';
import { reshapeTo } from './layout.js';
import { spell } from './spell.js';

/** The dims before those that are normalised, and the number of elements of those. */
function splitAt(ctx: TranslateContext): { readonly lead: Dims; readonly width: number } {
  const { dims } = ctx.operand(0);
  const at = ctx.axis(ctx.int('axis', -1), dims.length);
  const width =
    constantOf(productOfSizes(dims.slice(at))) ??
    ctx.fail('normalises over the tokens', 'use a model that normalises over features');
  return { lead: dims.slice(0, at), width };
}

/** The operand as rows of what is normalised. */
const rowsOf = (ctx: TranslateContext): Value => {
  const { lead, width } = splitAt(ctx);
  return reshapeTo(ctx, ctx.value(0), [...lead, constantSize(width)]);
};

/** A weight or bias of the normalised elements, [width]. */
function weightOf(ctx: TranslateContext, index: number): Value {
  const { lead, width } = splitAt(ctx);
  const [own, whole] = [ctx.operand(index).dims, ctx.operand(0).dims.slice(lead.length)];
  if (constantOf(productOfSizes(own)) === width)
    return reshapeTo(ctx, ctx.value(index), [constantSize(width)]);
  if (own.length > whole.length)
    ctx.fail(
      `has a weight of ${printDims(own)}, expected one of the normalised ${printDims(whole)}`,
      'export the model again',
    );
  return reshapeTo(ctx, broadcastTo(ctx, ctx.value(index), whole), [constantSize(width)]);
}

const shapesOf = (ctx: OpContext): ReturnType<OnnxOp['infer']> => {
  const { dtype, dims } = ctx.operand(0);
  const at = ctx.axis(ctx.int('axis', -1), dims.length);
  const kept = dims.map((size, i) => (i < at ? size : one));
  return [
    { dtype, dims },
    { dtype: 'f32', dims: kept },
    { dtype: 'f32', dims: kept },
  ];
};

const epsilon = (ctx: TranslateContext): number => ctx.float('epsilon', 1e-5);

/** Mean and 1 / √(variance + ε), for those who ask for them. */
function statistics(ctx: TranslateContext): readonly (Value | undefined)[] {
  const asked = [1, 2].map((i) => (ctx.node.outputs[i] ?? '') !== '');
  if (!asked.includes(true)) return [];
  const [s, x] = [spell(ctx), rowsOf(ctx)];
  const { lead, width } = splitAt(ctx);
  const meanOf = (value: Value): Value => s.div(s.sum(value, [lead.length]), width);
  const mean = meanOf(x);
  const off = s.sub(x, mean);
  const deviation = s.div(1, s.sqrt(s.add(meanOf(s.mul(off, off)), epsilon(ctx))));
  return [mean, deviation].map((value, i) =>
    asked[i] ? reshapeTo(ctx, value, ctx.results[i + 1]!.dims) : undefined,
  );
}

export const LayerNormalization: OnnxOp = {
  infer: shapesOf,
  translate: (ctx) => {
    const { width } = splitAt(ctx);
    const [x, weight] = [rowsOf(ctx), weightOf(ctx, 1)];
    const bias = ctx.has(2)
      ? weightOf(ctx, 2)
      : broadcastTo(ctx, spell(ctx).number(0), [constantSize(width)]);
    const result = ctx.build.one('layer_norm', [x, weight, bias], { eps: epsilon(ctx) });
    return [reshapeTo(ctx, result, ctx.operand(0).dims), ...statistics(ctx)];
  },
};

export const RMSNormalization: OnnxOp = {
  infer: (ctx) => shapesOf(ctx).slice(0, 1),
  translate: (ctx) => {
    const result = ctx.build.one('rms_norm', [rowsOf(ctx), weightOf(ctx, 1)], { eps: epsilon(ctx) });
    return [reshapeTo(ctx, result, ctx.operand(0).dims)];
  },
};

/** ONNX Runtime's own name, in whichever domain, for what opset 23 calls RMSNormalization. */
export const SimplifiedLayerNormalization: OnnxOp = {
  infer: (ctx) => shapesOf(ctx).slice(0, 2),
  translate: RMSNormalization.translate!,
};

export const normOps = {
  LayerNormalization,
  RMSNormalization,
  SimplifiedLayerNormalization,
} as const satisfies Record<string, OnnxOp>;
