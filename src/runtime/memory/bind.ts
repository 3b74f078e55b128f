import { UserError } from '../../errors.js';
import { BYTES_PER_ELEMENT, localShape, type RankBinding } from '../../ir/placement.js';
import { parseType, printType, type Type } from '../../ir/type.js';
import type { Program } from '../../package/program.js';

/** Sizes of a program on one rank, for one micro-batch. */
export interface BoundBuffers {
  readonly program: Program;
  readonly rank: RankBinding;
  /** Local shape of every buffer. */
  readonly shapes: readonly (readonly number[])[];
  /** Local elements of every buffer. */
  readonly elements: Float64Array;
  /** Local bytes of every buffer; 4 an element, whatever its type. */
  readonly bytes: Float64Array;
  /** Equal keys of one program: equal bytes in every buffer, whatever the rank. */
  readonly sizeKey: string;
}

/** A program's distinct types, parsed once: thousands of buffers share a few dozen. */
interface ParsedBuffers {
  readonly types: readonly Type[];
  /** For every buffer, its type. */
  readonly typeOf: Int32Array;
}

const parsed = new WeakMap<Program, ParsedBuffers>();

export function parsedBuffers(program: Program): ParsedBuffers {
  const known = parsed.get(program);
  if (known !== undefined) return known;
  const index = new Map<string, number>();
  const types: Type[] = [];
  const typeOf = Int32Array.from(program.buffers, ({ type: text }) => {
    const at = index.get(text);
    if (at !== undefined) return at;
    index.set(text, types.length);
    return types.push(parseType(text)) - 1;
  });
  const result = { types, typeOf };
  parsed.set(program, result);
  return result;
}

/**
 * Evaluates the local shape and bytes of every buffer.
 * @throws UserError when a buffer cannot have the size it gets: negative, or above 2^50 bytes
 */
export function bindProgram(program: Program, rank: RankBinding): BoundBuffers {
  const { types, typeOf } = parsedBuffers(program);
  const shapes = types.map((type) => localShape(type, rank));
  const elements = shapes.map((shape, i) => {
    const count = shape.reduce((product, size) => product * size, 1);
    if (shape.some((size) => size < 0) || count > 2 ** 48)
      throw new UserError(
        `program ${program.name}: a value of type ${printType(types[i]!)} has local shape [${shape.join(', ')}]`,
        'use fewer tokens a micro-batch',
      );
    return count;
  });
  return {
    program,
    rank,
    shapes: Array.from(typeOf, (type) => shapes[type]!),
    elements: Float64Array.from(typeOf, (type) => elements[type]!),
    bytes: Float64Array.from(typeOf, (type) => elements[type]! * BYTES_PER_ELEMENT),
    sizeKey: elements.join(),
  };
}
