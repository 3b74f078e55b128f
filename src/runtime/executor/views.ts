import { invariant } from '../../errors.js';
import type { Type } from '../../ir/type.js';
import { parsedBuffers, type BoundBuffers } from '../memory/bind.js';
import type { Layout } from '../memory/arena.js';
import { elementsAt, makeTensor, type Elements, type OrtTensor } from './onnx.js';

/** Memory that the caller gives a program for its inputs and outputs. */
export interface Binding {
  /** By input name. */
  input(name: string): Elements;
  /** By output name; two names of one value may name different memory. */
  output(name: string): OutputMemory;
}

export interface OutputMemory {
  readonly array: Elements;
  /** The value is added to what is there (f32 only), instead of replacing it. */
  readonly add: boolean;
}

/** Buffers of one bound program as tensors: each is made once. */
export interface Views {
  readonly bound: BoundBuffers;
  typeOf(buffer: number): Type;
  shapeOf(buffer: number): readonly number[];
  /** The buffer's memory. Outputs that are added to: memory of this run's value alone. */
  array(buffer: number): Elements;
  floats(buffer: number): Float32Array;
  tensor(buffer: number): OrtTensor;
  /** Rows of dim 0, contiguous; `shape` is that of the part. */
  part(buffer: number, firstElement: number, shape: readonly number[]): OrtTensor;
}

/** @param memory where inputs and outputs are; asked once a buffer */
export function makeViews(
  bound: BoundBuffers,
  layout: Layout,
  arena: ArrayBuffer,
  memory: (buffer: number) => Elements,
): Views {
  const { types, typeOf } = parsedBuffers(bound.program);
  const arrays = new Map<number, Elements>();
  const tensors = new Map<number, OrtTensor>();
  const type = (buffer: number): Type => types[typeOf[buffer]!]!;
  const make = (buffer: number): Elements => {
    const info = bound.program.buffers[buffer];
    invariant(info !== undefined, `program ${bound.program.name} has no buffer ${buffer}`);
    const length = bound.elements[buffer]!;
    if (info.kind === 'arena') return elementsAt(type(buffer).dtype, arena, layout.offsets[buffer]!, length);
    const given = memory(buffer);
    invariant(
      given.length === length && isOf(type(buffer), given),
      `buffer ${buffer} of program ${bound.program.name} is ${info.type}, ${length} elements on this rank; ` +
        `it was given ${given.length} of ${given.constructor.name}`,
    );
    return given;
  };
  const array = (buffer: number): Elements => {
    const known = arrays.get(buffer) ?? make(buffer);
    arrays.set(buffer, known);
    return known;
  };
  return {
    bound,
    typeOf: type,
    shapeOf: (buffer) => bound.shapes[buffer]!,
    array,
    floats: (buffer) => {
      const found = array(buffer);
      invariant(found instanceof Float32Array, `buffer ${buffer} is not f32`);
      return found;
    },
    tensor: (buffer) => {
      const known =
        tensors.get(buffer) ?? makeTensor(type(buffer).dtype, array(buffer), bound.shapes[buffer]!);
      tensors.set(buffer, known);
      return known;
    },
    part: (buffer, first, shape) => {
      const length = shape.reduce((product, n) => product * n, 1);
      return makeTensor(type(buffer).dtype, array(buffer).subarray(first, first + length), shape);
    },
  };
}

const isOf = ({ dtype }: Type, array: Elements): boolean =>
  dtype === 'f32'
    ? array instanceof Float32Array
    : dtype === 'i32'
      ? array instanceof Int32Array
      : array instanceof Uint8Array;

/** Elements of one row of dim 0. */
export const rowElements = (shape: readonly number[]): number =>
  shape.slice(1).reduce((product, n) => product * n, 1);
