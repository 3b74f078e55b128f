/**
 * `npm run coverage [-- FOLDER]`: writes docs/ops.md. With the FOLDER that collect.py wrote, runs every case anew first.
 */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { format } from 'prettier';
import { openCase, type StoredCase } from './case.js';
import { renderPage } from './page.js';
import { dataFile, groupOf, PAGE, readOperators, readResults, tallyOf, type Results } from './results.js';
import { runCase, type Outcome } from './run.js';

/** Of the cases that stay in the repository. */
const MAX_CASE_BYTES = 6_000;
const MAX_CASES_BYTES = 120_000;

interface Ran {
  readonly stored: StoredCase;
  readonly group: string;
  readonly outcome: Outcome;
}

const [folder] = process.argv.slice(2);
if (folder !== undefined) await refresh(folder);
const results = readResults();
writeFileSync(PAGE, renderPage(readOperators(), results));
const tallies = Object.values(results);
const failed = tallies.flatMap((tally) => tally.failed);
const passed = tallies.reduce((sum, tally) => sum + tally.passed + tally.evaluated, 0);
console.log(`${passed} cases pass, ${failed.length} fail`);
for (const line of failed) console.log(`  ${line}`);
console.log(`wrote ${PAGE}`);
if (failed.length > 0) process.exitCode = 1;

async function refresh(from: string): Promise<void> {
  const ran = await runAll(path.join(from, 'cases.jsonl'));
  const groups = new Map<string, Ran[]>();
  for (const one of ran) groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
  const tally: Results = Object.fromEntries(
    [...groups]
      .map(([group, all]) => [group, tallyOf(all.map((one) => [one.stored.name, one.outcome]))] as const)
      .sort(([a], [b]) => a.localeCompare(b)),
  );
  copyFileSync(path.join(from, 'operators.json'), dataFile('operators.json'));
  await writeJson('operators.json', JSON.parse(readFileSync(dataFile('operators.json'), 'utf8')));
  await writeJson('results.json', tally);
  await writeJson('cases.json', smallest([...groups.values()]));
}

async function runAll(file: string): Promise<Ran[]> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-coverage-'));
  const ran: Ran[] = [];
  try {
    for (const line of readFileSync(file, 'utf8').trim().split('\n')) {
      const stored = JSON.parse(line) as StoredCase;
      const example = openCase(stored);
      ran.push({ stored, group: groupOf(example), outcome: await runCase(example, scratch) });
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return ran;
}

/** The smallest passing case of each group first, then the second smallest, … */
function smallest(groups: readonly (readonly Ran[])[]): readonly StoredCase[] {
  const sizeOf = ({ stored }: Ran): number => JSON.stringify(stored).length;
  const sorted = groups.map((all) =>
    all
      .filter((one) => one.outcome.kind === 'passed' && sizeOf(one) <= MAX_CASE_BYTES)
      .sort((a, b) => sizeOf(a) - sizeOf(b)),
  );
  const kept: StoredCase[] = [];
  let bytes = 0;
  for (let round = 0; round < 30; round++)
    for (const all of sorted) {
      const next = all[round];
      if (next === undefined || bytes + sizeOf(next) > MAX_CASES_BYTES) continue;
      bytes += sizeOf(next);
      kept.push(next.stored);
    }
  return kept.sort((a, b) => a.name.localeCompare(b.name));
}

async function writeJson(name: string, value: unknown): Promise<void> {
  writeFileSync(dataFile(name), await format(JSON.stringify(value), { parser: 'json', printWidth: 110 }));
}
