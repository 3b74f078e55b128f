/** The form of an entry in the kernel table. */
import { invariant } from '../../../errors.js';
import type { Attrs, Node, Value } from '../../../ir/graph.js';
import type { Type } from '../../../ir/type.js';
import type { ModelBuilder, OrtAttrs, OrtValue } from './builder.js';

export interface KernelContext {
  readonly node: Node;
  readonly attrs: Attrs;
  readonly build: ModelBuilder;
  /** Lowered operand; must not be one that was absorbed. */
  operand(index: number): OrtValue;
  /** The value's node, when its users compute it themselves (a transpose inside a Gemm). */
  absorbed(value: Value): Node | undefined;
  /** Lowered form of any value of the segment. */
  lowered(value: Value): OrtValue;
  /**
   * The tensor the only result is to be added to, when that sum is all the segment wants of it. A kernel that
   * asks returns the sum, and nobody else adds it.
   */
  takeAccumulator(): OrtValue | undefined;
}

/** Either an op is an instruction of its own, or it has a lowering to ONNX ops. */
export type OrtKernel =
  | { readonly instruction: true }
  | { readonly instruction?: never; readonly lower: (k: KernelContext) => readonly OrtValue[] };

export const instruction = { instruction: true } as const;

export const resultType = (k: KernelContext, index = 0): Type => k.node.results[index]!.type;

export const operandType = (k: KernelContext, index: number): Type => k.node.operands[index]!.type;

export const operands = (k: KernelContext): OrtValue[] => k.node.operands.map((_, i) => k.operand(i));

export const typeOf = (value: OrtValue): Type => {
  invariant(value.type !== undefined, 'a shape value is used as a tensor');
  return value.type;
};

/** One ONNX op of the same operands. */
export const direct = (op: string, attrs: OrtAttrs = {}): OrtKernel => ({
  lower: (k) => [k.build.op(op, operands(k), resultType(k), attrs)],
});

/** `a op b` where the result has the type of `a`. */
export const withScalar = (k: KernelContext, op: string, a: OrtValue, scalar: number): OrtValue =>
  k.build.op(op, [a, k.build.float(scalar)], typeOf(a));
