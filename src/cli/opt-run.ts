import { readFileSync, statSync } from 'node:fs';
import { z } from 'zod';
import { nearest } from '../config.js';
import { UserError } from '../errors.js';
import { explainReadError } from '../files/fs-errors.js';
import { parseGraph } from '../ir/text/parse.js';
import { printGraph } from '../ir/text/print.js';
import { findings } from '../ir/verify.js';
import { violation } from '../passes/invariants.js';
import { runPasses, type PassRecord, type Step } from '../passes/manager.js';
import type { Invariant } from '../passes/pass.js';
import { PASSES } from '../passes/pipeline.js';

const MAX_IR_BYTES = 256 * 2 ** 20;

export interface OptResult {
  readonly text: string;
  readonly records: readonly PassRecord[];
  readonly notes: readonly string[];
}

/**
 * Runs passes on IR text.
 * @param file path, or `-` for standard input
 * @param passes as on the command line; absent: the file's `// RUN:` lines
 * @throws UserError naming the line of bad IR, or the pass that does not exist
 */
export async function runOnText(file: string | undefined, passes: string | undefined): Promise<OptResult> {
  if (file === undefined)
    throw new UserError(
      'no .ir file was given',
      "ithaca opt --passes 'simplify' graph.ir, or ithaca opt --list",
    );
  const source = await readText(file);
  const steps = passes === undefined ? stepsOfFile(source, file) : parsePasses(passes);
  const graph = inFile(file, () => parseGraph(source));
  const found = findings(graph)[0];
  if (found !== undefined)
    throw new UserError(
      `${file}: the graph is not well formed: ${found.message}`,
      `rule ${found.rule} of the verifier`,
    );
  const result = runPasses(graph, steps, { given: givenOf(graph, steps) });
  return { text: printGraph(result.graph), records: result.records, notes: result.notes };
}

/**
 * What a graph in a file may be taken to hold: what can be checked, is; promises that cannot be checked and
 * that a pass asks for are believed, as a reproducer holds exactly what its pass was given.
 */
function givenOf(graph: Parameters<typeof violation>[0], steps: readonly Step[]): Invariant[] {
  const asked = new Set<Invariant>(['unplaced', 'recognized', 'lossy', 'placed', 'scheduled']);
  for (const { pass } of steps) for (const fact of pass.requires) asked.add(fact);
  return [...asked].filter((fact) => violation(graph, fact) === undefined);
}

async function readText(file: string): Promise<string> {
  if (file === '-') {
    const chunks: Buffer[] = [];
    for await (const chunk of process.stdin as AsyncIterable<Buffer>) chunks.push(chunk);
    return Buffer.concat(chunks).toString('utf8');
  }
  try {
    if (statSync(file).size > MAX_IR_BYTES)
      throw new UserError(`${file} is larger than 256 MiB`, 'name an .ir file');
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw explainReadError(error, file);
  }
}

function inFile<T>(file: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof UserError)
      throw new UserError(
        `${file}: ${error.message}`,
        error.hint ?? 'the IR has one node a line: %2 = add %0, %1 : f32[S]',
        {
          cause: error,
        },
      );
    throw error;
  }
}

function stepsOfFile(source: string, file: string): Step[] {
  const runs = source.split('\n').flatMap((line) => /^\s*\/\/\s*RUN:\s*(.*)$/.exec(line)?.[1] ?? []);
  if (runs.length === 0)
    throw new UserError(
      `${file} has no '// RUN:' line and no passes were given`,
      `ithaca opt --passes 'simplify' ${file}`,
    );
  return runs.flatMap(parsePasses);
}

/** `simplify, loss {"tile": 4}`: names separated by commas or blanks, each with its options as JSON. */
export function parsePasses(text: string): Step[] {
  const steps: Step[] = [];
  let rest = text.trim();
  while (rest !== '') {
    const name = /^[\w-]+/.exec(rest)?.[0];
    if (name === undefined)
      throw new UserError(
        `passes: '${rest.slice(0, 30)}' is not the name of a pass`,
        "expected 'simplify, recognize'",
      );
    const pass = PASSES.get(name);
    if (pass === undefined) {
      const known = [...PASSES.keys()];
      const near = nearest(name, known);
      throw new UserError(
        `there is no pass '${name}'`,
        `${near === undefined ? '' : `did you mean '${near}'? `}passes: ${known.join(', ')}`,
      );
    }
    rest = rest.slice(name.length).trim();
    const [options, after] = rest.startsWith('{') ? takeObject(rest, name) : [{}, rest];
    steps.push({ pass, options });
    rest = after.replace(/^\s*,?\s*/, '');
  }
  return steps;
}

/** The shortest prefix that is a JSON object. */
function takeObject(text: string, pass: string): [unknown, string] {
  for (let end = text.indexOf('}'); end >= 0; end = text.indexOf('}', end + 1)) {
    try {
      return [JSON.parse(text.slice(0, end + 1)), text.slice(end + 1)];
    } catch {
      continue;
    }
  }
  throw new UserError(
    `options of pass ${pass} are not JSON: ${text.slice(0, 40)}`,
    `expected ${pass} {"key": value}`,
  );
}

export function describePasses(): {
  name: string;
  doc: string;
  requires: readonly string[];
  ensures: readonly string[];
  destroys: readonly string[];
  numerics: string;
  options: { name: string; text: string }[];
}[] {
  return [...PASSES.values()].map(({ name, doc, requires, ensures, destroys = [], numerics, options }) => ({
    name,
    doc,
    requires,
    ensures,
    destroys,
    numerics,
    options: optionsOf(options),
  }));
}

/** Option names, types and defaults, read off the pass's own schema. */
function optionsOf(schema: z.ZodType): { name: string; text: string }[] {
  const { properties } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as {
    properties?: Readonly<Record<string, { type?: string; default?: unknown; enum?: readonly unknown[] }>>;
  };
  return Object.entries(properties ?? {}).map(([name, property]) => {
    const kind = property.enum === undefined ? (property.type ?? 'any') : property.enum.join(' | ');
    return {
      name,
      text: property.default === undefined ? kind : `${kind}, default ${JSON.stringify(property.default)}`,
    };
  });
}
