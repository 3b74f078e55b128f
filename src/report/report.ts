import { z } from 'zod';
import { parseGraph } from '../ir/text/parse.js';
import { COST, programText } from '../package/paths.js';
import type { Package } from '../package/read.js';
import { readJson, textOf } from './files.js';
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

/** @throws UserError for a file of the package that does not parse */
export function sourceOf(pkg: Package): ReportSource {
  const programs = new Map<string, ReportProgram>();
  for (const name of pkg.manifest.programs)
    programs.set(name, { program: pkg.program(name), graph: parseGraph(textOf(pkg, programText(name))) });
  const cost = readJson(pkg, COST, costSchema);
  const flops = new Map(Object.entries(cost).map(([name, { flops }]) => [name, flops]));
  return { manifest: pkg.manifest, programs, flops };
}
