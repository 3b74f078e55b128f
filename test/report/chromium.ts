import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium, type BrowserContext, type Page } from 'playwright-core';
import { expect, type TestContext } from 'vitest';

const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Debian's Chromium, or what ITHACA_CHROMIUM names. */
const executable = [process.env['ITHACA_CHROMIUM'] ?? '', ...PLACES].find(
  (file) => file !== '' && existsSync(file),
);

const MISSING = 'no Chromium: apt-get install -y chromium, or set ITHACA_CHROMIUM';

/** Skips a test where there is no browser, and says so; in CI it fails. */
export function needChromium(test: TestContext): void {
  if (executable !== undefined) return;
  if (process.env['CI'] === 'true') throw new Error(MISSING);
  process.stderr.write(`${test.task.name}: skipped, ${MISSING}\n`);
  test.skip(MISSING);
}

/** Runs `use` in a browser of its own, with an empty profile, without a network, in light or dark. */
async function inChromium(
  colorScheme: 'light' | 'dark',
  use: (browser: BrowserContext) => Promise<void>,
): Promise<void> {
  const profile = mkdtempSync(path.join(tmpdir(), 'ithaca-chromium-'));
  try {
    const browser = await chromium.launchPersistentContext(profile, {
      executablePath: executable!,
      colorScheme,
      offline: true,
      viewport: { width: 1280, height: 900 },
      args: [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    });
    try {
      await use(browser);
    } finally {
      await browser.close();
    }
  } finally {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

/**
 * Opens a page that is one file; anything the browser complains about, or asks of a network, fails the test.
 * @param ready selector of what is there once the page has drawn itself
 */
export async function usePage(
  html: string,
  ready: string,
  scheme: 'light' | 'dark',
  use: (page: Page) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-page-'));
  const file = path.join(folder, 'page.html');
  writeFileSync(file, html);
  try {
    await inChromium(scheme, async (browser) => {
      const page = await browser.newPage();
      const complaints: string[] = [];
      page.on('console', (message) => complaints.push(`${message.type()}: ${message.text()}`));
      page.on('pageerror', (error) => complaints.push(error.message));
      page.on('request', (request) => {
        if (!/^(file|data):/.test(request.url())) complaints.push(`asked for ${request.url()}`);
      });
      await page.goto(pathToFileURL(file).href);
      await page.waitForSelector(ready);
      await use(page);
      expect(complaints).toEqual([]);
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export const textOf = async (page: Page, selector: string): Promise<string> =>
  (await page.locator(selector).first().textContent()) ?? '';
