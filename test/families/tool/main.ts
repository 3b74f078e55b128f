/**
 * Exports many families, compiles and trains each export, and writes `test/families/results.json` and
 * `docs/families.md`:
 *
 *     python3 -m venv .venv && .venv/bin/pip install -r test/families/tool/requirements.txt
 *     python3 -m venv .venv-optimum && .venv-optimum/bin/pip install -r test/families/tool/requirements-optimum.txt
 *     npm run build && node dist/test/families/tool/main.js --python .venv/bin/python --optimum-python .venv-optimum/bin/python
 *
 * Exports and outcomes are kept in `--work` (build/families): a run that was stopped goes on.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { allCases, caseName, type Case } from './cases.js';
import { checkFamily, type Outcome } from './check.js';
import { familiesPage } from './page.js';
import { resultsSchema, type Row } from './results.js';

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]families[\\/].*$/, '');

interface Options {
  readonly python: string;
  readonly optimumPython?: string;
  readonly work: string;
  readonly only?: readonly string[];
  readonly export: boolean;
  readonly check: boolean;
}

/** Exports what is not yet there, one after the other. */
async function exportCases(python: string, work: string, cases: readonly Case[]): Promise<void> {
  const missing = cases.filter((item) => {
    const folder = path.join(work, caseName(item));
    return !existsSync(path.join(folder, 'oracle.json')) && !existsSync(path.join(folder, 'error.json'));
  });
  if (missing.length === 0) return;
  const child = spawn(python, [path.join(root, 'test/families/tool/export.py')], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' },
  });
  for (const item of missing)
    child.stdin.write(`${JSON.stringify({ ...item, folder: path.resolve(work, caseName(item)) })}\n`);
  child.stdin.end();
  for await (const text of createInterface(child.stdout)) {
    const { folder, error } = JSON.parse(text) as { folder: string; error?: string };
    mkdirSync(folder, { recursive: true });
    if (error !== undefined) writeFileSync(path.join(folder, 'error.json'), JSON.stringify(firstLine(error)));
    console.log(`${path.basename(folder)}: ${error === undefined ? 'exported' : firstLine(error)}`);
  }
}

/** Colours and what follows the first sentence are for a terminal; paths are of one machine. */
const firstLine = (text: string): string =>
  text
    // eslint-disable-next-line no-control-regex -- colours are control characters
    .replaceAll(/\u001b\[\d+m/g, '')
    .split(/\n|Next steps/)[0]!
    .replaceAll(/\/\S*\/site-packages\//g, '')
    .slice(0, 300)
    .trim();

/** @param check false: cases whose outcome is not known yet are left out */
async function rowOf(work: string, item: Case, check: boolean): Promise<Row | undefined> {
  const folder = path.join(work, caseName(item));
  if (existsSync(path.join(folder, 'error.json'))) {
    const message = JSON.parse(readFileSync(path.join(folder, 'error.json'), 'utf8')) as string;
    return { ...item, outcome: { result: 'not exported', message } };
  }
  if (!existsSync(path.join(folder, check ? 'oracle.json' : 'outcome.json'))) return undefined;
  return { ...item, ...madeOf(folder), outcome: await outcomeOf(folder) };
}

/** The opset and the attention that a file has. */
function madeOf(folder: string): Pick<Row, 'opset'> & Partial<Pick<Row, 'attention'>> {
  const { opset, attention } = JSON.parse(readFileSync(path.join(folder, 'oracle.json'), 'utf8')) as Row;
  return { opset, ...(attention === undefined ? {} : { attention }) };
}

/** Of this build of ithaca; kept beside the export until it is deleted. */
async function outcomeOf(folder: string, keep = folder): Promise<Row['outcome']> {
  const kept = path.join(keep, 'outcome.json');
  mkdirSync(keep, { recursive: true });
  if (existsSync(kept)) return JSON.parse(readFileSync(kept, 'utf8')) as Row['outcome'];
  const outcome = stored(await checkFamily(folder), folder);
  writeFileSync(kept, JSON.stringify(outcome));
  console.log(`${path.basename(folder)}: ${outcome.result}`);
  return outcome;
}

function stored(outcome: Outcome, folder: string): Row['outcome'] {
  if (outcome.result === 'trains') {
    const { result, lossError, gradientError, untrained, attention } = outcome;
    const some = untrained === 0 ? {} : { untrained };
    return { result, lossError, gradientError, ...some, recognized: [...attention] };
  }
  const message = outcome.message.replaceAll(`${folder}${path.sep}`, '');
  if (outcome.result === 'folded') return { result: 'not exported', message };
  if (outcome.result === 'wrong') return { result: 'wrong', message };
  return { result: 'refused', message, ...(outcome.hint === undefined ? {} : { hint: outcome.hint }) };
}

/** Exports that are kept with the project. */
async function fixtureRows(work: string): Promise<readonly Row[]> {
  const rows: Row[] = [];
  const families = path.join(root, 'test/families');
  for (const fixture of readdirSync(families)) {
    const folder = path.join(families, fixture);
    if (!existsSync(path.join(folder, 'oracle.json'))) continue;
    const {
      family = fixture,
      exporter = 'dynamo',
      opset = 20,
      attention = 'eager',
      inputs = 'ids+mask',
    } = JSON.parse(readFileSync(path.join(folder, 'oracle.json'), 'utf8')) as Partial<Row>;
    const outcome = await outcomeOf(folder, path.join(work, `fixture--${fixture}`));
    rows.push({ family, exporter, opset, attention, inputs, fixture, outcome });
  }
  return rows;
}

const program = new Command()
  .requiredOption('--python <file>', 'an interpreter with the packages of requirements.txt')
  .option(
    '--optimum-python <file>',
    'one with those of requirements-optimum.txt; without it, no new exports by Optimum',
  )
  .option('--work <folder>', 'where exports and outcomes are kept', path.join(root, 'build/families'))
  .option('--only <families...>', 'these families only; nothing is written')
  .option('--no-export', 'take the exports that are there')
  .option('--no-check', 'take the outcomes that are there')
  .action(async ({ python, optimumPython, work, only, export: exporting, check }: Options) => {
    const cases = allCases().filter(({ family }) => only?.includes(family) ?? true);
    const ofOptimum = (item: Case): boolean => item.exporter === 'optimum';
    if (exporting) {
      await exportCases(
        python,
        work,
        cases.filter((item) => !ofOptimum(item)),
      );
      if (optimumPython !== undefined) await exportCases(optimumPython, work, cases.filter(ofOptimum));
    }
    const rows: Row[] = [];
    for (const item of cases) {
      const row = await rowOf(work, item, check);
      if (row !== undefined) rows.push(row);
    }
    if (only !== undefined) return;
    const version = (name: string): string =>
      execFileSync(python, ['-c', `import ${name}; print(${name}.__version__.split('+')[0])`], {
        encoding: 'utf8',
      }).trim();
    const results = resultsSchema.parse({
      torch: version('torch'),
      transformers: version('transformers'),
      rows: [...rows, ...(await fixtureRows(work))],
    });
    writeFileSync(
      path.join(root, 'test/families/results.json'),
      `${JSON.stringify(results, undefined, 2)}\n`,
    );
    writeFileSync(path.join(root, 'docs/families.md'), familiesPage(results));
  });

await program.parseAsync();
