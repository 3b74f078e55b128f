import { invariant, UserError } from '../../errors.js';
import { localElements, localSize, type RankBinding } from '../../ir/placement.js';
import { parseType } from '../../ir/type.js';
import type { Package } from '../../package/read.js';
import type { Program } from '../../package/program.js';
import type { Binding, OutputMemory } from '../executor/views.js';

/** Begins the names of outputs that are gradients. */
export const GRADIENT = 'grad/';

export const gradientName = (parameter: string): string => `${GRADIENT}${parameter}`;

/** Where a rank stands when only the world matters: in the update program. */
export const worldBinding = (rank: number, world: number): RankBinding => ({
  sp: { index: rank, degree: world },
  world: { index: rank, degree: world },
  symbols: new Map(),
});

/** Elements a rank holds of each moment (`m/…`, `v/…`) and of how many: all of them, or its share under ZeRO. */
export function momentSizes(
  update: Program,
  rank: number,
  world: number,
): ReadonlyMap<string, { readonly own: number; readonly whole: number }> {
  const binding = worldBinding(rank, world);
  const sizes = new Map<string, { own: number; whole: number }>();
  for (const { name, role, buffer } of update.inputs) {
    if (role !== 'state') continue;
    const type = parseType(update.buffers[buffer]!.type);
    const whole = type.dims.reduce((n, d) => n * localSize({ size: d.size }, binding), 1);
    sizes.set(name, { own: localElements(type, binding), whole });
  }
  return sizes;
}

/**
 * What a rank keeps between runs: parameters (whole), gradient accumulators, moments (whole, or this rank's share
 * under ZeRO stage 1) and scalars. Allocated once; programs read and write it in place.
 */
export interface RankMemory {
  readonly parameters: ReadonlyMap<string, Float32Array>;
  /** By output of the train program; two outputs of one value share an accumulator. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
  readonly moments: ReadonlyMap<string, Float32Array>;
  /** A named float32 of its own. */
  scalar(name: string): Float32Array;
  /** `add`: gradients are added to what the accumulators hold. */
  trainBinding(add: boolean): Binding;
  evalBinding(): Binding;
  updateBinding(): Binding;
}

export function allocateMemory(pkg: Package, rank: number, world: number): RankMemory {
  const { manifest } = pkg;
  const parameters = new Map(
    manifest.parameters.map(({ name, shape }) => [
      name,
      floats(
        name,
        shape.reduce((n, d) => n * d, 1),
      ),
    ]),
  );
  const gradients = manifest.programs.includes('train')
    ? gradientMemory(pkg.program('train'))
    : new Map<string, Float32Array>();
  const moments = new Map<string, Float32Array>();
  if (manifest.programs.includes('update'))
    for (const [name, { own }] of momentSizes(pkg.program('update'), rank, world))
      moments.set(name, floats(name, own));
  const scalars = new Map<string, Float32Array>();
  const scalar = (name: string): Float32Array => {
    const known = scalars.get(name) ?? new Float32Array(1);
    scalars.set(name, known);
    return known;
  };
  const parameter = (name: string): Float32Array => {
    const found = parameters.get(name);
    invariant(found !== undefined, `there is no memory for parameter ${name}`);
    return found;
  };
  const forward = (add: boolean): Binding => ({
    input: parameter,
    output: (name) => {
      const gradient = gradients.get(name);
      return gradient === undefined ? written(scalar(`run/${name}`)) : { array: gradient, add };
    },
  });
  return {
    parameters,
    gradients,
    moments,
    scalar,
    trainBinding: forward,
    evalBinding: () => forward(false),
    updateBinding: () => ({
      input: (name) =>
        gradients.get(name) ?? moments.get(name) ?? parameters.get(name) ?? scalar(`update/${name}`),
      output: (name) =>
        written(
          name.startsWith('param/')
            ? parameter(name.slice('param/'.length))
            : (moments.get(name) ?? scalar(`update/${name}`)),
        ),
    }),
  };
}

const written = (array: Float32Array): OutputMemory => ({ array, add: false });

/** Accumulators for `grad/…` outputs, whole and by buffer. */
function gradientMemory(train: Program): Map<string, Float32Array> {
  const byBuffer = new Map<number, Float32Array>();
  const found = new Map<string, Float32Array>();
  for (const { name, buffer } of train.outputs) {
    if (!name.startsWith(GRADIENT)) continue;
    invariant(buffer >= 0, `gradient ${name} has no memory`);
    const { dims } = parseType(train.buffers[buffer]!.type);
    invariant(
      dims.every((d) => d.split === undefined),
      `gradient ${name} is sharded: the ort executor keeps parameters whole`,
    );
    const size = dims.reduce((n, d) => n * localSize(d, worldBinding(0, 1)), 1);
    const memory = byBuffer.get(buffer) ?? floats(name, size);
    byBuffer.set(buffer, memory);
    found.set(name, memory);
  }
  return found;
}

function floats(name: string, elements: number): Float32Array {
  try {
    return new Float32Array(elements);
  } catch (cause) {
    throw new UserError(
      `there is no memory for the ${elements} elements of ${name}`,
      'use fewer ranks, or a smaller model',
      { cause },
    );
  }
}
