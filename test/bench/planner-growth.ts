import { parseArgs } from 'node:util';
import { invariant } from '../../src/errors.js';
import { checkPlan } from '../../src/runtime/planner/check.js';
import { flexSpModelCost } from '../../src/runtime/planner/flexsp-models.js';
import type { Solution } from '../../src/runtime/planner/solver.js';
import { ithacaSolver } from '../../src/runtime/planner/solvers/ithaca.js';
import { fitGrowth, type Measurement } from './growth.js';
import { CORPORA, drawLengths, type Corpus } from './planner-lengths.js';
import { median, printTable } from './table.js';

const RANKS = [16, 32, 64, 128, 256, 512, 1024];
const SEQUENCES = [128, 256, 512, 1024, 2048, 4096, 8192];
const CONTEXT = 384_000;

interface Point {
  readonly ranks: number;
  readonly sequences: number;
  readonly ms: number;
}

/**
 * Time of the default solver over ranks and sequences, and the exponents that fit it: ms ∝ ranks^a · sequences^b by
 * least squares of logarithms; and lines through it, with a fixed part. Lengths have the corpora's quantiles.
 */
export function benchPlannerGrowth(args: readonly string[] = []): void {
  const { values } = parseArgs({
    args: [...args],
    options: { repeats: { type: 'string', default: '1' }, most: { type: 'string', default: '1024' } },
  });
  const ranks = RANKS.filter((count) => count <= Number(values.most));
  warmUp();
  const points: Point[] = [];
  const rows = SEQUENCES.map((sequences) => [
    sequences.toLocaleString('en'),
    ...ranks.map((count) => {
      const ms = solveMs(count, sequences, Number(values.repeats));
      points.push({ ranks: count, sequences, ms });
      return Math.round(ms);
    }),
  ]);
  printTable(['sequences \\ ranks, CPU ms', ...ranks.map(String)], rows);
  const [byRanks, bySequences] = fitPlane(points);
  console.log(`\n  ms ∝ ranks^${byRanks.toFixed(2)} · sequences^${bySequences.toFixed(2)}`);
  printGrowth(
    '64 ranks',
    points
      .filter(({ ranks: count }) => count === 64)
      .map(({ sequences, ms }) => ({ n: sequences, cost: ms })),
  );
  for (const perRank of [8, 16])
    printGrowth(
      `${perRank} sequences a rank`,
      points
        .filter((point) => point.sequences === perRank * point.ranks)
        .map(({ sequences, ms }) => ({ n: sequences, cost: ms })),
    );
}

/** With a fixed part, which is most of the time of small batches. */
function printGrowth(what: string, points: readonly Measurement[]): void {
  if (points.length < 4) return;
  const { fixed, slope, exponent } = fitGrowth(points);
  const thousand = (slope * 1000 ** exponent).toFixed(1);
  console.log(
    `  ${what}: ${fixed.toFixed(1)} ms + ${thousand} ms · (sequences/1,000)^${exponent.toFixed(2)}`,
  );
}

/** Median over the corpora, of the processor's time: what else the machine does is left out. */
function solveMs(ranks: number, sequences: number, repeats: number): number {
  const model = flexSpModelCost('7b', { ranks, context: CONTEXT });
  const below = Math.min(CONTEXT, model.degrees.at(-1)!.capacity);
  const times: number[] = [];
  for (const corpus of Object.keys(CORPORA) as Corpus[])
    for (let seed = 0; seed < repeats; seed++) {
      const lengths = drawLengths(corpus, sequences, below, 128, seed);
      const begun = process.cpuUsage();
      const solution = ithacaSolver.solve(lengths, model) as Solution;
      const { user, system } = process.cpuUsage(begun);
      const [first] = checkPlan(solution.plan, lengths, model);
      invariant(first === undefined, `${corpus}, ${ranks} ranks: ${first?.message}`);
      times.push((user + system) / 1000);
    }
  return median(times);
}

/** The first plans of a process wait for the compiler of JavaScript. */
function warmUp(): void {
  for (let i = 0; i < 2; i++) solveMs(64, 512, 1);
}

const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / list.length;

/** Exponents over ranks and over sequences: the normal equations of two centred variables. */
function fitPlane(points: readonly Point[]): readonly [number, number] {
  const centred = (of: (point: Point) => number): number[] => {
    const logs = points.map((point) => Math.log(of(point)));
    const middle = mean(logs);
    return logs.map((log) => log - middle);
  };
  const dot = (a: readonly number[], b: readonly number[]): number =>
    a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const [x, y, z] = [centred((p) => p.ranks), centred((p) => p.sequences), centred((p) => p.ms)];
  const [xx, yy, xy, xz, yz] = [dot(x, x), dot(y, y), dot(x, y), dot(x, z), dot(y, z)];
  const determinant = xx * yy - xy * xy;
  return [(yy * xz - xy * yz) / determinant, (xx * yz - xy * xz) / determinant];
}
