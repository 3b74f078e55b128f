import { topologicalOrder, type Graph, type Node } from '../ir/graph.js';
import { printType } from '../ir/type.js';
import type { Trace } from '../package/trace.js';

/** Collects what passes do to nodes, for `trace.json`. */
export interface TraceRecorder {
  /** @param before undefined for what makes the first graph */
  record(pipeline: string, pass: string, before: Graph | undefined, after: Graph): void;
  trace(): Trace;
}

type Change = [loc: number, node: number, delta: number];

export function traceRecorder(): TraceRecorder {
  const locs = new Map<string, number>();
  const nodes = new Map<string, number>();
  const pipelines = new Map<string, { name: string; changes: Change[] }[]>();
  return {
    record: (pipeline, name, before, after) => {
      const passes = pipelines.get(pipeline) ?? [];
      pipelines.set(pipeline, passes);
      passes.push({ name, changes: changesOf(before, after, locs, nodes) });
    },
    trace: () => ({
      version: 1,
      locs: [...locs.keys()],
      nodes: [...nodes.keys()],
      pipelines: [...pipelines].map(([name, passes]) => ({ name, passes })),
    }),
  };
}

/** Nodes that were built again and are the same as before cancel out. */
function changesOf(
  before: Graph | undefined,
  after: Graph,
  locs: Map<string, number>,
  nodes: Map<string, number>,
): Change[] {
  const [old, now] = [before === undefined ? new Set<Node>() : nodesOf(before), nodesOf(after)];
  const deltas = new Map<number, Map<number, number>>();
  const count = (node: Node, delta: number): void => {
    const loc = intern(locs, node.loc!);
    const kind = intern(nodes, cut(`${node.op} : ${node.results.map((v) => printType(v.type)).join(', ')}`));
    const own = deltas.get(loc) ?? new Map<number, number>();
    deltas.set(loc, own.set(kind, (own.get(kind) ?? 0) + delta));
  };
  for (const node of old) if (!now.has(node)) count(node, -1);
  for (const node of now) if (!old.has(node)) count(node, 1);
  return [...deltas].flatMap(([loc, own]) =>
    [...own].flatMap(([kind, delta]): Change[] => (delta === 0 ? [] : [[loc, kind, delta]])),
  );
}

function intern(table: Map<string, number>, key: string): number {
  const known = table.get(key);
  if (known !== undefined) return known;
  table.set(key, table.size);
  return table.size - 1;
}

/** A type of thousands of dims says enough by its first. */
const cut = (text: string): string => (text.length <= MAX_NAME ? text : `${text.slice(0, MAX_NAME - 1)}…`);

/** Longer names are nobody's: they are not traced. */
const MAX_NAME = 4096;

/** Named nodes, those in bodies too. */
function nodesOf(graph: Graph, found = new Set<Node>()): Set<Node> {
  for (const node of topologicalOrder(graph)) {
    if (node.loc !== undefined && node.loc.length <= MAX_NAME && node.op !== 'input') found.add(node);
    if (node.region !== undefined) nodesOf(node.region, found);
  }
  return found;
}
