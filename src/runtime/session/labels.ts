import type { Package } from '../../package/read.js';

/** Instructions of all programs of a package are numbered through, program by program in the manifest's order. */
export function instructionBases({ manifest, program }: Package): ReadonlyMap<string, number> {
  const bases = new Map<string, number>();
  let next = 0;
  for (const name of manifest.programs) {
    bases.set(name, next);
    next += program(name).instructions.length;
  }
  return bases;
}

/** `train: attention (/model/layers.0/…)`. */
export function instructionLabel(pkg: Package, instruction: number): string {
  for (const [name, base] of [...instructionBases(pkg)].reverse())
    if (instruction >= base)
      return `${name}: ${pkg.program(name).labels[instruction - base] ?? `instruction ${instruction - base}`}`;
  return `instruction ${instruction}`;
}
