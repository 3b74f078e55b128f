import type { AttrKinds } from './attrs.js';
import type { Attrs, Graph, Value } from './graph.js';
import type { RankBinding } from './placement.js';
import type { Size } from './size.js';
import type { Type } from './type.js';

/** A local tensor of the reference executor: row-major, every element type as float64. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** Types do not fit: shapes, element types or placements. Passes turn it into an error that names the ONNX node. */
export class TypeMismatch extends Error {
  override readonly name = 'TypeMismatch';
}

export interface InferContext<A> {
  readonly types: readonly Type[];
  readonly attrs: A;
  readonly region: Graph | undefined;
}

export interface EvalContext<A> extends InferContext<A> {
  readonly inputs: readonly Tensor[];
  /** Local shapes of the results on this rank. */
  readonly shapes: readonly (readonly number[])[];
  readonly rank: RankBinding;
  /** Evaluates a region on this rank (tiled bodies hold no collectives). */
  readonly run: (graph: Graph, inputs: readonly Tensor[], rank: RankBinding) => readonly Tensor[];
}

/** Evaluation of a collective: every member's operands at once, in the order of the axis. */
export interface MeshEvalContext<A> extends InferContext<A> {
  /** `[member][operand]`. */
  readonly inputs: readonly (readonly Tensor[])[];
  readonly ranks: readonly RankBinding[];
  /** `[member][result]`. */
  readonly shapes: readonly (readonly (readonly number[])[])[];
}

/** Builds nodes; their types are inferred. */
export interface Builder {
  (op: string, operands: readonly Value[], attrs?: Attrs, region?: Graph): readonly Value[];
  /** For ops with one result. */
  one(op: string, operands: readonly Value[], attrs?: Attrs, region?: Graph): Value;
}

export interface VjpContext<A> {
  readonly operands: readonly Value[];
  readonly results: readonly Value[];
  readonly attrs: A;
  readonly region: Graph | undefined;
  /** Cotangents of the results; undefined where none flows. */
  readonly cotangents: readonly (Value | undefined)[];
  /** Whether the operand's cotangent is asked for. */
  readonly wanted: readonly boolean[];
  readonly build: Builder;
  /** A value of zeros for a result's missing cotangent. */
  readonly zeros: (of: Value) => Value;
  /** Differentiates a region's outputs with respect to its inputs (used by `tiled`). */
  readonly differentiate: (region: Graph, wanted: readonly boolean[]) => Graph;
}

/** A random operand of a sample: its type, and the range its values are drawn from. */
export interface SampleOperand {
  readonly type: string;
  readonly range?: readonly [number, number];
  readonly integers?: boolean;
}

export interface Sample {
  readonly operands: readonly SampleOperand[];
  readonly attrs?: Attrs;
}

/** Everything that is true of an op on every machine. */
export interface OpDef<A extends Attrs = Attrs> {
  readonly name: string;
  readonly doc: string;
  /** Names of the operands; a last one that starts with `...` stands for any number, one that ends in `?` may be absent. */
  readonly operands: readonly string[];
  /** Attributes it reads; checked before `infer` sees them. */
  readonly attrs?: AttrKinds;
  /** Result types from operand types: shape, element type and placement. Throws `TypeMismatch`. */
  infer(ctx: InferContext<A>): readonly Type[];
  /** Placements an op insists on (attention: whole sequence, split heads). Operand types must equal these. */
  demands?(ctx: InferContext<A>): readonly Type[];
  /** Cotangents of the operands, in their order. Absent: not differentiable (integers, optimizer, VJPs). */
  vjp?(ctx: VjpContext<A>): readonly (Value | undefined)[];
  /** Reference evaluation on one rank. */
  eval?(ctx: EvalContext<A>): readonly Tensor[];
  /** Reference evaluation of a collective on all members of its axis. */
  evalMesh?(ctx: MeshEvalContext<A>): readonly (readonly Tensor[])[];
  /** Floating-point operations over the global shapes. Absent: negligible (data movement). */
  flops?(ctx: InferContext<A>): Size;
  /** Operand types and attributes from which the op's tests are generated. */
  readonly samples: readonly Sample[];
}

export const isCollective = (def: OpDef): boolean => def.evalMesh !== undefined;
