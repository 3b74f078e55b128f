import { TRACE } from '../package/paths.js';
import type { Package } from '../package/read.js';
import { traceSchema } from '../package/trace.js';
import { readJson } from './files.js';

/** What one pass did to the nodes of a name. */
export interface PassHistory {
  /** `front` stands before every program. */
  readonly pipeline: string;
  readonly pass: string;
  /** Nodes as `op : types`, once for each. */
  readonly removed: readonly string[];
  readonly added: readonly string[];
}

export interface History {
  /** Every ONNX node that the IR ever had nodes of. */
  readonly names: readonly string[];
  of(name: string): PassHistory[];
}

const MAX_REPEATED = 1000;

/** @throws UserError when the package's trace is not one */
export function readHistory(pkg: Package): History {
  if (!pkg.manifest.files.some(({ path }) => path === TRACE)) return { names: [], of: () => [] };
  const { locs, nodes, pipelines } = readJson(pkg, TRACE, traceSchema);
  return {
    names: locs,
    of: (name) => {
      const loc = locs.indexOf(name);
      return pipelines.flatMap((pipeline) =>
        pipeline.passes.flatMap(({ name: pass, changes }) => {
          const own = changes.filter(([at]) => at === loc);
          const some = (sign: 1 | -1): string[] =>
            own.flatMap(([, node, delta]) =>
              Array.from(
                { length: Math.min(MAX_REPEATED, Math.max(0, delta * sign)) },
                () => nodes[node] ?? '',
              ),
            );
          const change = { pipeline: pipeline.name, pass, removed: some(-1), added: some(1) };
          return change.removed.length + change.added.length === 0 ? [] : [change];
        }),
      );
    },
  };
}
