/** Builds one ONNX model node by node. Values carry their placed types, from which memory is counted. */
import { invariant } from '../../../errors.js';
import { constantOf } from '../../../ir/size.js';
import { dim, printDim, tensorType, type Dim, type DType, type Type } from '../../../ir/type.js';
import { temporariesOf, type Step } from './liveness.js';
import type { Temporaries } from './lowered.js';
import {
  encodeModel,
  type ElementType,
  type ProtoAttr,
  type ProtoInitializer,
  type ProtoNode,
  type ProtoValue,
} from './proto.js';

/** A value inside a model. Without a type: int64 shape arithmetic, a few bytes that are not counted. */
export interface OrtValue {
  readonly id: number;
  readonly type: Type | undefined;
}

export type OrtAttrs = Readonly<Record<string, ProtoAttr>>;

/** A size in a shape: one dim, or the product of several. */
export type ShapeEntry = Dim | readonly Dim[];

export interface BuiltModel {
  readonly bytes: Uint8Array;
  readonly sizes: readonly string[];
  readonly temporaries: Temporaries;
}

export interface ModelBuilder {
  /** A model input of local dims; `of` is its type. */
  input(name: string, of: Type): OrtValue;
  /** An int64 input of one dim. */
  int64Input(name: string, length: number | string): OrtValue;
  /** One node with one result. `scratch`: memory it allocates inside while it runs. */
  op(
    op: string,
    inputs: readonly (OrtValue | undefined)[],
    type: Type,
    attrs?: OrtAttrs,
    scratch?: readonly Type[],
  ): OrtValue;
  /**
   * One node with several results. An undefined type: an optional result that is not wanted; `int64`: a result
   * that no IR type describes and memory does not count.
   */
  ops(
    op: string,
    inputs: readonly (OrtValue | undefined)[],
    types: readonly (Type | 'int64' | undefined)[],
    attrs?: OrtAttrs,
  ): readonly OrtValue[];
  /** A node over int64 shape values. */
  shapeOp(op: string, inputs: readonly OrtValue[], attrs?: OrtAttrs): OrtValue;
  constant(dtype: DType, shape: readonly number[], data: readonly number[]): OrtValue;
  /** A float32 scalar. */
  float(value: number): OrtValue;
  /** An int64 vector, the form axes and bounds take. */
  int64s(values: readonly number[]): OrtValue;
  /** An int64 vector of local sizes; those that are not constant come from the input `sizes`. */
  shape(entries: readonly ShapeEntry[]): OrtValue;
  /** Encodes the model. Outputs are named in order `names`. */
  finish(outputs: readonly { readonly name: string; readonly value: OrtValue }[]): BuiltModel;
}

interface Emitted {
  readonly op: string;
  readonly inputs: readonly (number | undefined)[];
  readonly outputs: readonly (number | undefined)[];
  readonly attrs: OrtAttrs;
  readonly scratch: readonly Type[];
}

const SIZES = 'sizes';

/** Local size, when it is the same on every rank. */
const constantLocal = (d: Dim): number | undefined =>
  d.split === undefined ? constantOf(d.size) : undefined;

const protoDims = (type: Type): (number | string)[] => type.dims.map((d) => constantLocal(d) ?? printDim(d));

