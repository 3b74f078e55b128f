import type { Page } from 'playwright-core';
import { describe, expect, test } from 'vitest';
import type { PlanData, PlanSource } from '../../src/report/plan-data.js';
import { planPage } from '../../src/report/plan-page.js';
import { quickBound } from '../../src/runtime/planner/bound/quick.js';
import type { Solution } from '../../src/runtime/planner/solver.js';
import { ithacaSolver } from '../../src/runtime/planner/solvers/ithaca.js';
import { flexSpModel, longTailed } from '../runtime/planner/models.js';
import { needChromium, textOf, usePage } from './chromium.js';

function sourceOf(ranks: number, title = `${ranks} ranks`): PlanSource {
  const model = flexSpModel(ranks);
  const lengths = longTailed(8 * ranks, Math.min(190_000, 5900 * ranks));
  const solution = ithacaSolver.solve(lengths, model, { moves: 2000 }) as Solution;
  const others = [{ solver: 'static', degree: 32, stepMs: 2 * solution.times.stepMs }];
  return { title, lengths, model, solution, boundMs: quickBound(lengths, model), others };
}

const open = (
  source: PlanSource,
  scheme: 'light' | 'dark',
  use: (page: Page) => Promise<void>,
): Promise<void> => usePage(planPage(source), '#against', scheme, use);

/** Colours of the picture along a line across, in shares of its width and height. */
const colorsAt = (page: Page, down: number): Promise<readonly string[]> =>
  page.evaluate<string[]>(`(() => {
    const picture = document.querySelector('#picture');
    const canvas = document.createElement('canvas');
    canvas.width = picture.width;
    canvas.height = 1;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(picture, 0, -Math.round(picture.height * ${down}));
    const row = context.getImageData(0, 0, canvas.width, 1).data;
    const colors = new Set();
    for (let i = 0; i < row.length; i += 4) colors.add(row.slice(i, i + 3).join());
    return [...colors];
  })()`);

describe('the page of a plan', () => {
  test.for([
    [64, 'light'],
    [1024, 'dark'],
  ] as const)(
    '%i ranks, %s: picture, legend, groups and what is in them',
    async ([ranks, scheme], context) => {
      needChromium(context);
      await open(sourceOf(ranks), scheme, async (page) => {
        const { microBatches, boundMs, stepMs } = JSON.parse(await textOf(page, '#data')) as PlanData;
        const groups = microBatches.flatMap((microBatch) => microBatch.groups);
        expect(Number((await textOf(page, '#groups')).replace(/,|\D.*$/g, ''))).toBeGreaterThan(0);
        expect(await page.getAttribute('#picture', 'aria-label')).toContain(
          `${groups.length.toLocaleString('en-US')} groups in ${microBatches.length} micro-batches on ${ranks.toLocaleString('en-US')} ranks`,
        );
        expect(await textOf(page, '#gap')).toContain(`${(100 * (stepMs / boundMs - 1)).toFixed(1)} %`);

        const degrees = new Set(groups.map((group) => group.degree));
        expect(await page.locator('#legend .degree').count()).toBe(degrees.size);
        expect(await textOf(page, '#legend')).toMatch(/idle.*fixed cost.*bound/);
        expect((await colorsAt(page, 0.5)).length).toBeGreaterThan(3);

        await page.locator('#picture').focus();
        await page.keyboard.press('ArrowRight');
        const [first] = groups;
        expect(await textOf(page, '#chosen h3')).toContain('Micro-batch 0');
        expect(await textOf(page, '#chosen .lengths')).toContain(first!.lengths[0]!.toLocaleString('en-US'));
        await page.keyboard.press('ArrowRight');
        expect(await textOf(page, '#chosen h3')).toContain('Micro-batch 1');

        for (const [m, microBatch] of microBatches.entries()) {
          await page.click(`#micro-${m} > summary`);
          await page.waitForSelector(`#micro-${m} tbody`);
          expect(await page.locator(`#micro-${m} tbody tr`).count()).toBe(microBatch.groups.length);
        }
        expect(await page.locator('.micro tbody tr').count()).toBe(groups.length);
        const last = groups.length - 1;
        await page.click(`#group-${last} button`);
        expect(await textOf(page, '#chosen')).toContain(groups[last]!.tokens.toLocaleString('en-US'));
        expect(await page.locator('tr.picked').getAttribute('id')).toBe(`group-${last}`);
        expect(await textOf(page, '#against')).toContain('2.000 ×');
      });
    },
  );

  test('points at a group, zooms into it and moves', async (context) => {
    needChromium(context);
    await open(sourceOf(64), 'light', async (page) => {
      const picture = page.locator('#picture');
      await picture.scrollIntoViewIfNeeded();
      const box = (await picture.boundingBox())!;
      const { microBatches, fixedMs, stepMs } = JSON.parse(await textOf(page, '#data')) as PlanData;
      const group = microBatches[0]!.groups[0]!;
      const at = 64 + ((fixedMs + group.ms / 2) / (stepMs * 1.005)) * (box.width - 64);
      await page.mouse.move(box.x + at, box.y + 22);
      expect(await textOf(page, '.tip')).toContain(`degree ${group.degree}`);
      await page.mouse.click(box.x + at, box.y + 22);
      expect(await textOf(page, '#chosen')).toContain(group.tokens.toLocaleString('en-US'));
      const before = await colorsAt(page, 0.3);
      for (let i = 0; i < 5; i++) await page.click('button[aria-label="Zoom in"]');
      const zoomed = await colorsAt(page, 0.3);
      expect(zoomed).not.toEqual(before);
      await page.mouse.move(box.x + 500, box.y + 200);
      await page.mouse.down();
      await page.mouse.move(box.x + 200, box.y + 100, { steps: 4 });
      await page.mouse.up();
      await page.click('button[aria-label="Show the whole plan"]');
      expect(await colorsAt(page, 0.3)).toEqual(before);
    });
  });

  test('a hostile title is shown, not run; a plan of nothing has a page', async (context) => {
    needChromium(context);
    const evil = '</script><script>console.error(1)</script><img src=x onerror=console.error(2)>';
    await open(sourceOf(8, evil), 'light', async (page) => {
      expect(await textOf(page, 'h1')).toBe(evil);
      expect(await page.locator('img, main script').count()).toBe(0);
    });
    const model = flexSpModel(8);
    const nothing = ithacaSolver.solve([], model) as Solution;
    await open(
      { title: 'none', lengths: [], model, solution: nothing, boundMs: 0, others: [] },
      'dark',
      async (page) => {
        expect(await textOf(page, '#groups')).toContain('0');
      },
    );
  });
});
