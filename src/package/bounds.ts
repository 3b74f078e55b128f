import type { z } from 'zod';
import { UserError } from '../errors.js';
import { manifestSchema, type Manifest } from './manifest.js';
import { programSchema, type Program } from './program.js';

/**
 * Refuses a model of which a package cannot hold some name, list or number: the bounds that keep readers of packages
 * from harm bind writers too.
 * @param model the file
 * @throws UserError naming what is too large
 */
export function checkPackageBounds(
  model: string,
  manifest: Omit<Manifest, 'files'>,
  programs: ReadonlyMap<string, Program>,
): void {
  refuseTooBig(model, 'its manifest', manifestSchema.safeParse({ ...manifest, files: [] }));
  for (const [name, program] of programs)
    refuseTooBig(model, `its program ${name}`, programSchema.safeParse(program));
}

function refuseTooBig(model: string, where: string, { error }: z.ZodSafeParseResult<unknown>): void {
  if (error === undefined) return;
  const [first] = error.issues;
  // Anything else would be a fault of the compiler.
  if (first?.code !== 'too_big') throw error;
  throw new UserError(
    `${model}: a package cannot hold ${where}: ${first.path.join('.')} may be ${String(first.maximum)} at most${first.origin === 'string' ? ' characters long' : ''}`,
    'the graph has a name, a list or a size that no transformer has: export the model again',
  );
}