export function modelBuilder(): ModelBuilder {
  const types: (Type | undefined)[] = [];
  const nodes: Emitted[] = [];
  const names = new Map<number, string>();
  const inputs: ProtoValue[] = [];
  const initializers: ProtoInitializer[] = [];
  const cache = new Map<string, OrtValue>();
  const sizes: string[] = [];
  let sizesInput: OrtValue | undefined;

  const make = (type: Type | undefined): OrtValue => ({ id: types.push(type) - 1, type });
  const cached = (key: string, create: () => OrtValue): OrtValue => {
    const value = cache.get(key) ?? create();
    cache.set(key, value);
    return value;
  };
  const literal = (
    element: ElementType,
    type: Type | undefined,
    dims: readonly number[],
    data: readonly number[],
  ): OrtValue => {
    const texts = data.map((n) => (Object.is(n, -0) ? '-0' : String(n)));
    return cached(`${element}[${dims.join()}] ${texts.join()}`, () => {
      const value = make(type);
      const name = `c${initializers.length}`;
      names.set(value.id, name);
      initializers.push({ name, type: element, dims, data });
      return value;
    });
  };
  const emit = (
    op: string,
    operands: readonly (OrtValue | undefined)[],
    results: readonly (OrtValue | undefined)[],
    attrs: OrtAttrs,
    scratch: readonly Type[] = [],
  ): void => {
    nodes.push({
      op,
      inputs: operands.map((v) => v?.id),
      outputs: results.map((v) => v?.id),
      attrs,
      scratch,
    });
  };
  const named = (name: string, value: OrtValue, proto: ProtoValue): OrtValue => {
    names.set(value.id, name);
    inputs.push(proto);
    return value;
  };

  const builder: ModelBuilder = {
    input: (name, of) => named(name, make(of), { name, type: of.dtype, dims: protoDims(of) }),
    int64Input: (name, length) => named(name, make(undefined), { name, type: 'i64', dims: [length] }),
    op: (op, operands, type, attrs = {}, scratch = []) => {
      const result = make(type);
      emit(op, operands, [result], attrs, scratch);
      return result;
    },
    ops: (op, operands, results, attrs = {}) => {
      const made = results.map((type) => make(type === 'int64' ? undefined : type));
      emit(
        op,
        operands,
        made.map((v, i) => (results[i] === undefined ? undefined : v)),
        attrs,
      );
      return made;
    },
    shapeOp: (op, operands, attrs = {}) => {
      const result = make(undefined);
      emit(op, operands, [result], attrs);
      return result;
    },
    constant: (dtype, shape, data) => literal(dtype, tensorType(dtype, [...shape]), shape, data),
    float: (value) => literal('f32', tensorType('f32', []), [], [value]),
    int64s: (values) => literal('i64', undefined, [values.length], values),
    shape: (entries) => {
      const terms = entries.map((entry): readonly Dim[] => ('size' in entry ? [entry] : entry));
      const constants = terms.map((dims) => dims.reduce((n, d) => n * (constantLocal(d) ?? NaN), 1));
      if (constants.every((n) => !Number.isNaN(n))) return builder.int64s(constants);
      const key = `shape ${terms.map((dims) => dims.map(printDim).join('·')).join()}`;
      return cached(key, () => {
        const parts = joinRuns(terms, constants).map((run) =>
          typeof run[0] === 'number' ? builder.int64s(run as number[]) : sizesOf(run as (readonly Dim[])[]),
        );
        return parts.length === 1 ? parts[0]! : builder.shapeOp('Concat', parts, { axis: 0 });
      });
    },
    finish: (outputs) => finish(outputs),
  };

  /** An int64 vector of products of dims. */
  const sizesOf = (run: readonly (readonly Dim[])[]): OrtValue => {
    if (run.every((dims) => dims.length === 1)) return sizeVector(run.map((dims) => dims[0]!));
    const parts = run.map((dims) =>
      dims.map((d) => builder.shape([d])).reduce((a, b) => builder.shapeOp('Mul', [a, b])),
    );
    return parts.length === 1 ? parts[0]! : builder.shapeOp('Concat', parts, { axis: 0 });
  };
  const sizeVector = (dims: readonly Dim[]): OrtValue => {
    sizesInput ??= make(undefined);
    names.set(sizesInput.id, SIZES);
    const indices = dims.map((d) => {
      const text = printDim(d);
      const at = sizes.indexOf(text);
      return at < 0 ? sizes.push(text) - 1 : at;
    });
    return builder.shapeOp('Gather', [sizesInput, builder.int64s(indices)], { axis: 0 });
  };

  const finish = (outputs: readonly { readonly name: string; readonly value: OrtValue }[]): BuiltModel => {
    const protoOutputs = outputs.map(({ name, value }): ProtoValue => {
      invariant(value.type !== undefined, `output ${name} has no type`);
      let { id } = value;
      if (names.has(id)) {
        const copy = make(value.type);
        emit('Identity', [value], [copy], {});
        id = copy.id;
      }
      names.set(id, name);
      return { name, type: value.type.dtype, dims: protoDims(value.type) };
    });
    if (sizesInput !== undefined) inputs.push({ name: SIZES, type: 'i64', dims: [sizes.length] });
    const outside = new Set(names.keys());
    let next = 0;
    const nameOf = (id: number | undefined): string => {
      if (id === undefined) return '';
      const known = names.get(id);
      if (known !== undefined) return known;
      const fresh = `v${next++}`;
      names.set(id, fresh);
      return fresh;
    };
    const protoNodes = nodes.map((node): ProtoNode => ({
      op: node.op,
      inputs: node.inputs.map(nameOf),
      outputs: node.outputs.map(nameOf),
      attrs: node.attrs,
    }));
    const inner = nodes.flatMap((node) =>
      node.outputs.flatMap((id): ProtoValue[] => {
        const type = id === undefined || outside.has(id) ? undefined : types[id];
        return type === undefined ? [] : [{ name: nameOf(id), type: type.dtype, dims: protoDims(type) }];
      }),
    );
    const defined = (ids: readonly (number | undefined)[]): number[] => ids.filter((id) => id !== undefined);
    const steps = nodes.map((node): Step => ({
      op: node.op,
      inputs: defined(node.inputs),
      outputs: defined(node.outputs),
      scratch: node.scratch,
    }));
    return {
      bytes: encodeModel({ nodes: protoNodes, inputs, outputs: protoOutputs, inner, initializers }),
      sizes,
      temporaries: temporariesOf(steps, types, outside),
    };
  };
  return builder;
}

/** Splits a shape into runs of constants and runs of dims read from `sizes`. */
function joinRuns(
  terms: readonly (readonly Dim[])[],
  constants: readonly number[],
): (number[] | (readonly Dim[])[])[] {
  const runs: (number[] | (readonly Dim[])[])[] = [];
  terms.forEach((dims, i) => {
    const entry = Number.isNaN(constants[i]!) ? dims : constants[i]!;
    const last = runs.at(-1);
    if (last !== undefined && typeof last[0] === typeof entry) (last as unknown[]).push(entry);
    else runs.push([entry] as number[] | (readonly Dim[])[]);
  });
  return runs;
}

/** The type with some dims set to 1, as reductions that keep their dims leave it. */
export const keptType = (type: Type, reduced: ReadonlySet<number>): Type =>
  tensorType(
    'f32',
    type.dims.map((d, i) => (reduced.has(i) ? dim(1) : d)),
  );
