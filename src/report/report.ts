import { z } from 'zod';
import { UserError } from '../errors.js';
import { parseGraph } from '../ir/text/parse.js';
import { COST, programText } from '../package/paths.js';
import type { Package } from '../package/read.js';
import { reportData, type ReportProgram, type ReportSource } from './data.js';
import { renderPage } from './page.js';

/** The page of a model: what was recognised, where tensors are placed, what is exchanged and why, what it costs. */
export const reportPage = (source: ReportSource): string =>
  renderPage(reportData(source), source.manifest.name);

const costSchema = z.record(z.string(), z.looseObject({ flops: z.string().max(4096) }));

/**
 * The page, drawn again from what a package says; the page inside it is a stranger's.
 * @throws UserError for a program whose text does not fit its instructions
 */
export const reportOfPackage = (pkg: Package): string => reportPage(sourceOf(pkg));

export function sourceOf(pkg: Package): ReportSource {
  const text = (file: string): string => Buffer.from(pkg.bytes(file)).toString('utf8');
  const programs = new Map<string, ReportProgram>();
  for (const name of pkg.manifest.programs)
    programs.set(name, { program: pkg.program(name), graph: parseGraph(text(programText(name))) });
  const cost = costSchema.safeParse(JSON.parse(text(COST)));
  if (!cost.success)
    throw new UserError(`package ${pkg.directory}: ${COST} is not valid`, 'compile the model again');
  const flops = new Map(Object.entries(cost.data).map(([name, { flops }]) => [name, flops]));
  return { manifest: pkg.manifest, programs, flops };
}
