import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { UserError } from '../../src/errors.js';
import { openPackage, type Package } from '../../src/package/read.js';
import type { Document } from '../../src/runtime/data/document.js';
import type { CostChoices } from '../../src/runtime/planner/ahead/cost.js';
import { calibrate } from '../../src/runtime/planner/calibrate/calibrate.js';
import { workOf } from '../../src/runtime/planner/work.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { autoSpreader } from '../../src/train/auto.js';
import { train } from '../../src/train/loop.js';
import { startRun } from '../../src/train/open.js';
import type { StepMetrics } from '../../src/train/run-directory.js';
import { settingsOf } from '../../src/train/settings.js';
import { fixedSpreader, type BatchPlan, type Spreader } from '../../src/train/spreader.js';
import { drawLengths } from './planner-lengths.js';
import { mebibytes, median, printTable } from './table.js';

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');

const BATCHES = 3;
const DOCUMENTS = 40;
/** Lengths with the tail of Wikipedia's, a quarter as long: the model is a small one. */
const lengthsOf = (seed: number): number[] =>
  drawLengths('wikipedia', DOCUMENTS, 12_000, 4, seed).map((length) => length / 4);
const ROUNDS = 3;
const CALIBRATION_SECONDS = 20;

function documentsOf(lengths: readonly number[], vocabulary: number): Document[] {
  return lengths.map((length, d): Document => {
    const ids = Int32Array.from({ length }, (_, i) => (i * 7919 + d) % vocabulary);
    return { ids, labels: Int32Array.from(ids, (_, i) => ids[i + 1] ?? -100), origin: 'bench' };
  });
}

interface Contestant {
  readonly name: string;
  /** `[batch]`. */
  readonly plans: readonly BatchPlan[];
}

/** What one step of every batch takes: all batches together. */
interface Cost {
  /** Sum over micro-batches of the time that the busiest rank spent on a core. */
  readonly cpuMs: number;
  readonly wallMs: number;
}

async function plansOf(spreader: Spreader, batches: readonly Document[][]): Promise<readonly BatchPlan[]> {
  try {
    return await Promise.all(batches.map((documents) => spreader.plan(documents)));
  } finally {
    await spreader.close();
  }
}

/** Every degree that the ranks can form groups of and that has room for the documents, and groups that are chosen. */
async function contestants(
  pkg: Package,
  choices: CostChoices,
  batches: readonly Document[][],
): Promise<readonly Contestant[]> {
  const { ranks } = choices;
  const found: Contestant[] = [];
  for (let sp = 1; sp <= Math.min(ranks, pkg.manifest.maxDegree); sp++) {
    if (ranks % sp !== 0) continue;
    try {
      found.push({ name: `degree ${sp}`, plans: await plansOf(fixedSpreader(pkg, sp, choices), batches) });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      console.log(`  degree ${sp}: ${error.message}`);
    }
  }
  const onFallback = (why: string): void => console.log(`  ${why}`);
  const spreader = await autoSpreader(pkg, { ...choices, seed: 0, onFallback });
  return [...found, { name: 'auto', plans: await plansOf(spreader, batches) }];
}

/** Contestants take turns, so that whatever else the machine does hits all of them; medians of each batch. */
async function race(pkg: Package, ranks: number, all: readonly Contestant[]): Promise<readonly Cost[]> {
  const session = await TrainingSession.open(pkg, { ranks });
  const seen = all.map(({ plans }) => plans.map(() => ({ cpu: [] as number[], wall: [] as number[] })));
  try {
    for (let round = 0; round <= ROUNDS; round++)
      for (let batch = 0; batch < BATCHES; batch++)
        for (const [c, { plans }] of all.entries()) {
          const { ms, microBatches } = await session.step(plans[batch]!.microBatches, { lr: 1e-6, step: 0 });
          if (round === 0) continue;
          seen[c]![batch]!.wall.push(ms);
          seen[c]![batch]!.cpu.push(microBatches.reduce((sum, { cpuMs }) => sum + (cpuMs ?? NaN), 0));
        }
  } finally {
    await session.close();
  }
  return seen.map((batches) => ({
    cpuMs: batches.reduce((sum, { cpu }) => sum + median(cpu), 0),
    wallMs: batches.reduce((sum, { wall }) => sum + median(wall), 0),
  }));
}

const groupsOf = ({ plans }: Contestant): string => {
  const counts = new Map<number, number>();
  for (const { microBatches } of plans)
    for (const { lanes } of microBatches)
      for (const { ranks, documents } of lanes)
        if (documents.length > 0) counts.set(ranks.length, (counts.get(ranks.length) ?? 0) + 1);
  return [...counts]
    .sort(([a], [b]) => b - a)
    .map(([degree, count]) => `${count}×${degree}`)
    .join(' ');
};

