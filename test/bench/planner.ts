import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { invariant } from '../../src/errors.js';
import { searchBound } from '../../src/runtime/planner/bound/bound.js';
import { quickBound } from '../../src/runtime/planner/bound/quick.js';
import { checkPlan } from '../../src/runtime/planner/check.js';
import { restrictDegrees, type CostModel } from '../../src/runtime/planner/cost.js';
import { flexSpCost } from '../../src/runtime/planner/flexsp-cost.js';
import { openProgramSolver } from '../../src/runtime/planner/highs/client.js';
import { readProblems } from '../../src/runtime/planner/problem.js';
import type { Solution } from '../../src/runtime/planner/solver.js';
import { createFlexSpSolver } from '../../src/runtime/planner/solvers/flexsp.js';
import { adaptiveSolver } from '../../src/runtime/planner/solvers/homogeneous.js';
import { ithacaSolver } from '../../src/runtime/planner/solvers/ithaca.js';
import { drawLengths, type Corpus } from './planner-lengths.js';

/*
 * Planners compared, by FlexSP's cost model:
 *
 *     npm run bench -- planner                                  batches drawn from the corpora's quantiles, growth
 *     npm run bench -- planner --problem batches.json [--baseline baseline.json] [--only text]
 *                                     [--bound-seconds 60] [--flexsp-seconds 10]
 */
const { values: args } = parseArgs({
  options: {
    problem: { type: 'string' },
    baseline: { type: 'string' },
    only: { type: 'string', default: '' },
    /** Offline search for the bound, for each batch. */
    'bound-seconds': { type: 'string', default: '0' },
    /** Limit of one of FlexSP's programmes on HiGHS; 0 leaves it out. */
    'flexsp-seconds': { type: 'string', default: '0' },
  },
});

interface Batch {
  readonly id: string;
  readonly lengths: readonly number[];
  readonly cost: CostModel;
  /** What other planners reach, by method. */
  readonly known: ReadonlyMap<string, number>;
}

const percent = (ratio: number): string => `${(100 * (ratio - 1)).toFixed(2)}%`;
const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / Math.max(1, list.length);
const median = (list: readonly number[]): number => list.toSorted((a, b) => a - b)[list.length >> 1] ?? 0;

function plan(batch: Batch, minDegree: number): { model: CostModel; solution: Solution } {
  const model = restrictDegrees(batch.cost, { minDegree, powersOfTwo: true });
  const solution = ithacaSolver.solve(batch.lengths, model) as Solution;
  const findings = checkPlan(solution.plan, batch.lengths, model);
  invariant(findings.length === 0, `${batch.id}: ${findings[0]?.message}`);
  return { model, solution };
}

/** One line a batch, then the averages. */
async function compare(batches: readonly Batch[]): Promise<void> {
  const boundMs = 1000 * Number(args['bound-seconds']);
  const flexMs = 1000 * Number(args['flexsp-seconds']);
  const solver = boundMs > 0 ? openProgramSolver() : undefined;
  const gains = { two: [] as number[], one: [] as number[], single: [] as number[] };
  const byRanks = new Map<number, { ms: number[]; quick: number[]; searched: number[] }>();
  console.log(
    'batch | FlexSP | one degree | d≥2: step, FlexSP/ours | d≥1: step, FlexSP/ours, solve ms | bound, gap',
  );
  for (const batch of batches) {
    const { solution: two, model: restricted } = plan(batch, 2);
    const { model, solution: one } = plan(batch, 1);
    const single = Math.min(
      batch.known.get('batchada_balanced') ?? Infinity,
      (adaptiveSolver.solve(batch.lengths, model) as Solution).times.stepMs,
    );
    let flexsp = batch.known.get('flexsp_scip') ?? batch.known.get('flexsp_scip_extended');
    if (flexMs > 0) {
      const here = await createFlexSpSolver().solve(batch.lengths, restricted, { limitMs: flexMs });
      flexsp = Math.min(flexsp ?? Infinity, here.times.stepMs);
    }
    const quick = quickBound(batch.lengths, model);
    const row = byRanks.get(model.ranks) ?? { ms: [], quick: [], searched: [] };
    byRanks.set(model.ranks, row);
    row.ms.push(one.solveMs);
    row.quick.push(one.times.stepMs / quick);
    let bound = quick;
    if (solver !== undefined) {
      const best = Math.min(one.times.stepMs, two.times.stepMs);
      bound = (await searchBound(batch.lengths, model, solver, { limitMs: boundMs, knownMs: best })).ms;
      row.searched.push(best / bound);
    }
    gains.single.push(single / one.times.stepMs);
    if (flexsp !== undefined) {
      gains.two.push(flexsp / two.times.stepMs);
      gains.one.push(flexsp / one.times.stepMs);
    }
    const against = (step: number): string => (flexsp === undefined ? '–' : percent(flexsp / step));
    console.log(
      [
        batch.id,
        flexsp?.toFixed(0) ?? '–',
        single.toFixed(0),
        `${two.times.stepMs.toFixed(0)}, ${against(two.times.stepMs)}`,
        `${one.times.stepMs.toFixed(0)}, ${against(one.times.stepMs)}, ${one.solveMs.toFixed(0)}`,
        `${bound.toFixed(0)}, ${percent(one.times.stepMs / bound)}`,
      ].join(' | '),
    );
  }
  await solver?.close();
  const least = (list: readonly number[]): string => percent(list.reduce((a, b) => Math.min(a, b), Infinity));
  if (gains.two.length > 0) {
    console.log(
      `FlexSP against d≥2, ${gains.two.length} batches: mean ${percent(mean(gains.two))}, least ${least(gains.two)}`,
    );
    console.log(`FlexSP against d≥1: mean ${percent(mean(gains.one))}, least ${least(gains.one)}`);
  }
  console.log(`one degree, balanced, against d≥1: least ${least(gains.single)}`);
  for (const [ranks, row] of byRanks) {
    const searched = row.searched.length > 0 ? `, searched ${percent(mean(row.searched))}` : '';
    console.log(
      `${ranks} ranks: median ${median(row.ms).toFixed(0)} ms; mean gap: quick bound ${percent(mean(row.quick))}${searched}`,
    );
  }
}

