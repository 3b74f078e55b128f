import { writeFileSync } from 'node:fs';
import { UserError } from '../errors.js';
import type { Graph } from '../ir/graph.js';
import { printGraph } from '../ir/text/print.js';
import { verify } from '../ir/verify.js';
import { violation } from './invariants.js';
import type { Invariant, Pass } from './pass.js';

/** One step of a pipeline: a pass and its options, checked against the pass's schema. */
export interface Step {
  readonly pass: Pass;
  readonly options: unknown;
}

export interface PassRecord {
  readonly name: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly ms: number;
}

export interface PipelineResult {
  readonly graph: Graph;
  readonly holds: ReadonlySet<Invariant>;
  readonly records: readonly PassRecord[];
  readonly notes: readonly string[];
  readonly counts: ReadonlyMap<string, number>;
}

export interface PipelineOptions {
  /** Invariants of the graph at the start. */
  readonly given: readonly Invariant[];
  /** Called with the text before and after each pass. */
  readonly dump?: (pass: string, before: string, after: string) => void;
  /** Called with the graph before and after each pass. */
  readonly observe?: (pass: string, before: Graph, after: Graph) => void;
  /** Where the reproducer goes when a pass fails: a golden test with its RUN line. */
  readonly reproducer?: string;
}

/** Runs passes in order, holding each to what it requires and ensures. */
export function runPasses(start: Graph, steps: readonly Step[], options: PipelineOptions): PipelineResult {
  const holds = new Set<Invariant>(options.given);
  const records: PassRecord[] = [];
  const notes: string[] = [];
  const counts = new Map<string, number>();
  let graph = start;
  for (const { pass, options: given } of steps) {
    const missing = pass.requires.find((r) => !holds.has(r));
    if (missing !== undefined)
      throw new UserError(
        `pass ${pass.name} needs a graph that is ${missing}`,
        `it holds: ${[...holds].join(', ') || 'nothing'}; see \`ithaca opt --help\` for the order`,
      );
    const refused = pass.refuses?.find((r) => holds.has(r));
    if (refused !== undefined)
      throw new UserError(`pass ${pass.name} must not run on a graph that is ${refused}`, 'put it earlier');
    const parsed = parseOptions(pass, given);
    const started = performance.now();
    const before = graph;
    try {
      graph = pass.run(graph, parsed, {
        note: (message) => void notes.push(message),
        count: (kind) => void counts.set(kind, (counts.get(kind) ?? 0) + 1),
      });
      verify(graph);
      for (const lost of pass.destroys ?? []) holds.delete(lost);
      for (const fact of pass.ensures) holds.add(fact);
      for (const fact of holds) {
        const why = violation(graph, fact);
        if (why !== undefined) throw new Error(`after pass ${pass.name} the graph is not ${fact}: ${why}`);
      }
    } catch (error) {
      if (options.reproducer !== undefined && !(error instanceof UserError)) {
        writeFileSync(
          options.reproducer,
          `// RUN: ${pass.name} ${JSON.stringify(parsed)}\n${printGraph(before)}\n`,
        );
        throw new Error(`pass ${pass.name} failed; ${options.reproducer} reproduces it`, { cause: error });
      }
      throw error;
    }
    records.push({
      name: pass.name,
      options: parsed as Record<string, unknown>,
      ms: performance.now() - started,
    });
    options.observe?.(pass.name, before, graph);
    if (options.dump !== undefined) options.dump(pass.name, printGraph(before), printGraph(graph));
  }
  return { graph, holds, records, notes, counts };
}

function parseOptions(pass: Pass, given: unknown): unknown {
  const result = pass.options.safeParse(given ?? {});
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new UserError(
    `options of pass ${pass.name}: ${issue.path.join('.') || 'options'}: ${issue.message}`,
    `see \`ithaca opt --list\` for the options of ${pass.name}`,
  );
}
