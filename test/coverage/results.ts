/** What the cases of each operator came to; kept in results.json, written by `npm run coverage`. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { operatorsOf, type Case, type StoredCase } from './case.js';
import type { Outcome } from './run.js';

/** As the onnx and onnxruntime packages list them. */
export interface Operators {
  readonly onnx: string;
  readonly opset: number;
  readonly onnxruntime: string;
  readonly 'ai.onnx': Readonly<
    Record<string, { readonly since: readonly number[]; readonly deprecated?: true }>
  >;
  readonly 'com.microsoft': readonly string[];
}

export interface Tally {
  /** IR operations that nodes of the operator became. */
  readonly becomes: readonly string[];
  /** Cases that passed with operands at run time, and those whose nodes were evaluated at import. */
  readonly passed: number;
  readonly evaluated: number;
  readonly failed: readonly string[];
  /** How many cases are outside of what is imported, by reason. */
  readonly outside: Readonly<Record<string, number>>;
}

/** By operator; cases of several nodes under EXPANDED. */
export type Results = Readonly<Record<string, Tally>>;

/** The group of cases that spell an operator's function body out. */
export const EXPANDED = 'function bodies';

export const groupOf = (example: Case): string =>
  (example.model.graph?.node?.length ?? 0) > 1 ? EXPANDED : operatorsOf(example)[0]!;

export function tallyOf(outcomes: readonly (readonly [name: string, Outcome])[]): Tally {
  const becomes = new Set<string>();
  const outside = new Map<string, number>();
  const failed: string[] = [];
  let [passed, evaluated] = [0, 0];
  for (const [name, outcome] of outcomes)
    switch (outcome.kind) {
      case 'passed':
        for (const op of outcome.becomes) becomes.add(op);
        if (outcome.given === 'none') evaluated++;
        else passed++;
        break;
      case 'failed':
        failed.push(`${name}: ${outcome.message}`);
        break;
      case 'outside':
        outside.set(brief(outcome.reason), (outside.get(brief(outcome.reason)) ?? 0) + 1);
    }
  const byCount = [...outside].sort(([a, n], [b, m]) => m - n || a.localeCompare(b));
  return { becomes: [...becomes].sort(), passed, evaluated, failed, outside: Object.fromEntries(byCount) };
}

/** A message without the names of its own file, node and values. */
const brief = (reason: string): string =>
  reason
    .replace(/^\S*\.onnx: /, '')
    .replace(/^Cast node around:\S+: casts to (\w+).*$/, 'values of type $1')
    .replace(/^.* is not recognised as a mask.*$/s, 'is evaluated at import only')
    .replace(/^(\w+) node [^:]*?(: | of )/, (_, __: string, link: string) => (link === ': ' ? '' : 'of '))
    .replace(/^evaluating .*onnxruntime refuses the subgraph: .*$/s, 'ONNX Runtime does not evaluate it')
    .replaceAll(/'[^']*'/g, 'a value')
    .replace(/^operation .* is not supported: /, '')
    .slice(0, 160);

const ROOT = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]coverage[\\/].*$/, '');

/** A file of this folder, wherever the compiled code runs. */
export const dataFile = (name: string): string => path.join(ROOT, 'test', 'coverage', name);
export const PAGE = path.join(ROOT, 'docs', 'ops.md');

const readJson = (name: string): unknown => JSON.parse(readFileSync(dataFile(name), 'utf8'));
export const readOperators = (): Operators => readJson('operators.json') as Operators;
export const readResults = (): Results => readJson('results.json') as Results;
/** The smallest cases of each operator. */
export const readCases = (): readonly StoredCase[] => readJson('cases.json') as readonly StoredCase[];