const batchesOf = ({ manifest }: Package): Document[][] =>
  Array.from({ length: BATCHES }, (_, seed) => documentsOf(lengthsOf(seed + 1), manifest.vocabulary));

async function compare(pkg: Package, choices: CostChoices, what: string): Promise<void> {
  const all = await contestants(pkg, choices, batchesOf(pkg));
  const costs = await race(pkg, choices.ranks, all);
  const auto = costs.at(-1)!;
  const rows = all.map((one, c): (string | number)[] => [
    one.name,
    one.plans.reduce((sum, { microBatches }) => sum + microBatches.length, 0),
    groupsOf(one),
    Math.round(one.plans.reduce((sum, { predicted }) => sum + predicted.objectiveMs, 0)),
    Math.round(costs[c]!.cpuMs),
    costs[c]!.cpuMs / auto.cpuMs,
    Math.round(costs[c]!.wallMs),
    costs[c]!.wallMs / auto.wallMs,
  ]);
  console.log(`  ${what}`);
  printTable(
    ['', 'micro-batches', 'groups', 'predicted ms', 'busiest rank, CPU ms', '/ auto', 'wall ms', '/ auto'],
    rows,
  );
  const best = (of: keyof Cost): string =>
    (Math.min(...costs.slice(0, -1).map((cost) => cost[of])) / auto[of]).toFixed(2);
  console.log(`  best degree / auto: CPU of the busiest rank ${best('cpuMs')}, wall ${best('wallMs')}\n`);
}

/** Memory in which the longest document needs so many ranks. */
function memoryFor(pkg: Package, ranks: number, degree: number): number {
  const longest = Math.max(...batchesOf(pkg).flatMap((batch) => batch.map(({ ids }) => ids.length)));
  return workOf(pkg, ranks).peakBytes(degree, longest) / 2 ** 30;
}

/** How long ranks wait for plans in a run, the first plan left out: it has no step to hide behind. */
async function exposure(pkg: Package, scratch: string): Promise<void> {
  const lengths = Array.from({ length: 8 }, (_, seed) => lengthsOf(seed + 1)).flat();
  writeFileSync(
    path.join(scratch, 'tail.jsonl'),
    documentsOf(lengths, pkg.manifest.vocabulary)
      .map(({ ids }) => JSON.stringify({ input_ids: [...ids] }))
      .join('\n'),
  );
  const flags = {
    data: ['tail.jsonl'],
    ranks: 8,
    sp: 'auto',
    steps: 12,
    batchTokens: 8000,
    saveEvery: 99,
  } as const;
  const steps: StepMetrics[] = [];
  const run = await startRun(
    pkg,
    path.join(scratch, 'run'),
    settingsOf({ ...flags, data: [...flags.data] }, parseConfig({}, 'bench'), scratch),
    {
      reporter: {
        onStep: (step) => steps.push(step),
        onSave: () => {},
        onNote: (note) => console.log(`  ${note}`),
      },
      isStopped: () => false,
    },
  );
  try {
    await train(run);
  } finally {
    await run.close();
  }
  const later = steps.slice(1);
  const sum = (of: (step: StepMetrics) => number): number =>
    later.reduce((total, step) => total + of(step), 0);
  console.log(
    `  a run of ${steps.length} steps: ranks waited ${sum((s) => s.plan_wait_ms).toFixed(1)} ms for plans in ${sum((s) => s.ms).toFixed(0)} ms of steps ` +
      `(planning took ${median(later.map(({ plan }) => plan!.solve_ms)).toFixed(0)} ms a step, median; ` +
      `gap to the bound at most ${(100 * Math.max(...later.map(({ plan }) => plan!.gap!))).toFixed(1)} %)`,
  );
}

/** `--sp auto` against every static degree on the same long-tailed documents. */
export async function benchAuto(): Promise<void> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-bench-'));
  try {
    const out = path.join(scratch, 'llama.ithaca');
    const model = path.join(root, 'test/models/llama/model.onnx');
    await compileModel(model, out, { config: parseConfig({}, 'bench'), weights: true, replace: true });
    const pkg = await openPackage(out);
    const documents = `${BATCHES} batches of ${DOCUMENTS} documents`;
    for (const ranks of [8, 2]) {
      const calibration = await calibrate(pkg, { ranks, seconds: CALIBRATION_SECONDS });
      await compare(pkg, { ranks, calibration }, `${ranks} ranks, ${documents}`);
      if (ranks === 2) continue;
      const memoryGibPerRank = memoryFor(pkg, ranks, 6);
      const room = `${mebibytes(memoryGibPerRank * 2 ** 30)} a rank: the longest document needs 6 of them`;
      await compare(pkg, { ranks, calibration, memoryGibPerRank }, `${ranks} ranks, ${documents}, ${room}`);
    }
    await exposure(pkg, scratch);
    console.log('  ratios above 1: auto is better. Wall time means something where each rank has a core.');
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
