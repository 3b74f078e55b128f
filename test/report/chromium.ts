import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium, type BrowserContext } from 'playwright-core';
import type { TestContext } from 'vitest';

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
export async function inChromium(
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
