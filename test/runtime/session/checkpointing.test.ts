import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openPackage, type Package } from '../../../src/package/read.js';
import { trainProgramsOf } from '../../../src/package/manifest.js';
import type { MicroBatchPlan } from '../../../src/runtime/session/plan.js';
import { TrainingSession } from '../../../src/runtime/session/session.js';
import { loadOracle, modelFolder } from '../../support/oracle.js';
import { compiledModel, documentsOf, packageFolder } from './packages.js';

/** One package, several train programs: groups that stand side by side may run different ones. */

const { folder, remove } = packageFolder();
const oracle = loadOracle(modelFolder('llama'));
const [one, other] = Object.keys(oracle.json.cases)
  .slice(0, 2)
  .map((name) => documentsOf(oracle.documents(name)));
let pkg: Package;
let session: TrainingSession;

beforeAll(async () => {
  pkg = await compiledModel(folder, 'llama', { checkpoint: ['layers', 'cheap', 'none'] });
  session = await TrainingSession.open(pkg, { ranks: 3 });
});
afterAll(async () => {
  await session.close();
  remove();
});

const plan = (first: string, second: string): readonly MicroBatchPlan[] => [
  {
    lanes: [
      { ranks: [0, 1], documents: one!, program: first },
      { ranks: [2], documents: other!, program: second },
    ],
  },
];

it('programs stand from what runs least again to what keeps least', () => {
  expect(pkg.manifest.checkpoint).toEqual([
    { policy: 'none', program: 'train' },
    { policy: 'cheap', program: 'train_cheap' },
    { policy: 'layers', program: 'train_layers' },
  ]);
  expect(pkg.manifest.programs).toEqual(['train', 'train_cheap', 'train_layers', 'eval', 'update']);
});

it('gradients do not depend on the program, bit for bit', async () => {
  const expected = await session.gradients(plan('train', 'train'));
  const programs = trainProgramsOf(pkg.manifest);
  for (const [i, first] of programs.entries()) {
    const { gradients, lossSum } = await session.gradients(plan(first, programs.at(i - 1)!));
    expect(lossSum).toBe(expected.lossSum);
    expect(gradients).toEqual(expected.gradients);
  }
});

it('a program that gives other values is refused', async () => {
  const file = path.join(pkg.directory, 'manifest.json');
  const manifest = readFileSync(file, 'utf8');
  try {
    writeFileSync(file, manifest.replace('"program": "train_layers"', '"program": "eval"'));
    await expect(openPackage(pkg.directory)).rejects.toThrow('eval');
  } finally {
    writeFileSync(file, manifest);
  }
});
