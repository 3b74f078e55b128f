/** The committed table of families is the one that the committed results give. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { modelFolder } from '../support/oracle.js';
import { GRADIENT_BAR, LOSS_BAR } from './tool/check.js';
import { familiesPage } from './tool/page.js';
import { readResults } from './tool/results.js';

const folder = path.join(modelFolder('.'), '..', 'families');
const results = readResults(path.join(folder, 'results.json'));

describe('docs/families.md', () => {
  test('is made of the results', () => {
    const page = readFileSync(path.join(folder, '..', '..', 'docs', 'families.md'), 'utf8');
    expect(page).toBe(familiesPage(results));
  });

  test('claims nothing beyond the bars', () => {
    for (const { outcome } of results.rows) {
      if (outcome.result === 'trains') {
        expect(outcome.lossError).toBeLessThanOrEqual(LOSS_BAR);
        expect(outcome.gradientError).toBeLessThanOrEqual(GRADIENT_BAR);
      } else expect(outcome.message.length).toBeGreaterThan(10);
    }
  });

  test('has a row for every family that is kept here', () => {
    const kept = readdirSync(folder).filter((name) => existsSync(path.join(folder, name, 'oracle.json')));
    expect(results.rows.flatMap(({ fixture }) => fixture ?? []).sort()).toEqual(kept.sort());
  });
});
