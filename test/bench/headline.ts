import { readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { UserError } from '../../src/errors.js';
import { readLengths } from '../../src/runtime/data/lengths/read.js';
import { restrictDegrees, type CostModel } from '../../src/runtime/planner/cost.js';
import { flexSpCluster, flexSpModelCost, flexSpModelWork } from '../../src/runtime/planner/flexsp-models.js';
import { physicalCost } from '../../src/runtime/planner/physical-cost.js';
import { drawBatches, type Drawn } from '../../src/runtime/planner/simulate/draw.js';
import { simulate, type SimulatedSolver } from '../../src/runtime/planner/simulate/run.js';
import { headlinePage } from './headline-page.js';
import { nameOf, SETTINGS, type Setting } from './headline-published.js';

const RANKS = 64;
const BATCH = 512;
/** FlexSP pads each sequence to a multiple of twice the ranks, and keeps what is shorter than the context by one more. */
const PAD = 2 * RANKS;

export interface HeadlineOptions {
  readonly batches: number;
  /** The first ones of them, planned by FlexSP's programmes too. */
  readonly flexSpBatches: number;
  readonly flexSpSeconds: number;
}

/** What the solvers make of one setting. Means over its batches. */
export interface Measured {
  readonly setting: Setting;
  readonly batches: number;
  readonly drawn: Pick<Drawn, 'kept' | 'dropped' | 'longest'>;
  /** Published degrees: static, adaptive, ithaca. */
  readonly all: readonly SimulatedSolver[];
  /** The first batches, degrees from 2 up: flexsp, ithaca. */
  readonly same: readonly SimulatedSolver[];
  /** ithaca's physical terms: ithaca with powers of two, and with any degree. */
  readonly physical: readonly SimulatedSolver[];
}

/**
 * FlexSP's headline comparison, by its own constants: `npm run bench headline -- --data DIR`, where DIR has the length
 * files that it published (`common_crawl*.txt`, `github*.txt`, `wikipedia*.txt`).
 */
export async function benchHeadline(args: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      data: { type: 'string' },
      batches: { type: 'string', default: '6' },
      'flexsp-batches': { type: 'string', default: '2' },
      'flexsp-seconds': { type: 'string', default: '10' },
      only: { type: 'string', default: '' },
      out: { type: 'string', default: path.join('docs', 'headline.md') },
    },
  });
  if (values.data === undefined) {
    console.log('  needs the length files that FlexSP published: npm run bench headline -- --data DIR');
    return;
  }
  const options: HeadlineOptions = {
    batches: Number(values.batches),
    flexSpBatches: Number(values['flexsp-batches']),
    flexSpSeconds: Number(values['flexsp-seconds']),
  };
  const corpora = new Map<string, readonly number[]>();
  for (const corpus of new Set(SETTINGS.map((setting) => setting.corpus)))
    corpora.set(corpus, await readLengths(corpusFile(values.data, corpus)));
  const measured: Measured[] = [];
  for (const setting of SETTINGS.filter((one) => nameOf(one).includes(values.only))) {
    const start = performance.now();
    const one = await measure(setting, corpora.get(setting.corpus)!, options);
    measured.push(one);
    const seconds = (performance.now() - start) / 1000;
    const steps = one.all.map(({ solver, stepMs }) => `${solver} ${(stepMs / 1000).toFixed(1)} s`);
    console.log(`  ${nameOf(setting)}: ${steps.join(', ')} (simulated in ${seconds.toFixed(0)} s)`);
  }
  await writeFile(values.out, headlinePage(measured, options));
  console.log(`  written to ${values.out}`);
}

function corpusFile(directory: string, corpus: string): string {
  const name = readdirSync(directory).find((one) => one.startsWith(corpus) && one.endsWith('.txt'));
  if (name === undefined)
    throw new UserError(`${directory} has no ${corpus}*.txt`, 'give the folder with --data');
  return path.join(directory, name);
}

async function measure(
  setting: Setting,
  lengths: readonly number[],
  { batches: count, flexSpBatches, flexSpSeconds }: HeadlineOptions,
): Promise<Measured> {
  const { model: name, context } = setting;
  const published = flexSpModelCost(name, { ranks: RANKS, context });
  const widest = published.degrees.at(-1)!.capacity;
  const drawn = drawBatches(lengths, {
    context: Math.min(context - PAD, widest),
    pad: PAD,
    size: BATCH,
    count: Math.min(count, Math.floor(lengths.length / BATCH)),
  });
  const { batches, longest } = drawn;
  const run = async (
    model: CostModel,
    list: readonly (readonly number[])[],
    solvers: readonly string[],
  ): Promise<readonly SimulatedSolver[]> =>
    (await simulate(list, model, { solvers, longest, seed: 0, flexSpMs: 1000 * flexSpSeconds })).solvers;
  const all = await run(published, batches, ['static', 'adaptive', 'ithaca']);
  const few = batches.slice(0, flexSpBatches);
  const same =
    few.length === 0
      ? []
      : await run(restrictDegrees(published, { minDegree: 2 }), few, ['flexsp', 'ithaca']);
  const cluster = flexSpCluster();
  const any = physicalCost(flexSpModelWork(name, { ranks: RANKS, context }, cluster), cluster);
  const [even] = await run(restrictDegrees(any, { powersOfTwo: true }), batches, ['ithaca']);
  const [every] = await run(any, batches, ['ithaca']);
  return { setting, batches: batches.length, drawn, all, same, physical: [even!, every!] };
}
