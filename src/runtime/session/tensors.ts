import { rangesOf } from '../../files/pieces.js';
import type { Package } from '../../package/read.js';
import { elementsOf } from '../../package/weights.js';
import { GRADIENT, gradientName, momentSizes } from './memory.js';

/** Elements `start … end` of a tensor, held by each of some ranks, whose memory begins with element `offset`. */
export interface Place {
  readonly ranks: readonly number[];
  readonly offset: number;
  readonly start: number;
  readonly end: number;
}

/** Which rank holds what of parameters, moments (`m/…`, `v/…`) and gradients (`grad/…`). */
export interface TensorPlaces {
  /** Names of moments. */
  moments(): readonly string[];
  /** Parameters that have a gradient. */
  trained(): readonly string[];
  elements(name: string): number;
  /** A tensor's pieces, in order. */
  parts(name: string, pieceBytes: number): Iterable<Place>;
}

export function tensorPlaces(pkg: Package, world: number): TensorPlaces {
  const ranks = Array.from({ length: world }, (_, rank) => rank);
  let known: readonly ReturnType<typeof momentSizes>[] | undefined;
  const updates = pkg.manifest.programs.includes('update');
  const shares = (): NonNullable<typeof known> =>
    (known ??= ranks.map((rank) => (updates ? momentSizes(pkg.program('update'), rank, world) : new Map())));

  /** The ranks that hold a tensor: some of them the whole, or each its share. */
  const placesOf = (name: string): readonly Place[] => {
    const at = (holders: readonly number[], end: number): readonly Place[] => [
      { ranks: holders, offset: 0, start: 0, end },
    ];
    if (name.startsWith(GRADIENT)) return at([0], elementsOf(pkg.parameter(name.slice(GRADIENT.length))));
    const moment = shares()[0]!.get(name);
    if (moment === undefined) return at(ranks, elementsOf(pkg.parameter(name)));
    if (moment.own === moment.whole) return at(ranks, moment.whole);
    let end = 0;
    return shares().map((share, rank) => {
      const offset = end;
      end += share.get(name)!.own;
      return { ranks: [rank], offset, start: offset, end };
    });
  };

  return {
    moments: () => [...shares()[0]!.keys()],
    trained: () => {
      const outputs = new Set(pkg.program('train').outputs.map(({ name }) => name));
      return pkg.manifest.parameters
        .map(({ name }) => name)
        .filter((name) => outputs.has(gradientName(name)));
    },
    elements: (name) => placesOf(name).at(-1)!.end,
    parts: function* (name, pieceBytes) {
      for (const place of placesOf(name))
        for (const { start, end } of rangesOf(place.end - place.offset, pieceBytes / 4))
          yield { ...place, start: place.offset + start, end: place.offset + end };
    },
  };
}
