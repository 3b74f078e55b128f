import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { readProblems } from '../../src/runtime/planner/problem.js';
import { median, printTable } from './table.js';

/*
 * Planning in a process that has planned nothing yet: `ithaca plan --problem FILE --id ID --json` for every batch, as
 * a user runs it:
 *
 *     npm run bench -- planner-cold --problem batches.json [--only text] [--min-degree 2]
 */
const { values: args } = parseArgs({
  options: {
    problem: { type: 'string' },
    only: { type: 'string', default: '' },
    'min-degree': { type: 'string', default: '1' },
  },
});

interface Answer {
  readonly step_ms: number;
  readonly bound_ms: number;
  readonly solve_ms: number;
  readonly bound_spent_ms: number;
}

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');
const file = args.problem;
if (file === undefined) throw new Error('which problem file? --problem batches.json');

const byRanks = new Map<number, { solve: number[]; wall: number[] }>();
const rows: string[][] = [];
for (const { id, cost } of readProblems(file).filter((problem) => problem.id.includes(args.only))) {
  const command = ['plan', '--problem', file, '--id', id, '--min-degree', args['min-degree'], '--json'];
  const start = performance.now();
  const text = execFileSync(process.execPath, [path.join(root, 'bin', 'ithaca.js'), ...command], {
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
  });
  const wall = performance.now() - start;
  const answer = JSON.parse(text) as Answer;
  const known = byRanks.get(cost.ranks) ?? { solve: [], wall: [] };
  byRanks.set(cost.ranks, known);
  known.solve.push(answer.solve_ms);
  known.wall.push(wall);
  const gap = `${(100 * (answer.step_ms / answer.bound_ms - 1)).toFixed(1)} %`;
  const times = [answer.solve_ms, answer.bound_spent_ms, wall].map((ms) => ms.toFixed(0));
  rows.push([id, answer.step_ms.toFixed(0), answer.bound_ms.toFixed(0), gap, ...times]);
}
printTable(['batch', 'step ms', 'bound ms', 'gap', 'solve ms', 'of the bound', 'process ms'], rows);
for (const [ranks, { solve, wall }] of byRanks)
  console.log(
    `${ranks} ranks: median solve ${median(solve).toFixed(0)} ms, process ${median(wall).toFixed(0)} ms`,
  );
