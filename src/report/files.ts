import type { z } from 'zod';
import { UserError } from '../errors.js';
import type { Package } from '../package/read.js';

export const textOf = (pkg: Package, file: string): string => Buffer.from(pkg.bytes(file)).toString('utf8');

/** A JSON file of a package. @throws UserError when it is none, or not of that schema */
export function readJson<Schema extends z.ZodType>(
  pkg: Package,
  file: string,
  schema: Schema,
): z.infer<Schema> {
  const parsed = schema.safeParse(parseJson(textOf(pkg, file)));
  if (parsed.success) return parsed.data;
  throw new UserError(`package ${pkg.directory}: ${file} is not valid`, 'compile the model again');
}

/** Undefined for what is not JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
