import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';
import { expect, test } from 'vitest';
import { headlinePage } from './headline-page.js';
import type { Measured } from './headline.js';
import { nameOf, publishedOf, SETTINGS } from './headline-published.js';
import type { SimulatedSolver } from '../../src/runtime/planner/simulate/run.js';

const row = (solver: string, stepMs: number): SimulatedSolver => ({
  solver,
  stepMs,
  speedUp: 1,
  idle: 0.02,
  exchange: 0.1,
  solveMs: { median: 12, max: 40 },
  gap: 0.031,
  cutShort: 0,
  degree: 32,
});

const measured = SETTINGS.map((setting): Measured => ({
  setting,
  batches: 6,
  drawn: { kept: 10, dropped: 1, longest: 9 },
  all: [row('static', 24_000), row('adaptive', 20_000), row('ithaca', 12_000)],
  same: [row('flexsp', 12_600), row('ithaca', 12_000)],
  physical: [row('ithaca', 12_000), row('ithaca', 11_400)],
}));

test('the published figures are whole, and ordered as the paper says', () => {
  expect(new Set(SETTINGS.map(nameOf)).size).toBe(18);
  for (const setting of SETTINGS) {
    const { deepSpeed, bestDegree, flexSp } = publishedOf(setting);
    expect(flexSp).toBeLessThan(bestDegree);
    expect(bestDegree).toBeLessThan(deepSpeed);
  }
});

test('the page has a row a setting, says whose corpora are heads, and is laid out as the repository wants it', async () => {
  const page = headlinePage(measured, { batches: 6, flexSpBatches: 2, flexSpSeconds: 1 });
  expect(page).toContain('CommonCrawl and GitHub are heads of the published files');
  expect(page).toMatch(
    /\| 7B 192K github +\| +24\.0 \(32\) \| +20\.0 \| +\*\*12\.00\*\* \| +2\.00 × \|.* 28\.7 \|/,
  );
  expect(page).toMatch(/\| 30B 384K wikipedia +\| +12\.60 \| +0\.0 s \| +12\.00 \| +0\.04 s \| +1\.050 × \|/);
  expect(page).toMatch(/\| 13B 384K github +\| +12\.00 \| +11\.40 \| +5\.0 % \|/);
  const options = await resolveConfig(fileURLToPath(import.meta.url));
  expect(await format(page, { ...options, parser: 'markdown' })).toBe(page);
});
