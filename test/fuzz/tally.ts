/** Tallies of runs as files, and what they come to together. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { VERSION } from '../../src/version.js';
import { MAX_CPU_MS, MAX_GROWTH_BYTES } from './pool.js';
import type { Counts, Summary } from './run.js';

interface Tally extends Omit<Summary, 'findings'> {
  readonly version: string;
  readonly seed: number;
  readonly findings: number;
}

export function saveTally(folder: string, seed: number, summary: Summary): void {
  const tally: Tally = { version: VERSION, seed, ...summary, findings: summary.findings.length };
  writeFileSync(path.join(folder, `tally-${seed}.json`), `${JSON.stringify(tally, undefined, 2)}\n`);
}

const HEADING = ['edits', 'cases', 'compiled', 'refused in one line', 'faults'];

/** A page about all tallies of this version in a folder. */
export function tallyPage(folder: string): string {
  const tallies = readdirSync(folder)
    .filter((name) => /^tally-\d+\.json$/.test(name))
    .map((name) => JSON.parse(readFileSync(path.join(folder, name), 'utf8')) as Tally)
    .filter(({ version }) => version === VERSION)
    .sort((a, b) => a.seed - b.seed);
  const sum = (of: (tally: Tally) => number): number => tallies.reduce((total, t) => total + of(t), 0);
  const most = (of: (tally: Tally) => number): number => Math.max(0, ...tallies.map(of));
  const families = [...new Set(tallies.flatMap((t) => Object.keys(t.families)))];
  const row = (name: string, of: (tally: Tally) => Counts | undefined): string[] => [
    name,
    ...(['runs', 'compiled', 'refused', 'faults'] as const).map((key) =>
      String(sum((t) => of(t)?.[key] ?? 0)),
    ),
  ];
  const rows = [...families.map((name) => row(name, (t) => t.families[name])), row('all', (t) => t)];
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const seeds = tallies.map(({ seed, runs }) => `${seed} to ${seed + runs - 1}`).join(', ');
  const traced = sum((t) => (t.strangers === undefined ? 0 : t.runs));
  const strangers = tallies.flatMap((t) => t.strangers ?? []);
  return `# Hostile models

Damaged and hostile models, compiled by ithaca ${VERSION} under watch: \`npm run fuzz\`; this page is made by
\`npm run fuzz -- --report docs/fuzzing.md\`. A compiled model's graphs are verified, its package is written, opened and
compared. A fault is a crash, more than ${MAX_CPU_MS / 1000} s on the processor or ${MAX_GROWTH_BYTES >> 20} MiB,
a file opened outside the model's folder, an error that is not one line, a package that does not open, or logits other
than ONNX Runtime's.

${[line(HEADING), line(HEADING.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')}

- Seeds ${seeds}.
- Runs are added up by version, not by commit. Faults are what these runs found: each was put right afterwards, and its
  case is in \`test/fuzz/regressions.test.ts\`.
- Compiled models whose logits were compared with ONNX Runtime's: ${sum((t) => t.compared)}.
- Most memory a case took: ${Math.ceil(most((t) => t.mostGrownBytes) / 2 ** 20)} MiB.
- Cases whose every opened file was seen by strace: ${traced}; files outside: ${strangers.length === 0 ? 'none' : strangers.join(', ')}.
  Not counted as outside: the program itself, and \`/usr\`, \`/lib\`, \`/sys\`, \`/proc\` but for \`/proc/self/mem\`.
`;
}