function readBatches(file: string): readonly Batch[] {
  interface Result {
    readonly batch: string;
    readonly method: string;
    readonly step_ms?: number;
  }
  const results =
    args.baseline === undefined
      ? []
      : (JSON.parse(readFileSync(args.baseline, 'utf8')) as { readonly results: readonly Result[] }).results;
  return readProblems(file)
    .filter(({ id }) => id.includes(args.only))
    .map(({ id, lengths, cost }) => ({
      id,
      lengths,
      cost,
      known: new Map(
        results.filter((r) => r.batch === id && r.step_ms !== undefined).map((r) => [r.method, r.step_ms!]),
      ),
    }));
}

/** FlexSP's 7B at 384K on some ranks; its bandwidths end at degree 64. */
function model7b(ranks: number): CostModel {
  return flexSpCost({
    name: `7b on ${ranks}`,
    ranks,
    ranksPerNode: 8,
    degrees: [1, 2, 4, 8, 16, 32, 64].filter((d) => d <= ranks),
    attentionMsPerToken2: 5.128e-6,
    linearMsPerToken: 0.1839576,
    microBatchMs: 629.3563,
    exchangeMibPerToken: 2,
    bandwidth: new Map([
      [2, 119.54],
      [4, 104.07],
      [8, 96.5],
      [16, 10.33],
      [32, 5.94],
      [64, 4.87],
    ]),
    tokensPerRank: 5950,
    stateBytes: 0,
    activationBytesPerToken: 1,
    memoryLimitBytes: 5950,
  });
}

/** Solve time over ranks and over sequences, and the exponents of both. */
function growth(): void {
  const time = (ranks: number, sequences: number): number => {
    const cost = model7b(ranks);
    const below = Math.min(384_000, 5900 * Math.min(64, ranks));
    return median(
      (['common_crawl', 'github', 'wikipedia'] satisfies Corpus[]).map((corpus, seed) => {
        const lengths = drawLengths(corpus, sequences, below, 128, seed);
        return plan({ id: `${corpus} on ${ranks}`, lengths, cost, known: new Map() }, 1).solution.solveMs;
      }),
    );
  };
  time(64, 512);
  const exponent = (sizes: readonly number[], times: readonly number[]): number =>
    Math.log(times.at(-1)! / times[0]!) / Math.log(sizes.at(-1)! / sizes[0]!);
  const ranks = [64, 128, 256, 512, 1024];
  const both = ranks.map((n) => time(n, 8 * n));
  console.log('ranks, 8 sequences each | solve ms');
  ranks.forEach((n, i) => console.log(`${n} | ${both[i]!.toFixed(0)}`));
  console.log(`exponent over ranks and sequences together: ${exponent(ranks, both).toFixed(2)}`);
  const sequences = [256, 512, 1024, 2048, 4096];
  const alone = sequences.map((n) => time(64, n));
  console.log('sequences on 64 ranks | solve ms');
  sequences.forEach((n, i) => console.log(`${n} | ${alone[i]!.toFixed(0)}`));
  console.log(`exponent over sequences: ${exponent(sequences, alone).toFixed(2)}`);
}

if (args.problem !== undefined) await compare(readBatches(args.problem));
else {
  const drawn = (['common_crawl', 'github', 'wikipedia'] satisfies Corpus[]).flatMap((corpus) =>
    [16, 64].map((ranks): Batch => ({
      id: `${corpus} on ${ranks}, drawn`,
      lengths: drawLengths(corpus, 8 * ranks, Math.min(192_000, 5900 * ranks), 128, 1),
      cost: model7b(ranks),
      known: new Map(),
    })),
  );
  await compare(drawn);
  growth();
}
