import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { globSync } from 'tinyglobby';
import { describe, expect, it } from 'vitest';
import { UserError } from '../src/errors.js';
import type { Graph } from '../src/ir/graph.js';
import { parseGraph } from '../src/ir/text/parse.js';
import { printGraph } from '../src/ir/text/print.js';
import { verify } from '../src/ir/verify.js';
import { distance, evaluateAlone } from './support/feed.js';
import { GOLDEN_PASSES, type GoldenPass } from './support/passes.js';

/**
 * Golden files: `// RUN: <pass> {options} | <pass> …`, a graph, `// ---`, then what is expected: remarks as `// NOTE: text`
 * and a graph, or `// ERROR: text` that the message must contain. `UPDATE_GOLDEN=1` writes what came out.
 */
const ROOT = fileURLToPath(new URL('golden/', import.meta.url));
const UPDATE = process.env['UPDATE_GOLDEN'] === '1';
const TOKENS = 5;

interface Step {
  readonly pass: GoldenPass;
  /** Options, JSON after the pass's name. */
  readonly options: unknown;
}

interface Golden {
  readonly header: string;
  readonly steps: readonly Step[];
  readonly input: string;
  readonly expected: string;
}

function readGolden(file: string): Golden {
  const text = readFileSync(file, 'utf8');
  const match = /^(\/\/ RUN: (.*)\n)([^]*?)\n\/\/ ---\n([^]*)$/.exec(text);
  if (match === null)
    throw new Error(`${file} is not a golden file: it needs a RUN line, a graph and a line '// ---'`);
  const [, header, steps, input, expected] = match as unknown as string[];
  return {
    header: header!,
    steps: steps!.split(' | ').map(readStep),
    input: input!.trim(),
    expected: expected!.trim(),
  };
}

function readStep(text: string): Step {
  const [, name, options] = /^([\w-]+)(.*)$/.exec(text.trim()) ?? [];
  const pass = GOLDEN_PASSES.get(name ?? '');
  if (pass === undefined) throw new Error(`no golden pass '${text}': add it to test/support/passes.ts`);
  return { pass, options: JSON.parse(options?.trim() || '{}') as unknown };
}

function run(golden: Golden, input: Graph): { text: string; graph?: Graph } {
  const notes: string[] = [];
  const context = { note: (note: string) => void notes.push(note), count: () => {} };
  try {
    let graph = input;
    for (const { pass, options } of golden.steps) graph = pass.run(graph, options, context);
    const text = [...notes.map((n) => `// NOTE: ${n}`), printGraph(graph)].join('\n');
    return { text, graph };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return { text: `// ERROR: ${error.message}` };
  }
}

/** Comments before the graph belong to the reader, not to the text that must come back. */
const withoutComments = (text: string): string => text.replace(/^\/\/.*\n?/gm, '').trim();

describe.each(globSync('**/*.ir', { cwd: ROOT }).sort())('%s', (name) => {
  const file = ROOT + name;
  const golden = readGolden(file);

  it('runs to the expected text', () => {
    const input = parseGraph(golden.input);
    expect(printGraph(input)).toBe(withoutComments(golden.input));
    verify(input);
    const { text, graph } = run(golden, input);
    if (UPDATE) writeFileSync(file, `${golden.header}${golden.input}\n// ---\n${text}\n`);
    else expect(text).toBe(golden.expected);
    if (graph === undefined) return;
    verify(graph);
    expect(printGraph(parseGraph(printGraph(graph)))).toBe(printGraph(graph));
  });

  const comparable = golden.steps.every(({ pass }) => pass.keepsOutputs);
  // Where an error is expected there is nothing to evaluate.
  if (comparable && !golden.expected.startsWith('// ERROR'))
    it('computes what it did', () => {
      const input = parseGraph(golden.input);
      const { graph } = run(golden, input);
      const [before, after] = [evaluateAlone(input, TOKENS), evaluateAlone(graph!, TOKENS)];
      expect([...after.keys()]).toEqual([...before.keys()]);
      for (const [output, value] of before)
        expect(distance(value, after.get(output)!), output).toBeLessThan(1e-9);
    });
});
