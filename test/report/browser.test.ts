import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import { exchangesOf } from '../../src/cli/exchanges.js';
import { formatBytes } from '../../src/cli/output.js';
import { reportPage } from '../../src/report/report.js';
import type { ReportSource } from '../../src/report/data.js';
import { lowered } from '../support/lowered.js';
import { modelFolder } from '../support/oracle.js';
import { needChromium, textOf, usePage } from './chromium.js';
import { layeredSource, sourceOfLowered } from './layered.js';

const open = (
  source: ReportSource,
  scheme: 'light' | 'dark',
  use: (page: Page) => Promise<void>,
): Promise<void> => usePage(reportPage(source), '#parameters', scheme, use);

/** Sets S and P. */
async function choose(page: Page, tokens: number, degree: number): Promise<void> {
  await page.fill('#tokens', String(tokens));
  await page.fill('#degree', String(degree));
}

test('llama: layers open, numbers follow S and P, memory is drawn', async (context) => {
  needChromium(context);
  const source = sourceOfLowered(await lowered(modelFolder('llama')));
  const { program } = source.programs.get('train')!;
  await open(source, 'light', async (page) => {
    expect(await page.locator('.section').count()).toBe(4);
    expect(await page.locator('.section .phase').count()).toBe(0);
    await page.click('#section-1 > summary');
    await page.waitForSelector('#section-1 .phase.backward');
    expect(await page.locator('.section .phase').count()).toBe(2);
    const exchange = page.locator('#section-1 .collective').first();
    expect(await exchange.textContent()).toContain('attention wants its tokens whole');
    expect(await exchange.locator('.split.tokens').first().textContent()).toBe('S@sp');
    expect(await exchange.locator('.split.heads').first().textContent()).toBe('8@sp');

    await choose(page, 1000, 3);
    const bytes = exchangesOf(program, { tokens: 1000, degree: 3 });
    expect(await textOf(page, '#section-1 .collective .sent')).toBe(formatBytes(bytes[0]!.bytes));
    const total = bytes.reduce((sum, e) => sum + e.bytes, 0);
    expect(await textOf(page, '#exchanged')).toBe(formatBytes(total));
    const before = await Promise.all(
      ['#compute', '#exchanged', '#live-memory'].map((id) => textOf(page, id)),
    );
    await page.locator('#tokens-range').focus();
    await page.keyboard.press('ArrowRight');
    const after = await Promise.all(['#compute', '#exchanged', '#live-memory'].map((id) => textOf(page, id)));
    after.forEach((value, i) => expect(value).not.toBe(before[i]));
    await choose(page, 1000, 1);
    expect(await textOf(page, '#exchanged')).toBe('0 B');

    const area = await page.locator('.picture .area').getAttribute('d');
    expect(area!.match(/V/g)).toHaveLength(program.instructions.length + 1);
    await page.locator('#memory .tabs button', { hasText: 'eval' }).click();
    expect(await page.locator('.picture .area').getAttribute('d')).not.toBe(area);
    expect(await page.locator('#memory .detail tbody tr').count()).toBeGreaterThan(0);
  });
});

test('32 layers: opens in seconds, fills a layer when it is opened, in the dark', async (context) => {
  needChromium(context);
  await open(layeredSource(32), 'dark', async (page) => {
    expect(await page.locator('.section').count()).toBe(34);
    expect(await page.locator('.section table').count()).toBe(0);
    expect(await textOf(page, '#section-20 .name em')).toBe('≡ layer 0');
    await page.click('#section-20 > summary');
    await page.waitForSelector('#section-20 .phase.backward');
    expect(await textOf(page, '#section-20 .name')).toContain('model.layers.19');
    expect(await textOf(page, '#section-20 .instruction em')).toMatch(/shared by 3\d instructions/);
    await choose(page, 100_000, 8);
    expect(await textOf(page, '.row-of')).toContain('13 documents of up to 7693 tokens');
    const changed = await page.evaluate<number>(`(() => {
      const started = performance.now();
      const input = document.querySelector('#degree');
      input.value = '5';
      input.dispatchEvent(new Event('input'));
      return performance.now() - started;
    })()`);
    expect(changed).toBeLessThan(2000);
    await page.click('button:text("open all")');
    await page.waitForSelector('#section-33 .phase');
    expect(await page.locator('.section .phase.backward').count()).toBe(34);

    const box = (await page.locator('.picture svg').boundingBox())!;
    const early = await detailAt(page, box.x + box.width * 0.15);
    const middle = await detailAt(page, box.x + box.width * 0.53);
    expect(middle).not.toBe(early);
    const color = await page.evaluate('getComputedStyle(document.body).backgroundColor');
    expect(color).toBe('rgb(20, 22, 25)');
    await page.fill('#parameters input', 'layers.7.');
    expect(await page.locator('#parameters tbody tr').count()).toBe(7);
  });
});

/** What the picture says of the instruction at a place. */
async function detailAt(page: Page, x: number): Promise<string> {
  const picture = page.locator('.picture svg');
  await picture.scrollIntoViewIfNeeded();
  const box = (await picture.boundingBox())!;
  await page.mouse.move(x, box.y + box.height / 2);
  return textOf(page, '#memory .at');
}

test('hostile names are shown, not run', async (context) => {
  needChromium(context);
  const evil = '</script><script>console.error(1)</script><img src=x onerror=console.error(2)>\u202e';
  const source = layeredSource(2, { rename: (name) => `${evil}${name}`, model: evil, notes: [evil] });
  await open(source, 'light', async (page) => {
    await page.click('button:text("open all")');
    await page.waitForSelector('#section-3 .phase');
    expect(await page.locator('img, main script').count()).toBe(0);
    expect(await textOf(page, 'h1')).toBe(evil.replace('\u202e', '\\u202e'));
    expect(await textOf(page, '#section-1 .loc')).toContain('<img src=x onerror=console.error(2)>');
  });
});
